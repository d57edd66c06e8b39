# SPDX-License-Identifier: Apache-2.0
"""
patience - how long something is tried again, and how long is waited in between.

What may pass (a lost connection, a server that is busy) is raised as Passing;
every other error ends the task. No loop goes on past the deadline.
"""

from __future__ import annotations

import random
import time
from errno import ETIMEDOUT

from obdengine.errors import SourceError, TimedOut

__all__ = ["Passing", "Patience"]

# Seconds. The first pause is short, because a server that restarts, or a
# connection that was idle for too long, is back at once.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Passing(Exception):
    """Something failed that may work in a moment.

    Attributes:
        error: what to raise when it does not.
        after: seconds that the server asked to wait, or None.
        at_once: whether the next try needs no pause.
    """

    def __init__(
        self, error: SourceError, after: float | None = None, *, at_once: bool = False
    ) -> None:
        """Say what failed, and what the server says of a next try."""
        super().__init__(str(error))
        self.error, self.after, self.at_once = error, after, at_once


class Patience:
    """The tries of one task.

    Attributes:
        end: the deadline, a time of time.monotonic().
    """

    def __init__(self, end: float, attempts: int | None) -> None:
        """Allow so many tries in a row without progress; None: until end."""
        self.end = end
        self._began = time.monotonic()
        self._attempts = attempts
        self._failed = self._pauses = 0

    def progress(self) -> None:
        """Note that the last try has brought something."""
        self._failed = 0

    def pause(self, failure: Passing) -> None:
        """Wait for the next try, or raise the error because there is none.

        Raises TimedOut when the deadline is too near, failure.error after the
        last try.
        """
        self._failed += 1
        if self._attempts is not None and self._failed >= self._attempts:
            raise failure.error
        seconds = self._seconds(failure)
        if time.monotonic() + seconds >= self.end:
            raise self.timed_out(failure.error) from failure.error
        time.sleep(seconds)

    def timed_out(self, last: SourceError) -> TimedOut:
        """Return the error of a deadline that has passed; last: what failed last."""
        asked = time.monotonic() - self._began
        return TimedOut(
            f"{last.args[0]}; given up after {asked:.1f} s",
            errno=ETIMEDOUT,
            hint=last.hint,
        )

    def _seconds(self, failure: Passing) -> float:
        if failure.after is not None:
            return failure.after
        self._pauses += 1  # of which there is no end to be: progress or not
        if failure.at_once and self._pauses == 1:
            return 0.0
        pause = _FIRST_PAUSE * 2 ** min(self._pauses - 1, 10)
        # Many readers that lost one server must not come back all at once.
        return float(min(pause, _LONGEST_PAUSE) * random.uniform(0.5, 1.0))
