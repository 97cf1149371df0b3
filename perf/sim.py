#!/usr/bin/env python3
"""Runs the simulations of the log over many seeds, going on where the last run ended, and keeps the book.

    perf/sim.py [--seeds N] [--first SEED] [TEST ...]

TEST is one of those in SIMULATIONS; all by default. Each test runs its share of N seeds (its negative controls
too), and one line of it goes to the end of perf/results/simulation-seeds.txt: when, at which commit, the first
seed and the number of seeds, and the verdict. A commit with a `+` had changes in its work tree. The exit code is
1 when a test failed; its output is printed then, and names the seed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BOOK = ROOT / "perf/results/simulation-seeds.txt"
HEAD = "# date, commit, test, first seed, number of seeds, verdict; written by perf/sim.py\n"
LINE = re.compile(r"^\S+ \S+ (?P<test>\S+) (?P<first>\d+) (?P<count>\d+) (?P<verdict>passed|failed)$")
# How many seeds of the number asked for a test gets: those that cut the power after each step take longer.
SIMULATIONS = {
    "acked_batches_survive_faults": 1,
    "journal_survives_faults": 1,
    "log_behaves_like_a_vec": 1,
    "log_start_survives_power_cuts": 20,
    "mirrored_logs_keep_their_offsets": 4,
    "retention_survives_power_cuts": 200,
    "truncation_survives_power_cuts": 200,
}


def next_seed(lines: list[str], test: str) -> int:
    """The one behind all that were run."""
    found = filter(None, map(LINE.match, lines))
    ends = [int(line["first"]) + int(line["count"]) for line in found if line["test"] == test]
    return max(ends, default=0)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str:
    # Lines of the book itself change nothing that is tested.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{BOOK.relative_to(ROOT)}")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def simulate(test: str, first: int, count: int) -> bool:
    command = ["cargo", "test", "-q", "-p", "tidelog-segment-log", "--release", "--test", test, "--", "--nocapture"]
    seeds = {"TIDELOG_SIM_FIRST_SEED": str(first), "TIDELOG_SIM_SEEDS": str(count)}
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | seeds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0:
        print(result.stdout, flush=True)
    return result.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, help="the first seed [default: where the last run of the test ended]")
    parser.add_argument("tests", nargs="*", metavar="TEST", help=", ".join(SIMULATIONS))
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds is {arguments.seeds}: at least one seed has to run")
    unknown = [test for test in arguments.tests if test not in SIMULATIONS]
    if unknown:
        parser.error(f"no simulation is called {unknown[0]}; there are {', '.join(SIMULATIONS)}")
    all_passed = True
    for test in arguments.tests or SIMULATIONS:
        lines = BOOK.read_text().splitlines() if BOOK.exists() else []
        first = next_seed(lines, test) if arguments.first is None else arguments.first
        count = -(-arguments.seeds // SIMULATIONS[test])
        passed = simulate(test, first, count)
        all_passed &= passed
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
        line = f"{now} {commit()} {test} {first} {count} {'passed' if passed else 'failed'}\n"
        with BOOK.open("a") as book:
            book.write(line if lines else HEAD + line)
        print(line, end="", flush=True)
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
