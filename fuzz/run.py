#!/usr/bin/env python3
"""Builds the fuzz targets and runs each; prints one line for each.

    fuzz/run.py [--runs N] [--seconds S] [TARGET ...]

TARGET is a message such as FetchRequest, `frame`, `batch`: those of the wire, each for N executions; or a
structure of the disk such as `checkpoint`, `segment`, `decompress-zstd`, each for S seconds, since a recovery
takes a thousand times as long as a decode. `wire` and `disk` are all of a kind; all by default.

Seeds come from the samples of the round-trip tests and from what the log itself writes, and from the folders
of regressions. What a run finds grows in `fuzz/work/`, which is not committed; an input that breaks something
is kept in `fuzz/artifacts/TARGET/`. The exit code is 1 when any target broke, or ran for less than was asked
for. Every run is bounded by RUN_TIMEOUT_S.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time
import typing

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


class Kind(typing.NamedTuple):
    """Targets that get their seeds and are run alike."""

    package: str
    example: str
    seeds: str
    regressions: str

    def write_seeds(self) -> list[str]:
        """The names of the targets: there is a folder of seeds for each."""
        seeds = WORK / self.seeds
        shutil.rmtree(seeds, ignore_errors=True)
        subprocess.run(
            ["cargo", "run", "--quiet", "--package", self.package, "--example", self.example, "--", str(seeds)],
            cwd=ROOT,
            check=True,
        )
        return sorted(folder.name for folder in seeds.iterdir())


WIRE = Kind("tidelog-net", "fuzz_seeds", "seeds", "regressions")
DISK = Kind("tidelog-core", "storage_fuzz_seeds", "seeds-storage", "regressions-storage")


def run(programs: pathlib.Path, kind: Kind, target: str, bound: str) -> tuple[int, float, int]:
    """Executions done, seconds, and inputs that broke the target."""
    found, artifacts = WORK / "found" / target, FUZZ / "artifacts" / target
    for folder in (found, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    inputs = [found, WORK / kind.seeds / target, FUZZ / kind.regressions / target]
    if kind is DISK:
        program = "structure"
    else:
        program = target if target in ("frame", "batch") else "message"
    before = set(artifacts.iterdir())
    started = time.monotonic()
    result = subprocess.run(
        [
            programs / program, *(folder for folder in inputs if folder.is_dir()),
            bound, f"-max_len={INPUT_BYTES_MAX}", f"-artifact_prefix={artifacts}/",
            "-print_final_stats=1", "-verbosity=1",
            *([] if kind is DISK else [f"-max_total_time={RUN_TIMEOUT_S}"]),
        ],
        env={**os.environ, "TIDELOG_FUZZ_MESSAGE": target, "TIDELOG_FUZZ_STRUCTURE": target},
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


def chosen(named: list[str], known: dict[str, Kind]) -> list[str]:
    """The targets that were asked for; `wire` and `disk` are all of a kind."""
    groups = {"wire": WIRE, "disk": DISK}
    unknown = sorted(set(named) - set(known) - set(groups))
    if unknown:
        sys.exit(f"error: no target {', '.join(unknown)}; there are wire, disk, {', '.join(known)}")
    targets: list[str] = []
    for name in named or groups:
        targets += [target for target in known if known[target] is groups.get(name)] or [name]
    return targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target of the wire")
    parser.add_argument("--seconds", type=int, default=60, help="seconds for each target of the disk")
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    if not 1 <= options.seconds <= RUN_TIMEOUT_S:
        sys.exit(f"error: --seconds is from 1 to {RUN_TIMEOUT_S}")
    programs = build()
    known = {target: kind for kind in (WIRE, DISK) for target in kind.write_seeds()}
    short = failed = 0
    print(f"{'target':<34} {'executions':>10} {'seconds':>8} {'crashes':>7}", flush=True)
    for target in chosen(options.targets, known):
        is_timed = known[target] is DISK
        bound = f"-max_total_time={options.seconds}" if is_timed else f"-runs={options.runs}"
        executions, seconds, broken = run(programs, known[target], target, bound)
        print(f"{target:<34} {executions:>10} {seconds:>8.1f} {broken:>7}", flush=True)
        failed += broken
        enough = seconds >= options.seconds and executions > 0 if is_timed else executions >= options.runs
        short += broken == 0 and not enough
    if short:
        print(f"{short} targets ran for less than was asked for")
    return 1 if failed or short else 0


if __name__ == "__main__":
    sys.exit(main())
