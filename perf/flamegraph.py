"""Where the broker's time goes under one load: a flame graph and a table of symbols.

Needs `perf` and release builds. The load is that of perf/compare.py, and so are the cores.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import compare

PERF_HZ = 1999
LOADS = {
    "produce": ["produce"],
    "consume": ["consume"],
    "requests": ["requests", "--connections", "64"],
}


def record(running: compare.PinnedBroker, arguments: argparse.Namespace, data: pathlib.Path) -> None:
    topic = ["--topic", "profile", "--create", "--partitions", str(arguments.partitions)]
    if arguments.load == "consume":
        compare.load("produce", running.bootstrap, None, *topic, "--bytes", 512 << 20)
    mode, *shape = LOADS[arguments.load]
    seconds = ["--seconds", str(arguments.seconds + 1)]
    command = ["taskset", "-c", compare.LOAD_CORE, str(compare.LOAD), mode, "-b", running.bootstrap]
    load = subprocess.Popen([*command, *topic, *shape, *seconds], stdout=subprocess.DEVNULL)
    try:
        subprocess.run(
            [
                "perf", "record", "-q", "-e", "cpu-clock", "-g", "-F", str(PERF_HZ),
                "-p", str(running.pid), "-o", str(data), "--", "sleep", str(arguments.seconds),
            ],
            check=True,
        )  # fmt: skip
        if load.wait(compare.LOAD_TIMEOUT_S) != 0:
            raise SystemExit(f"the load ended with {load.returncode}")
    finally:
        if load.poll() is None:
            load.kill()
            load.wait()


def draw(title: str, data: pathlib.Path, out: pathlib.Path) -> None:
    svg, table = out.with_suffix(".svg"), out.with_suffix(".md")
    script = subprocess.Popen(["perf", "script", "-i", str(data)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    command = [str(compare.RELEASE / "perf-flamegraph"), "--title", title, "--svg", str(svg), "--table", str(table)]
    drawn = subprocess.run(command, stdin=script.stdout, check=False)
    script.stdout.close()
    if drawn.returncode != 0 or script.wait() != 0:
        raise SystemExit(f"{shlex.join(command)}: exit {drawn.returncode}, perf script {script.returncode}")
    print(table.read_text())
    print(f"written to {svg} and {table}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--durability", choices=("os", "fsync"), default="os")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=pathlib.Path, default=None, help="without suffix; default target/flamegraph/LOAD")
    arguments = parser.parse_args()
    if shutil.which("perf") is None:
        parser.error("perf is not installed (Debian: apt-get install linux-perf)")
    compare.Options.data_root = compare.ROOT / "target"
    out = arguments.out or compare.ROOT / "target" / "flamegraph" / arguments.load
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.with_suffix(".perf.data")
    with compare.broker(arguments.shards, arguments.durability) as running:
        record(running, arguments, data)
    title = f"{arguments.load}, {arguments.partitions} partitions, {arguments.durability}, {compare.git('rev-parse', '--short', 'HEAD')}"
    draw(title, data, out)
    os.unlink(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
