# SPDX-License-Identifier: Apache-2.0
"""
run - both fuzzers for a while: `run.py --seconds N [--only core|readers]`.

The corpus grows under build/fuzz/ from run to run. An input that breaks
something is put into tests/fuzz/regressions/, where the tests replay it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Run as a script, the first entry is this folder.
sys.path[0] = str(ROOT)

from tests.c import build  # noqa: E402
from tests.fuzz import seeds  # noqa: E402

HERE = ROOT / "tests" / "fuzz"
WORK = ROOT / "build" / "fuzz"
SEEDS = {"core": seeds.for_core, "readers": seeds.for_readers}

# One input may take a second and a GiB under the sanitizers, not more.
LIMITS = [
    "-timeout=20",
    "-rss_limit_mb=2048",
    "-max_len=200000",
    "-print_final_stats=1",
]


def missing(target: str) -> str | None:
    """Say what is not here that target needs, or None."""
    if target == "core":
        return None if shutil.which("clang") else "clang is not installed"
    if importlib.util.find_spec("atheris") is None:
        return "atheris is not installed: pip install atheris"
    return None


def command(target: str) -> list[str]:
    """Return how to start target; libFuzzer's options and folders follow."""
    if target == "readers":
        return [sys.executable, "-m", "tests.fuzz.guided"]
    return [str(build.program("fuzz", [HERE / "core.c"]))]


def fuzz(target: str, seconds: int) -> bool:
    """Run target for so long; True when nothing broke."""
    corpus, found = WORK / target / "corpus", WORK / target / "found"
    found.mkdir(parents=True, exist_ok=True)
    seeds.write(corpus, SEEDS[target]())
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", *LIMITS]
    known = HERE / "regressions" / target
    folders = [str(corpus), *([str(known)] if known.is_dir() else [])]
    log = WORK / target / "log"
    with log.open("wb") as out:
        done = subprocess.run(
            [*command(target), *options, *folders],
            stdout=out,
            stderr=out,
            cwd=ROOT,
            check=False,
        )
    said = [line for line in log.read_text(errors="replace").splitlines() if line]
    tail = [line for line in said if line.startswith("stat::number_of_executed")]
    print(f"{target}: {seconds} s, {tail[-1] if tail else 'did not run'}", flush=True)
    kept = [keep(target, path) for path in sorted(found.iterdir())]
    if done.returncode or kept:
        print("\n".join(said[-40:]))
    return done.returncode == 0 and not kept


def keep(target: str, path: Path) -> Path:
    """Move an input that broke something to the regressions, and say so."""
    name = f"{path.name.partition('-')[0]}-{_digest(path)}"
    kept = HERE / "regressions" / target / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, kept)
    print(f"{target}: broke on {kept}")
    return kept


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def main() -> int:
    """Fuzz what can be fuzzed here; 1 when something broke or may not be missing."""
    parser = argparse.ArgumentParser(description="Fuzz the core and the readers.")
    parser.add_argument("--seconds", type=int, default=60, help="for each fuzzer")
    parser.add_argument("--only", choices=sorted(SEEDS))
    args = parser.parse_args()
    fine = True
    for target in [args.only] if args.only else sorted(SEEDS):
        reason = missing(target)
        if reason is None:
            fine = fuzz(target, args.seconds) and fine
        else:
            print(f"{target}: skipped, {reason}")
            fine = fine and os.environ.get("OBD_NO_SKIP") != "1"
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
