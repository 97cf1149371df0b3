#!/usr/bin/env python3
"""Builds the fuzz targets and runs each for a number of executions; prints one line for each.

    fuzz/run.py [--runs N] [TARGET ...]     TARGET: a message such as FetchRequest, `frame`, `batch`; all by default

Seeds come from the samples of the round-trip tests, and from `regressions/`. What a run finds grows in
`fuzz/work/`, which is not committed; an input that breaks something is kept in `fuzz/artifacts/TARGET/`. The
exit code is 1 when any target broke. Every run is bounded by its executions and by RUN_TIMEOUT_S.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

FUZZ = pathlib.Path(__file__).resolve().parent
ROOT = FUZZ.parent
WORK = FUZZ / "work"
CARGO_FUZZ_VERSION = "0.13.2"
RUN_TIMEOUT_S = 1800
# Longer inputs find no more in these decoders and cost executions.
INPUT_BYTES_MAX = 4096


def build() -> pathlib.Path:
    """Builds without a sanitizer: this crate forbids unsafe code, and the bounds are asserted by the targets."""
    if shutil.which("cargo-fuzz") is None:
        subprocess.run(
            ["cargo", "install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION], check=True
        )
    subprocess.run(["cargo", "+nightly", "fuzz", "build", "-s", "none", "--fuzz-dir", "."], cwd=FUZZ, check=True)
    programs = sorted(FUZZ.glob("target/*/release/message"))
    if not programs:
        sys.exit(f"error: cargo fuzz left no program in {FUZZ}/target")
    return programs[0].parent


def write_seeds() -> list[str]:
    seeds = WORK / "seeds"
    shutil.rmtree(seeds, ignore_errors=True)
    subprocess.run(
        ["cargo", "run", "--quiet", "--package", "tidelog-net", "--example", "fuzz_seeds", "--", str(seeds)],
        cwd=ROOT,
        check=True,
    )
    return sorted(folder.name for folder in seeds.iterdir())


def run(programs: pathlib.Path, target: str, runs: int) -> tuple[int, float, int]:
    """Executions done, seconds, and inputs that broke the target."""
    found, artifacts = WORK / "found" / target, FUZZ / "artifacts" / target
    for folder in (found, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    inputs = [found, WORK / "seeds" / target, FUZZ / "regressions" / target]
    program = target if target in ("frame", "batch") else "message"
    before = set(artifacts.iterdir())
    started = time.monotonic()
    result = subprocess.run(
        [
            programs / program, *(folder for folder in inputs if folder.is_dir()),
            f"-runs={runs}", f"-max_len={INPUT_BYTES_MAX}", f"-artifact_prefix={artifacts}/",
            f"-max_total_time={RUN_TIMEOUT_S}", "-print_final_stats=1", "-verbosity=1",
        ],
        env={**os.environ, "TIDELOG_FUZZ_MESSAGE": target},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - started
    said = result.stdout.decode(errors="replace")
    done = [line.split()[-1] for line in said.splitlines() if line.startswith("stat::number_of_executed_units")]
    broken = len(set(artifacts.iterdir()) - before)
    if result.returncode != 0:
        broken = max(broken, 1)
        print("\n".join(said.splitlines()[-40:]), flush=True)
    return int(done[0]) if done else 0, seconds, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target")
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    programs, known = build(), write_seeds()
    unknown = sorted(set(options.targets) - set(known))
    if unknown:
        sys.exit(f"error: no target {', '.join(unknown)}; there are {', '.join(known)}")
    short = failed = 0
    print(f"{'target':<34} {'executions':>10} {'seconds':>8} {'crashes':>7}", flush=True)
    for target in options.targets or known:
        executions, seconds, broken = run(programs, target, options.runs)
        print(f"{target:<34} {executions:>10} {seconds:>8.1f} {broken:>7}", flush=True)
        failed += broken
        short += broken == 0 and executions < options.runs
    if short:
        print(f"{short} targets ran fewer than {options.runs} executions within {RUN_TIMEOUT_S} s")
    return 1 if failed or short else 0


if __name__ == "__main__":
    sys.exit(main())
