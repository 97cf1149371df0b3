"""Cold reads beside a tail: does a consumer of what is not in the page cache slow down a producer?

One shard on core 0. A topic is filled, the broker restarted (so that nothing counts as hot) and the topic's page
cache dropped. Then, in turn: a producer at a fixed rate alone, and the same beside a consumer that reads the cold
topic from its start. Taken are the producer's acknowledgement latency (from the intended send: no coordinated
omission), page faults and context switches of the shard's thread, and what the process read from the device.

Exit code 1: a shard's thread took a major fault, a read was not cold, the tail was slower than the bound, or the
counters could not even see the faults of a program that takes them on purpose.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import mmap
import os
import pathlib
import re
import subprocess
import sys

import compare
from compare import LOAD, LOAD_CORE, LOAD_TIMEOUT_S, Options, PinnedBroker, Table
from lib import metric, wait_until  # noqa: E402 - of .ci/e2e, which compare puts in the path

TAIL_RATE = 2_000
RECORD_BYTES = 1_024
FILLED_TOPIC, CROSSED_TOPIC = "cold", "crossed"
# Of the topic that is read from its cold start into what was written since the restart.
CROSSED_COLD_BYTES, CROSSED_HOT_BYTES = 256 << 20, 128 << 20
CONTROL_BYTES = 64 << 20
# A window of the consumer counts as cold when at least this share of what it got came from the device.
COLD_SHARE_MIN = 0.9
SYS_CACHESTAT = 451


class Failed(Exception):
    """The property does not hold, or was not measured."""


# ---------------------------------------------------------------- counters


@dataclasses.dataclass(frozen=True)
class Threads:
    """Counters of some threads of a process; only differences mean something."""

    minor_faults: int = 0
    major_faults: int = 0
    voluntary: int = 0
    involuntary: int = 0

    @classmethod
    def of(cls, pid: int, name: str) -> "Threads":
        """The sum over all threads whose name begins with `name`; there must be one."""
        total, found = cls(), 0
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            try:
                stat, status = (task / "stat").read_text(), (task / "status").read_text()
            except OSError:
                continue  # it ended meanwhile
            thread = stat[stat.index("(") + 1 : stat.rindex(")")]
            if not thread.startswith(name):
                continue
            found += 1
            fields = stat[stat.rindex(")") + 2 :].split()
            switches = dict(re.findall(r"^(\w+ctxt_switches):\s*(\d+)$", status, re.MULTILINE))
            total += cls(
                int(fields[7]),
                int(fields[9]),
                int(switches["voluntary_ctxt_switches"]),
                int(switches["nonvoluntary_ctxt_switches"]),
            )
        if not found:
            raise Failed(f"process {pid} has no thread that is called {name}")
        return total

    def __add__(self, other: "Threads") -> "Threads":
        return Threads(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def __sub__(self, other: "Threads") -> "Threads":
        return Threads(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


def read_bytes(pid: int) -> int:
    """What a process made the devices read, all its threads."""
    return int(re.search(r"^read_bytes: (\d+)$", pathlib.Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)[1])


# ---------------------------------------------------------------- the page cache


class CacheRange(ctypes.Structure):
    _fields_ = [("off", ctypes.c_uint64), ("len", ctypes.c_uint64)]


class CacheStat(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recent")]


def cached_bytes(path: pathlib.Path) -> int:
    """How much of a file is in the page cache."""
    whole, found = CacheRange(0, 0), CacheStat()
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        code = libc.syscall(SYS_CACHESTAT, file.fileno(), ctypes.byref(whole), ctypes.byref(found), 0)
    if code != 0:
        raise Failed(f"cachestat of {path}: {os.strerror(ctypes.get_errno())} (needs Linux 6.5)")
    return found.cached * mmap.PAGESIZE


def drop(paths: list[pathlib.Path]) -> None:
    """Takes files out of the page cache: written back first, since dirty pages stay."""
    for path in paths:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    kept = sum(map(cached_bytes, paths))
    if kept > 0.01 * sum(path.stat().st_size for path in paths):
        raise Failed(f"{kept} bytes stay in the page cache although they were to be dropped")


# ---------------------------------------------------------------- the negative control


def touch(path: pathlib.Path) -> int:
    """A process of its own: touches each page of a map when it is told to."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        for _ in sys.stdin:
            touched = sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE))
            print(touched, flush=True)
    return 0


def faults_of_a_map(path: pathlib.Path) -> Threads:
    """Faults of a program that touches a cold map, by the counters that the shard is judged by."""
    with open(path, "wb") as file:
        file.write(os.urandom(CONTROL_BYTES))
    drop([path])
    command = [sys.executable, __file__, "--touch", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        name = pathlib.Path(f"/proc/{process.pid}/comm").read_text().strip()[:4]

        def once() -> Threads:
            before = Threads.of(process.pid, name)
            process.stdin.write("go\n")
            process.stdin.flush()
            process.stdout.readline()
            return Threads.of(process.pid, name) - before

        taken = once()
        process.stdin.close()
    path.unlink()
    return taken


# ---------------------------------------------------------------- load


def start(mode: str, broker: "ColdBroker", *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*(prefix or broker.prefix), "taskset", "-c", LOAD_CORE, str(LOAD), mode, "-b", broker.bootstrap, "--json"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def report(process: subprocess.Popen) -> dict:
    out, error = process.communicate(timeout=LOAD_TIMEOUT_S)
    if process.returncode != 0:
        raise Failed(f"tidelog-load: exit {process.returncode}: {error}")
    return compare.json.loads(out)


def fill(broker: PinnedBroker, topic: str, size: int) -> None:
    compare.load("produce", broker.bootstrap, None, "--topic", topic, "--create", "--bytes", size)


def segments(broker: PinnedBroker) -> list[pathlib.Path]:
    return sorted(broker.data_dir.rglob("*.log"))


class ColdBroker(PinnedBroker):
    """A broker that may be favoured over whatever else the machine does."""

    prefix: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [*self.prefix, *super().command()]


class Bench:
    """One broker with a filled topic, and the windows that are measured on it."""

    def __init__(self, broker: PinnedBroker, arguments: argparse.Namespace, cold: list[pathlib.Path]) -> None:
        self.broker, self.arguments, self.cold = broker, arguments, cold
        self.runs = 0

    def tail(self) -> subprocess.Popen:
        # The producer must not wait for the consumer's process: they share a core.
        self.runs += 1
        return start(
            "latency", self.broker, "--topic", f"tail-{self.runs}", "--create", "--rate", TAIL_RATE,
            "--record-bytes", RECORD_BYTES, "--seconds", self.arguments.seconds,
            prefix=("chrt", "--fifo", "10") if os.geteuid() == 0 else (),
        )  # fmt: skip

    def sent_bytes(self) -> int:
        return metric(self.broker, "fetch_hot_bytes_total") + metric(self.broker, "fetch_cold_bytes_total")

    def counted(self, work) -> dict:
        """A report with what the broker's counters moved by meanwhile."""
        pid = self.broker.pid

        def counters() -> dict:
            return {
                "device_bytes": read_bytes(pid),
                "hot_bytes": metric(self.broker, "fetch_hot_bytes_total"),
                "cold_bytes": metric(self.broker, "fetch_cold_bytes_total"),
                "cpu_s": self.broker.cpu_s(),
                **dataclasses.asdict(Threads.of(pid, "shard-")),
            }

        before, sent = counters(), self.sent_bytes()
        result = work()
        if result["mode"] == "consume":
            # Metrics are published now and then.
            wait_until(lambda: self.sent_bytes() >= sent + result["bytes"], 5.0, "the metrics count what was read")
        return result | {name: value - before[name] for name, value in counters().items()}

    def window(self, read: list[object] | None) -> dict:
        """The producer for its time; with `read` a consumer beside it, which must outlast it."""
        drop(self.cold)
        consumer = None if read is None else start("consume", self.broker, *read)
        result = self.counted(lambda: report(self.tail()))
        if consumer is not None:
            if consumer.poll() is not None:
                raise Failed(f"the consumer ended before the producer did: {consumer.communicate()[1]}")
            consumer.kill()
            consumer.communicate()
            if result["device_bytes"] < COLD_SHARE_MIN * result["cold_bytes"]:
                raise Failed(
                    f"{result['cold_bytes']} cold bytes were sent, and only {result['device_bytes']} read from the "
                    "device: fill more (--gib), or measure for a shorter time (--seconds)"
                )
        return result

    def alone(self) -> dict:
        return self.window(None)

    def beside(self) -> dict:
        answer = self.arguments.partition_bytes
        return self.window(["--topic", FILLED_TOPIC, "--partition-bytes", answer, "--seconds", LOAD_TIMEOUT_S])

    def crossing(self) -> dict:
        """A consumer that reads from the cold start of a topic into what was written since the restart."""
        drop(self.cold)
        fill(self.broker, CROSSED_TOPIC, CROSSED_HOT_BYTES)
        arguments = ("--topic", CROSSED_TOPIC, "--bytes", CROSSED_COLD_BYTES + CROSSED_HOT_BYTES)
        result = self.counted(lambda: report(start("consume", self.broker, *arguments)))
        if result["cold_bytes"] < CROSSED_COLD_BYTES / 2 or result["hot_bytes"] < CROSSED_HOT_BYTES / 2:
            raise Failed(f"the consumer did not cross from cold to hot: {result}")
        return result


# ---------------------------------------------------------------- the page


def at(reports: list[dict], path: str) -> float:
    return compare.median(reports, path)


def latency_rows(results: dict[str, list[dict]]) -> tuple[Table, float]:
    table = Table(
        f"acknowledgement of {TAIL_RATE:,} records/s of 1 KiB, us",
        "producer", "p50", "p99", "p99.9", "max", "to alone: p50, p99", "own lateness p99", "cold MiB/s",
    )  # fmt: skip
    alone = [at(results["alone"], f"answer.{q}") for q in ("p50_us", "p99_us")]
    ratios = [0.0, 0.0]
    for name, reports in results.items():
        values = [at(reports, f"answer.{q}") for q in ("p50_us", "p99_us", "p999_us", "max_us")]
        ratios = [values[0] / alone[0], values[1] / alone[1]]
        table.row(
            name,
            *(f"{value:,.0f}" for value in values),
            "" if name == "alone" else f"{ratios[0]:.2f}, {ratios[1]:.2f}",
            f"{at(reports, 'late_send.p99_us'):,.0f}",
            f"{at(reports, 'cold_bytes') / at(reports, 'wall_s') / (1 << 20):,.0f}",
        )
    return table, ratios[1]


def thread_rows(results: dict[str, list[dict]], control: Threads) -> Table:
    table = Table(
        "the shard's thread in one window",
        "window", "major faults", "minor faults", "read from the device", "cold / hot bytes sent", "switches vol. / invol.",
        "broker CPU s",
    )  # fmt: skip
    for name, reports in results.items():
        # The worst round, not the median: no round may fault.
        major = max(report["major_faults"] for report in reports)
        table.row(
            name,
            major,
            f"{at(reports, 'minor_faults'):,.0f}",
            f"{at(reports, 'device_bytes') / (1 << 20):,.0f} MiB",
            f"{at(reports, 'cold_bytes') / (1 << 20):,.0f} / {at(reports, 'hot_bytes') / (1 << 20):,.0f} MiB",
            f"{at(reports, 'voluntary'):,.0f} / {at(reports, 'involuntary'):,.0f}",
            f"{at(reports, 'cpu_s'):.2f}",
        )
    table.row(
        f"control: a program that touches a cold map of {CONTROL_BYTES >> 20} MiB",
        control.major_faults, f"{control.minor_faults:,}", "", "", f"{control.voluntary:,} / {control.involuntary:,}", "",
    )  # fmt: skip
    return table


def judge(results: dict[str, list[dict]], control: Threads, ratio: float, bound: float) -> list[str]:
    """What does not hold."""
    wrong = []
    if control.major_faults == 0:
        wrong.append("the counters did not see the faults of a program that touches a cold map")
    for name, reports in results.items():
        major = max(report["major_faults"] for report in reports)
        if major > 0:
            wrong.append(f"{name}: the shard's thread took {major} major faults")
    if ratio > bound:
        wrong.append(f"beside a cold reader the p99 of the tail is {ratio:.2f}x, more than {bound}x")
    return wrong


def measure(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    load_before = os.getloadavg()[0]
    with compare.directory() as directory:
        control = faults_of_a_map(directory / "control")
        size = int(arguments.gib * (1 << 30))
        broker = ColdBroker(directory, 1, {"log.durability": arguments.durability})
        broker.prefix = ("nice", "-n", "-20") if arguments.favour else ()
        try:
            broker.start()
            print(f"filling {arguments.gib:g} GiB", file=sys.stderr, flush=True)
            fill(broker, FILLED_TOPIC, size)
            fill(broker, CROSSED_TOPIC, CROSSED_COLD_BYTES)
            if broker.stop() != 0:
                raise Failed(f"the broker did not stop in order:\n{broker.log_tail()}")
            cold = segments(broker)
            drop(cold)
            broker.start()
            bench = Bench(broker, arguments, cold)
            print("a first window, not counted", file=sys.stderr, flush=True)
            bench.alone()
            results = compare.rounds({"alone": bench.alone, "beside a cold reader": bench.beside})
            latency, ratio = latency_rows(results)
            results["from cold to hot"] = [bench.crossing()]
        finally:
            broker.close()
    page = compare.head(arguments, "perf/cold.sh", load_before)
    page += (
        f"\n{arguments.gib:g} GiB in {len(cold)} segments, `{arguments.durability}`, the consumer asks for "
        f"{arguments.partition_bytes >> 10} KiB at a time. Each window {arguments.seconds:g} s.\n"
    )
    page += f"\n{latency}\n{thread_rows(results, control)}"
    return page, judge(results, control, ratio, arguments.bound)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="of the cold topic")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a window, one of them to warm up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partition-bytes", type=int, default=1 << 20, help="that the consumer asks for")
    parser.add_argument("--durability", default="os", choices=["os", "fsync"])
    parser.add_argument("--bound", type=float, default=1.5, help="of p99 beside a cold reader to p99 alone")
    parser.add_argument("--favour", action="store_true", help="nice -20 for broker and load: others use this machine")
    parser.add_argument("--name", default="cold", help="of the page: perf/results/DATE-NAME.md")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--data-root", type=pathlib.Path, default=compare.ROOT / "target")
    parser.add_argument("--touch", type=pathlib.Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.touch is not None:
        return touch(arguments.touch)
    if os.cpu_count() < 2:
        parser.error("two cores are needed: one for the broker, one for the load")
    Options.data_root, Options.rounds = arguments.data_root, max(arguments.rounds, 1)
    today = datetime.date.today().isoformat()
    out = arguments.out or compare.ROOT / "perf" / "results" / f"{today}-{arguments.name}.md"
    try:
        page, wrong = measure(arguments)
    except Failed as failed:
        print(f"FAIL cold: {failed}", file=sys.stderr)
        return 1
    page += "\n" + "".join(f"FAIL: {one}.\n" for one in wrong)
    out.write_text(page)
    print(page)
    print(f"written to {out}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
