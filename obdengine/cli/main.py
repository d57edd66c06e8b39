# SPDX-License-Identifier: Apache-2.0
"""
main - the command `obd`: which commands there are, and how each of them ends.

    0   fine                     2   asked wrongly
    1   failed                   3   the image is damaged

Whatever goes wrong is one sentence on standard error. A signal, or a reader
that went away, ends `obd` as it would end a program that had not caught it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import ClassVar

import click

from obdengine.cli.output import printable
from obdengine.errors import FormatError, ObdError, UsageError

__all__ = ["main", "obd", "run"]

_FAILED, _ASKED_WRONGLY, _DAMAGED = 1, 2, 3


class _Stopped(BaseException):
    """A signal that asks for the end has come; temporary files are to go."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


# Each command is imported when it is asked for: `obd doctor` has to work where
# the rest of the engine does not.
def _info() -> click.Command:
    from obdengine.cli.info import info

    return info


def _check() -> click.Command:
    from obdengine.cli.check import check

    return check


def _map() -> click.Command:
    from obdengine.cli.map import map_

    return map_


def _convert() -> click.Command:
    from obdengine.cli.convert import convert

    return convert


def _create() -> click.Command:
    from obdengine.cli.create import create

    return create


def _commit() -> click.Command:
    from obdengine.cli.commit import commit

    return commit


def _seal() -> click.Command:
    from obdengine.cli.seal import seal

    return seal


def _merge() -> click.Command:
    from obdengine.cli.merge import merge

    return merge


def _resize() -> click.Command:
    from obdengine.cli.resize import resize

    return resize


def _compact() -> click.Command:
    from obdengine.cli.compact import compact

    return compact


def _snapshot() -> click.Command:
    from obdengine.cli.snapshot import snapshot

    return snapshot


def _serve() -> click.Command:
    from obdengine.cli.serve import serve

    return serve


def _push() -> click.Command:
    from obdengine.cli.transfer import push

    return push


def _pull() -> click.Command:
    from obdengine.cli.transfer import pull

    return pull


def _copy() -> click.Command:
    from obdengine.cli.transfer import copy

    return copy


def _cache() -> click.Command:
    from obdengine.cli.cache import cache

    return cache


def _trace() -> click.Command:
    from obdengine.cli.trace import trace

    return trace


def _attach() -> click.Command:
    from obdengine.cli.attach import attach

    return attach


def _detach() -> click.Command:
    from obdengine.cli.attach import detach

    return detach


def _ps() -> click.Command:
    from obdengine.cli.attach import ps

    return ps


def _mount() -> click.Command:
    from obdengine.cli.mount import mount

    return mount


def _umount() -> click.Command:
    from obdengine.cli.mount import umount

    return umount


def _manager() -> click.Command:
    from obdengine.cli.manager import manager

    return manager


def _vm() -> click.Command:
    from obdengine.cli.vm import vm

    return vm


def _doctor() -> click.Command:
    from obdengine.cli.doctor import doctor

    return doctor


class _Commands(click.Group):
    loaders: ClassVar[dict[str, Callable[[], click.Command]]] = {
        "info": _info,
        "check": _check,
        "map": _map,
        "convert": _convert,
        "create": _create,
        "commit": _commit,
        "seal": _seal,
        "merge": _merge,
        "resize": _resize,
        "compact": _compact,
        "snapshot": _snapshot,
        "serve": _serve,
        "push": _push,
        "pull": _pull,
        "copy": _copy,
        "cache": _cache,
        "trace": _trace,
        "attach": _attach,
        "detach": _detach,
        "ps": _ps,
        "mount": _mount,
        "umount": _umount,
        "manager": _manager,
        "vm": _vm,
        "doctor": _doctor,
    }

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.loaders)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        loader = self.loaders.get(name)
        return loader() if loader else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="obdengine", prog_name="obd")
@click.option("--debug", is_flag=True, help="Show where in the program it failed.")
def obd(debug: bool) -> None:
    """Layered block-device images: look at them, make, write and serve them."""


def main() -> None:
    """Run the command line of this process and end it with the right code."""
    if "_OBD_COMPLETE" in os.environ:
        obd(prog_name="obd")
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _stop)
    try:
        code = run(sys.argv[1:])
    except (KeyboardInterrupt, click.Abort):
        _die_by(signal.SIGINT)
    except _Stopped as stopped:
        _die_by(stopped.signum)
    except BrokenPipeError:
        _die_by(signal.SIGPIPE)
    _forget_unwritten()
    sys.exit(code)


# Python writes what is left once more at exit, and if that fails the exit code
# is 120: a full disk has been reported by now.
def _forget_unwritten() -> None:
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Raises KeyboardInterrupt, _Stopped and BrokenPipeError for the caller.
    """
    debug = False
    try:
        with obd.make_context("obd", list(args)) as context:
            debug = context.params["debug"]
            code = obd.invoke(context)
            _flush()
            return code or 0
    except click.exceptions.Exit as done:
        _flush()
        return done.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)


# Here and not at exit, so that a full disk is an error with a sentence.
def _flush() -> None:
    if sys.stdout:  # None after `obd ... >&-`
        sys.stdout.flush()


def _report(error: Exception) -> int:
    sentence, code = _explain(error)
    click.echo(f"obd: {printable(sentence)}", err=True)
    return code


def _explain(error: Exception) -> tuple[str, int]:
    match error:
        case click.UsageError():
            return _usage(error), _ASKED_WRONGLY
        case click.ClickException():
            return error.format_message(), _FAILED
        case UsageError():
            return str(error), _ASKED_WRONGLY
        case FormatError():
            return str(error), _DAMAGED
        case ObdError():
            return str(error), _FAILED
        case OSError(filename=str() as name):
            return f"{name}: {error.strerror}", _FAILED
        case OSError():
            return error.strerror or str(error), _FAILED
        case MemoryError():
            return "there is not enough memory", _FAILED
    kind = type(error).__name__
    return (
        f"this is a bug, please report it: {kind}: {error} (see obd --debug)",
        _FAILED,
    )


def _usage(error: click.UsageError) -> str:
    sentence = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else "obd"
    return f"{sentence} (see {path} --help)"


def _stop(signum: int, _frame: FrameType | None) -> None:
    raise _Stopped(signum)


# The parent must see that the signal ended us: a shell loop goes on after an
# exit code of 130 and stops after a death by SIGINT.
def _die_by(signum: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
