"""The broker beside the speed of light: the same load on both, in turn, several rounds, medians and ratios.

The server under load has core 0 and the load generator core 1 (two shards: both cores for the server, so only
CPU per record and context switches per record are comparable there). Every run has a server and a data
directory of its own, on the disk that holds --data-root; directories are removed after the run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci" / "e2e"))

from lib import RELEASE, Broker  # noqa: E402

LOAD = RELEASE / "tidelog-load"
LIGHT = RELEASE / "speed-of-light"
LOOP = RELEASE / "shard-loop"
SERVER_CORE, LOAD_CORE = "0", "1"
LOAD_TIMEOUT_S = 300.0
STARTS = 9
IDLE_S = 10.0
LATENCY_SPIN_US = 1_000
LATENCY_RATE = 2_000
# Of `speed-of-light append --add`.
APPEND_EXTRAS = ("entry", "pad", "writeback", "map")
SPIN_US = 50
# What the loop may cost beside a bare ring, and how long a request may wait for background work.
LOOP_RATIO_MAX = 1.25
ROUND_TRIP_P99_US_MAX = 1_000


class Options:
    """What the command line says; set once in `main`."""

    data_root: pathlib.Path
    quick = False
    rounds = 3
    realtime = False

    @classmethod
    def bytes(cls) -> int:
        return (256 << 20) if cls.quick else (2 << 30)

    @classmethod
    def seconds(cls) -> float:
        return 1.5 if cls.quick else 8.0


def on_core(cores: str, *command: str) -> list[str]:
    """A command on chosen cores, and ahead of everything else there if that is asked for."""
    return [*(["chrt", "-r", "1"] if Options.realtime else []), "taskset", "-c", cores, *command]


class PinnedBroker(Broker):
    """A broker on chosen cores, with its data on the disk that is measured."""

    def __init__(self, directory: pathlib.Path, shards: int, settings: dict[str, str]) -> None:
        super().__init__(directory / "data", shards, settings)
        self.cores = SERVER_CORE if shards == 1 else f"{SERVER_CORE},{LOAD_CORE}"

    def command(self) -> list[str]:
        return on_core(self.cores, *super().command())

    @property
    def pid(self) -> int:
        return self.process.pid


@contextlib.contextmanager
def directory():
    path = pathlib.Path(tempfile.mkdtemp(prefix="tidelog-perf-", dir=Options.data_root))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        # What is still to be written back must not be charged to the next run.
        os.sync()


@contextlib.contextmanager
def broker(shards: int = 1, durability: str = "os", spin_us: int = 0, more: dict[str, str] | None = None):
    settings = {"log.durability": durability, "runtime.spin_us": str(spin_us), **(more or {})}
    with directory() as path, PinnedBroker(path, shards, settings) as running:
        yield running


class Light:
    """One speed-of-light server, or the broker's loop around an echo."""

    def __init__(self, *arguments: str, on_disk: bool = True, program: pathlib.Path = LIGHT) -> None:
        self.arguments, self.on_disk, self.program = arguments, on_disk, program

    def __enter__(self) -> "Light":
        self.stack = contextlib.ExitStack()
        command = on_core(SERVER_CORE, str(self.program), *self.arguments)
        if self.on_disk:
            command += ["--dir", str(self.stack.enter_context(directory()))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening "):
            self.__exit__()
            raise SystemExit(f"{shlex.join(command)} does not listen: {line!r}")
        self.address, self.pid = line.split()[1], self.process.pid
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.stack.close()


def load(mode: str, address: str, pid: int | None, *arguments: str) -> dict:
    """One run of the load generator; its report."""
    command = on_core(LOAD_CORE, str(LOAD), mode, "-b", address, "--json", *map(str, arguments))
    if pid is not None:
        command += ["--broker-pid", str(pid)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{shlex.join(command)}: exit {result.returncode}: {result.stderr}")
    return json.loads(result.stdout)


def kafka(running: Broker, mode: str, partitions: int, *arguments: str) -> dict:
    return load(
        mode, running.bootstrap, running.pid, "--topic", f"{mode}-{partitions}", "--create",
        "--partitions", partitions, *arguments,
    )  # fmt: skip


def bare(server: Light, mode: str, partitions: int, *arguments: str) -> dict:
    return load(
        mode, server.address, server.pid, "--protocol", "bare", "--partitions", partitions, *arguments
    )


# ---------------------------------------------------------------- rounds


def rounds(contestants: dict) -> dict[str, list[dict]]:
    """Runs all contestants in turn, each round beginning with another one."""
    results: dict[str, list[dict]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(Options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(contestants[name]())
            print(f"  round {number + 1}: {name}", file=sys.stderr, flush=True)
    return results


def median(reports: list[dict], path: str) -> float:
    def field(report: dict):
        for name in path.split("."):
            report = report[name]
        return report

    return statistics.median(field(report) for report in reports)


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else "-"


class Table:
    def __init__(self, title: str, *columns: str) -> None:
        self.lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]

    def row(self, *cells: object) -> None:
        self.lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")

    def note(self, text: str) -> None:
        self.lines += ["", text]

    def __str__(self) -> str:
        return "\n".join([*self.lines, ""])


# ---------------------------------------------------------------- rows


def produce(durability: str, partitions: int) -> Table:
    size = ("--bytes", Options.bytes() if durability == "os" else Options.bytes() // 2)
    sync = "none" if durability == "os" else "group"

    def ours() -> dict:
        with broker(durability=durability) as running:
            return kafka(running, "produce", partitions, *size)

    def light(files: str):
        def one() -> dict:
            with Light("append", "--files", files, "--sync", sync, "--count", str(partitions)) as server:
                return bare(server, "produce", partitions, *size)

        return one

    results = rounds({"broker": ours, "fresh": light("fresh"), "recycled": light("recycled")})
    return cpu_per_gib(f"produce, 64 KiB batches of 1 KiB, {partitions} partitions, `{durability}`", results)


def touch_free_pages(size: int) -> None:
    """Writes and removes a file, so that the pages that are free now are backed by the host.

    A guest with free page reporting gives pages back some 2 s after they were freed, and each is faulted in again
    when it is written: a server that needs longer for its bytes pays for that, and one that is done sooner does not.
    """
    path, piece = Options.data_root / f"tidelog-perf-touch-{os.getpid()}", bytes([0xA5]) * (1 << 20)
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(size >> 20):
                file.write(piece)
    finally:
        path.unlink(missing_ok=True)


def reported_mib() -> float:
    """What this guest gave back to its host so far; 0 where that cannot be told."""
    path = pathlib.Path("/sys/module/page_reporting/parameters/reported_kib")
    return int(path.read_text()) / 1024 if path.exists() else 0.0


def produce_extras() -> Table:
    """What of a broker's way to write costs how much: one thing at a time added to the bare append server."""
    size = ("--bytes", Options.bytes() // 4)

    def ours() -> dict:
        with broker() as running:
            return kafka(running, "produce", 1, *size)

    def light(*extras: str):
        def one() -> dict:
            added = ("--add", ",".join(extras)) if extras else ()
            with Light("append", "--files", "fresh", *added) as server:
                return bare(server, "produce", 1, *size)

        return one

    contestants = {"broker": ours, "fresh": light()}
    for extra in APPEND_EXTRAS:
        contestants[f"fresh + {extra}"] = light(extra)
    contestants["fresh + all of these"] = light(*APPEND_EXTRAS)

    def touched(run):
        def one() -> dict:
            touch_free_pages(Options.bytes() // 2)
            before = reported_mib()
            return run() | {"reported_mib": reported_mib() - before}

        return one

    results = rounds({name: touched(run) for name, run in contestants.items()})
    table = cpu_per_gib("produce, 1 partition, `os`: what the bare server lacks, added one at a time", results)
    reported = ", ".join(f"{name} {median(reports, 'reported_mib'):.0f}" for name, reports in results.items())
    table.note(f"MiB of free pages that the guest gave back to its host during a run: {reported}.")
    return table


def consume(partitions: int) -> Table:
    goal = ("--bytes", Options.bytes() * 2)

    def ours() -> dict:
        with broker() as running:
            topic = f"consume-{partitions}"
            filled = ("--bytes", 512 << 20)
            load("produce", running.bootstrap, None, "--topic", topic, "--create", "--partitions", partitions, *filled)
            return kafka(running, "consume", partitions, *goal)

    def light() -> dict:
        with Light("read", "--count", str(partitions)) as server:
            return bare(server, "consume", partitions, *goal)

    results = rounds({"broker": ours, "1 MiB sends from a map": light})
    return cpu_per_gib(f"consume, hot, {partitions} partitions", results)


def cpu_per_gib(title: str, results: dict[str, list[dict]]) -> Table:
    table = Table(
        title, "server", "CPU s/GiB", "user / system", "GiB/s", "broker to it: CPU", "switches/record", "load busy"
    )
    ours = median(results["broker"], "broker.cpu_s_per_gib")
    for name, reports in results.items():
        own = median(reports, "broker.cpu_s_per_gib")
        user, system = median(reports, "broker.user_s"), median(reports, "broker.system_s")
        table.row(
            name,
            f"{own:.3f}",
            f"{user:.2f} / {system:.2f} s",
            f"{median(reports, 'gib_per_s'):.2f}",
            "" if name == "broker" else ratio(ours, own),
            f"{median(reports, 'broker.context_switches_per_record'):.5f}",
            f"{median(reports, 'generator_busy'):.0%}",
        )
    return table


def requests(connections: int, in_flight: int) -> Table:
    shape = ("--connections", connections, "--in-flight", in_flight, "--seconds", Options.seconds())

    def ours(shards: int = 1):
        def one() -> dict:
            with broker(shards) as running:
                return kafka(running, "requests", 1, *shape)

        return one

    def echo(receive: str):
        def one() -> dict:
            with Light("echo", "--receive", receive, on_disk=False) as server:
                return load("echo", server.address, server.pid, *shape)

        return one

    results = rounds({"broker": ours(), "echo, single-shot": echo("single"), "echo, multishot": echo("multishot")})
    table = Table(
        f"one-record produce of 100 B, acks=1, `os`, {connections} connections x {in_flight} in flight",
        "server", "CPU us/request", "requests/s", "broker to it: CPU", "switches/request", "answer p50 / p99 us",
        "load busy",
    )  # fmt: skip
    own = median(results["broker"], "broker.cpu_us_per_request")
    for name, reports in results.items():
        cpu = median(reports, "broker.cpu_us_per_request")
        table.row(
            name,
            f"{cpu:.2f}",
            f"{median(reports, 'requests_per_s'):,.0f}",
            "" if name == "broker" else ratio(own, cpu),
            f"{median(reports, 'broker.context_switches_per_record'):.4f}",
            f"{median(reports, 'answer.p50_us'):.0f} / {median(reports, 'answer.p99_us'):.0f}",
            f"{median(reports, 'generator_busy'):.0%}",
        )
    return table


def loop(connections: int, in_flight: int) -> Table:
    """The broker's loop around an echo beside a bare ring around the same echo."""
    shape = ("--connections", connections, "--in-flight", in_flight, "--seconds", Options.seconds())

    def echo(program: pathlib.Path, *arguments: str):
        def one() -> dict:
            with Light("echo", *arguments, on_disk=False, program=program) as server:
                return load("echo", server.address, server.pid, *shape)

        return one

    others = {f"bare ring, {receive}": echo(LIGHT, "--receive", receive) for receive in ("single", "multishot")}
    if connections == 1:
        others[f"the loop with runtime.spin_us={SPIN_US}"] = echo(LOOP, "--spin-us", str(SPIN_US))
    results = rounds({"the shard's loop": echo(LOOP), **others})
    table = Table(
        f"echo of 128 B with 64 B, {connections} connections x {in_flight} in flight",
        "server", "CPU us/request", "requests/s", "loop to it: CPU, round by round", "switches/request",
        "answer p50 / p99 us", "load busy",
    )  # fmt: skip
    ours = results["the shard's loop"]
    verdicts = []
    for name, reports in results.items():
        # Paired: what else the machine does weighs on both runs of a round alike.
        ratios = sorted(
            one["broker"]["cpu_us_per_request"] / max(other["broker"]["cpu_us_per_request"], 1e-9)
            for one, other in zip(ours, reports)
        )
        middle = statistics.median(ratios)
        if reports is not ours:
            verdicts.append(f"{name}: {'within' if middle <= LOOP_RATIO_MAX else '**above**'} {LOOP_RATIO_MAX}")
        table.row(
            name,
            f"{median(reports, 'broker.cpu_us_per_request'):.2f}",
            f"{median(reports, 'requests_per_s'):,.0f}",
            "" if reports is ours else f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{median(reports, 'broker.context_switches_per_record'):.4f}",
            f"{median(reports, 'answer.p50_us'):.0f} / {median(reports, 'answer.p99_us'):.0f}",
            f"{median(reports, 'generator_busy'):.0%}",
        )
    if connections > 1:
        table.note("The loop beside each: " + "; ".join(verdicts) + ".")
    return table


def background() -> Table:
    """Round trips while background work never ends, and the control in which its steps are not cut."""

    def run(work: str):
        def one() -> dict:
            seconds = "1" if Options.quick else "4"
            command = on_core(f"{SERVER_CORE},{LOAD_CORE}", str(LOOP), "background", "--work", work)
            command += ["--seconds", seconds, "--core", SERVER_CORE, "--client-core", LOAD_CORE]
            result = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
            if result.returncode != 0:
                raise SystemExit(f"{shlex.join(command)}: exit {result.returncode}: {result.stderr}")
            return json.loads(result.stdout)

        return one

    results = rounds({name: run(name) for name in ("none", "cut", "uncut")})
    table = Table(
        "round trips of one connection beside background work without an end, us",
        "background work", "p50", "p99: median (least to most)", "p99.9", "max", "steps", "us a step", "steps over their bound",
    )  # fmt: skip
    for name, reports in results.items():
        tails = sorted(report["p99_us"] for report in reports)
        steps, late = median(reports, "steps"), median(reports, "steps_late")
        table.row(
            {"none": "none", "cut": "in steps", "uncut": "control: 20 ms without a poll point"}[name],
            f"{median(reports, 'p50_us'):,.0f}",
            f"{statistics.median(tails):,.0f} ({tails[0]:,.0f} to {tails[-1]:,.0f})",
            f"{median(reports, 'p999_us'):,.0f}",
            f"{median(reports, 'max_us'):,.0f}",
            f"{steps:,.0f}",
            f"{median(reports, 'step_mean_us'):,.0f}",
            f"{late / steps:.2%}" if steps else "",
        )
    # Other work on the machine only adds to a tail: the best round says what the loop can do.
    best = min(report["p99_us"] for report in results["cut"])
    control = min(report["p99_us"] for report in results["uncut"])
    holds = "holds" if best < ROUND_TRIP_P99_US_MAX else "**does not hold**"
    fails = "fails, as it must" if control > ROUND_TRIP_P99_US_MAX else "**does not fail: the test shows nothing**"
    table.note(
        f"p99 below {ROUND_TRIP_P99_US_MAX:,} us: {holds} (best round {best:,.0f}); the control {fails} (best round {control:,.0f})."
    )
    return table


def latency(durability: str) -> Table:
    arguments = ("--rate", LATENCY_RATE, "--seconds", Options.seconds() + 1)
    sync = "none" if durability == "os" else "group"

    def ours(spin_us: int = 0) -> dict:
        with broker(durability=durability, spin_us=spin_us) as running:
            return kafka(running, "latency", 1, *arguments)

    def light() -> dict:
        with Light("append", "--files", "fresh", "--sync", sync) as server:
            return bare(server, "latency", 1, *arguments)

    def device() -> dict:
        with directory() as path:
            count = "200" if Options.quick else "2000"
            command = ["taskset", "-c", SERVER_CORE, str(LIGHT), "sync-latency", "--dir", str(path), "--count", count]
            result = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=True)
            return {"answer": json.loads(result.stdout)}

    # Records come 500 us apart: a shard that looks for work for longer than that never sleeps between them.
    looking = f"broker, runtime.spin_us={LATENCY_SPIN_US}"
    contestants = {"broker": ours, looking: lambda: ours(LATENCY_SPIN_US), "append server, fresh": light}
    if durability == "fsync":
        contestants["append + fdatasync, one after the other"] = device
    results = rounds(contestants)
    table = Table(
        f"latency at {LATENCY_RATE:,} records/s of 1 KiB, acks=all, `{durability}`, us",
        "what", "p50", "p99", "p99.9", "max", "broker to it: p50, p99",
    )  # fmt: skip
    series = {f"{name}: acknowledgement": (reports, "answer") for name, reports in results.items()}
    series["broker: end to end"] = (results["broker"], "end_to_end")
    series["the generator's own lateness (broker runs)"] = (results["broker"], "late_send")
    own = [median(results["broker"], f"answer.{q}") for q in ("p50_us", "p99_us")]
    for name, (reports, field) in series.items():
        values = [median(reports, f"{field}.{q}") for q in ("p50_us", "p99_us", "p999_us", "max_us")]
        beside = field == "answer" and not name.startswith("broker")
        ratios = f"{ratio(own[0], values[0])}, {ratio(own[1], values[1])}" if beside else ""
        table.row(name, *(f"{value:,.0f}" for value in values), ratios)
    return table


def shards() -> Table:
    size = ("--bytes", Options.bytes() // 2)
    shape = ("--connections", 16, "--in-flight", 16, "--seconds", Options.seconds())

    def both(count: int):
        def one() -> dict:
            with broker(count) as running:
                produced = kafka(running, "produce", 16, "--connections", 4, *size)
                return {"produce": produced, "requests": kafka(running, "requests", 16, *shape)}

        return one

    results = rounds({"one shard": both(1), "two shards": both(2)})
    table = Table(
        "two shards beside one, 16 partitions, `os` (two shards share a core with the load)",
        "load", "shards", "CPU us/record", "to one shard", "switches/record",
    )  # fmt: skip
    for mode, what in (("produce", "64 KiB batches of 1 KiB, 4 connections"), ("requests", "one-record, 16 x 16")):
        one = median(results["one shard"], f"{mode}.broker.cpu_us_per_record")
        for name, reports in results.items():
            cpu = median(reports, f"{mode}.broker.cpu_us_per_record")
            switches = median(reports, f"{mode}.broker.context_switches_per_record")
            table.row(what, name, f"{cpu:.3f}", ratio(cpu, one), f"{switches:.5f}")
    return table


def ceiling() -> Table:
    """What the generator itself can do; the null server is in its process, on both cores."""
    table = Table("the load generator against a server that does nothing", "load", "GiB/s", "requests/s", "busy", "requests/s if always busy")
    runs = {
        "produce, 64 KiB": ["produce", "--bytes", Options.bytes() * 2],
        "requests, 64 x 1": ["requests", "--connections", 64, "--seconds", Options.seconds() / 2],
        "requests, 64 x 16": ["requests", "--connections", 64, "--in-flight", 16, "--seconds", Options.seconds() / 2],
        "consume": ["consume", "--bytes", Options.bytes() * 2],
    }
    for name, arguments in runs.items():
        command = [str(LOAD), *map(str, arguments), "--own-ceiling", "--json"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
        if result.returncode != 0:
            raise SystemExit(f"{shlex.join(command)}: {result.stderr}")
        report = json.loads(result.stdout)
        table.row(
            name, f"{report['gib_per_s']:.2f}", f"{report['requests_per_s']:,.0f}", f"{report['generator_busy']:.0%}",
            f"{report['requests_per_s'] / max(report['generator_busy'], 0.01):,.0f}",
        )
    return table


def idle() -> Table:
    table = Table("at rest, two shards", "what", "measured")
    with broker(2) as running:
        # CPU time has steps of 10 ms, so a second of rest after the start would show as noise.
        before, started = running.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        share = (running.cpu_s() - before) / (time.monotonic() - started)
        rss, anonymous = running.memory_kib("VmRSS") / 1024, running.memory_kib("RssAnon") / 1024
    table.row("resident memory", f"{rss:.1f} MiB (anonymous {anonymous:.1f})")
    table.row("CPU", f"{share:.2%} of a core")
    times_ms = []
    for _ in range(STARTS):
        with broker(2) as running:
            times_ms.append(running.ready_after_s * 1000)
    times_ms.sort()
    table.row(
        f"ready on an empty directory, median of {STARTS}",
        f"{times_ms[STARTS // 2]:.0f} ms (slowest {times_ms[-1]:.0f})",
    )
    return table


ROWS = {
    "produce-os-1": lambda: produce("os", 1),
    "produce-os-16": lambda: produce("os", 16),
    "produce-fsync-1": lambda: produce("fsync", 1),
    "produce-fsync-16": lambda: produce("fsync", 16),
    "produce-extras": produce_extras,
    "consume-1": lambda: consume(1),
    "consume-16": lambda: consume(16),
    "requests-1x1": lambda: requests(1, 1),
    "requests-64x1": lambda: requests(64, 1),
    "requests-1000x16": lambda: requests(1000, 16),
    "loop-1x1": lambda: loop(1, 1),
    "loop-64x1": lambda: loop(64, 1),
    "loop-1000x1": lambda: loop(1000, 1),
    "loop-1000x16": lambda: loop(1000, 16),
    "background": background,
    "latency-os": lambda: latency("os"),
    "latency-fsync": lambda: latency("fsync"),
    "shards": shards,
    "ceiling": ceiling,
    "idle": idle,
}


# ---------------------------------------------------------------- the page


def head(arguments: argparse.Namespace, script: str, load_before: float) -> str:
    commit = git("rev-parse", "--short", "HEAD") + (" (changed)" if git("status", "--porcelain", "-uno") else "")
    today = datetime.date.today().isoformat()
    pinned = f"server on core {SERVER_CORE}, load on core {LOAD_CORE}"
    return "\n".join(
        [
            f"# {arguments.name}, {today}, commit {commit}",
            "",
            f"Command: `{shlex.join([script, *sys.argv[1:]])}`, release build. Medians of",
            f"{Options.rounds} interleaved rounds; loopback, {pinned}. CPU is the server's, user and system.",
            f"{os.cpu_count()} CPUs ({cpu_model()}), Linux {platform.release()}, data on {filesystem()}.",
            f"Load average at the start {load_before:.2f}."
            + (" **Other work was running: only ratios and CPU per unit mean something.**" if load_before >= 1 else ""),
            "",
        ]
    )


def git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def filesystem() -> str:
    # Not `stat -f`: it has one name for ext2, ext3 and ext4.
    command = ["df", "--output=fstype", str(Options.data_root)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return lines[-1] if lines else "?"


def main(rows: dict = ROWS, script: str = "perf/compare.sh", doc: str = __doc__, page_name: str = "compare") -> int:
    """Runs the rows that the command line names and writes their page. `script`: how it was called."""

    def row_names(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in rows]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown row {unknown[0]!r}; rows are {', '.join(rows)}")
        return names

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", type=row_names, default=list(rows), help=", ".join(rows))
    parser.add_argument("--quick", action="store_true", help="short runs: to see that it works, not to quote")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--realtime", action="store_true", help="ahead of all other work (root); with --quick on a shared machine")
    parser.add_argument("--name", default=page_name, help="of the page: perf/results/DATE-NAME.md")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--data-root", type=pathlib.Path, default=ROOT / "target", help="where data is put")
    arguments = parser.parse_args()
    if os.cpu_count() < 2:
        parser.error("two cores are needed: one for the server, one for the load")
    Options.data_root, Options.quick = arguments.data_root, arguments.quick
    Options.realtime = arguments.realtime
    Options.rounds = max(arguments.rounds, 1)
    today = datetime.date.today().isoformat()
    out = arguments.out or ROOT / "perf" / "results" / f"{today}-{arguments.name}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    page = head(arguments, script, os.getloadavg()[0])
    for name in arguments.only:
        print(name, file=sys.stderr, flush=True)
        page += f"\n{rows[name]()}"
        # After each row: a run that is ended early keeps what it has.
        out.write_text(page)
    print(page)
    print(f"written to {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
