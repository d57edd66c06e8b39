# SPDX-License-Identifier: Apache-2.0
"""
judge - a program that mounts what a disk holds after a cut, and reads the image in it.

    python -m tests.power_fs.judge REQUEST

It needs a mount namespace of its own. REQUEST is a file with the JSON of a
Request; the verdict is printed as JSON. Each state is mounted, so that the file
system recovers; then the image is opened as anybody would, judged by plan.py,
written to and opened again. At the end the file system must be found sound.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from obdengine.errors import ObdError
from tests.power_fs import plan
from tests.power_fs.recording import MARK, SECTOR, Entry, Log, Medium
from tests.power_fs.workload import open_writable

# What finds out, without a repair, whether a file system is sound.
CHECKERS = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n", "-f"],
    "btrfs": ["btrfs", "check", "--force"],
}

# Violations that are told; the first ones say what went wrong.
TOLD = 20


@dataclass(frozen=True)
class Request:
    """What shall be judged.

    Attributes:
        disk: the disk, with what was on it before the first entry of
        log: its record, which is cut at many points; or, without one, with
            what was on it at the end, and
        diary: the claims that go with that.
        work: a folder for files as large as the disk, and for the mount.
        system: kind of the file system.
        folder: where the image is in the file system.
        base, form, seed: as the workload had them.
        states: how many cuts of the log shall be tried, about.
        chance: what the choice of cuts starts from.
    """

    disk: str
    work: str
    system: str
    folder: str
    base: str
    form: str
    seed: int
    log: str = ""
    diary: str = ""
    states: int = 50
    chance: int = 1


@dataclass
class Verdict:
    """What was found.

    Attributes:
        states: how many were tried.
        barriers: of these, those just after a flush or a write with FUA.
        wrong: what broke the rules, a sentence each.
        repaired: records that were stepped over at opening, in all states.
        claimed: the highest number of durable steps that a state had to have.
    """

    states: int = 0
    barriers: int = 0
    wrong: list[str] = field(default_factory=list)
    repaired: int = 0
    claimed: int = 0


def main() -> None:
    """Judge what the request says."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    verdict = Verdict()
    scratch = Path(request.work) / "scratch.img"
    if request.log:
        for name, words in cuts(request, scratch, verdict):
            judge_state(request, scratch, name, words, verdict)
    else:
        words = Path(request.diary).read_text().split()
        judge_state(request, Path(request.disk), "the disk", words, verdict)
    verdict.wrong = verdict.wrong[:TOLD]
    print(json.dumps(asdict(verdict)))


# -- States


def cuts(
    request: Request, scratch: Path, verdict: Verdict
) -> Iterator[tuple[str, list[str]]]:
    """Yield a name and the marks so far of each cut, whose disk is in scratch."""
    chance = Random(request.chance)
    log = Log(Path(request.log))
    medium = Medium(Path(request.disk))
    wanted = chosen(list(log), request.states, chance)
    words: list[str] = []
    for entry in log:
        if entry.flags & MARK:
            words.append(entry.mark)
        else:
            medium.tell(entry, log.data(entry))
        if entry.number in wanted:
            verdict.barriers += entry.is_barrier
            share = 0.0 if entry.is_barrier else chance.choice((0, 0.3, 0.7, 1))
            copy_state(medium, scratch, chance, share)
            yield f"cut after entry {entry.number}, {share} of the cache kept", words
    medium.close()
    log.close()


def chosen(entries: list[Entry], number: int, chance: Random) -> set[int]:
    """Return the entries after which to cut: half of them after a barrier.

    Nothing is of interest before the first claim but that it can be opened.
    """
    first = next((e.number for e in entries if e.mark == plan.MADE), len(entries))
    early = chance.sample(range(first), min(first, number // 10))
    barriers = [e.number for e in entries[first:] if e.is_barrier]
    others = [e.number for e in entries[first:] if not e.is_barrier]
    found = {len(entries) - 1} if entries else set()
    for group in (barriers, others):
        found |= set(chance.sample(group, min(len(group), number // 2)))
    return found | set(early)


def copy_state(medium: Medium, scratch: Path, chance: Random, share: float) -> None:
    """Put what a cut leaves into scratch."""
    subprocess.run(["cp", "--sparse=always", medium.path, scratch], check=True)
    with scratch.open("r+b") as opened:
        for write in medium.survivors(chance, share):
            opened.seek(write.start * SECTOR)
            opened.write(write.data)


# -- Judging one


def judge_state(
    request: Request, disk: Path, name: str, words: list[str], verdict: Verdict
) -> None:
    """Mount a disk and judge the image in it by what was claimed."""
    verdict.states += 1
    made, claims = plan.latest(words)
    try:
        with mounted(disk, request) as root:
            wrong = judge_image(request, root / request.folder, made, claims, verdict)
    except (ObdError, OSError, subprocess.SubprocessError) as error:
        wrong = [describe(error)]
    if not wrong:
        wrong = unsound(request.system, disk)
    verdict.wrong += [f"{name}: {sentence}" for sentence in wrong]
    verdict.claimed = max(verdict.claimed, sum(claim.durable for claim in claims))


def judge_image(
    request: Request,
    folder: Path,
    made: bool,
    claims: list[plan.Claim],
    verdict: Verdict,
) -> list[str]:
    """Open the image, read it, write to it, and open it again."""
    if made and not (folder / "config.v1.json").exists():
        return ["the image is gone"]
    base, changed = Path(request.base), b"\xa5" * SECTOR
    with open_writable(folder, base, request.form) as device:
        assert device.upper is not None
        verdict.repaired += device.upper.facts().damaged
        disk = device.pread(0, device.size)
        wrong = plan.judge(request.seed, claims, disk)
        device.pwrite(0, changed)
    with open_writable(folder, base, request.form) as device:
        if device.pread(0, device.size) != changed + disk[SECTOR:]:
            wrong.append("opened again it is another disk")
    return wrong


@contextmanager
def mounted(disk: Path, request: Request) -> Iterator[Path]:
    """Yield where the file system is mounted."""
    root = Path(request.work) / "mounted"
    root.mkdir(exist_ok=True)
    run("mount", "-t", request.system, "-o", "loop", disk, root)
    try:
        yield root
    finally:
        run("umount", root)


def unsound(system: str, disk: Path) -> list[str]:
    """Return what the file system's checker has to say."""
    done = subprocess.run([*CHECKERS[system], disk], capture_output=True, text=True)
    return [] if done.returncode == 0 else [done.stdout[-500:] + done.stderr[-500:]]


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def describe(error: Exception) -> str:
    """Return what went wrong, with what a program said."""
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
    return f"{type(error).__name__}: {error} {said}".strip()


if __name__ == "__main__":
    main()
