"""How long a start takes: a directory of many segments that was closed in order, and many partitions whose broker
was killed under load.

    start.py [--segments N] [--partitions N] [--rounds N] [--shards N] [--data-root DIR] [--name NAME] [--no-bounds]
             [--only clean|killed|checkpoint]...

Writes perf/results/DATE-NAME.md. Times are from the start of the process until `/health/ready` answers 200. *Cold*
means that the pages of the run's own files were dropped before (others on the machine keep theirs). What a start
reads is `rchar` of `/proc/PID/io` when it is ready. The run fails when a bound of the last column is missed, unless
--no-bounds says that it only measures.
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / ".ci" / "e2e"))

from confluent_kafka import Producer  # noqa: E402
from confluent_kafka.admin import AdminClient, NewTopic  # noqa: E402
from lib import ROOT, Broker, expect, expect_equal, wait_until  # noqa: E402

CLEAN_S_MAX = 1.0
KILLED_S_MAX = 10.0
SEGMENTED_PARTITIONS = 100


class Load:
    """Writes to all partitions in turn, on a thread of its own, until it is stopped."""

    def __init__(self, broker: Broker, topic: str, partitions: int, value_bytes: int) -> None:
        self.acked = [0] * partitions
        self.stopping = threading.Event()
        self.producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 5, "message.timeout.ms": 60_000,
             "queue.buffering.max.messages": 20_000, "topic.metadata.refresh.interval.ms": -1, "log_level": 2}
        )  # fmt: skip
        self.topic, self.value = topic, b"v" * value_bytes
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        at = 0
        while not self.stopping.is_set():
            try:
                self.producer.produce(
                    self.topic, self.value, partition=at % len(self.acked), on_delivery=self.delivered
                )
                at += 1
            except BufferError:
                self.producer.poll(0.01)
            self.producer.poll(0)

    def delivered(self, error, message) -> None:
        if error is None:
            self.acked[message.partition()] += 1

    def end(self) -> None:
        self.stopping.set()
        self.thread.join()
        self.producer.purge()


def create(broker: Broker, topic: str, partitions: int, configs: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 2})
    for future in admin.create_topics([NewTopic(topic, partitions, 1, config=configs)], request_timeout=120).values():
        future.result(180)


def files(root: pathlib.Path, suffix: str = "") -> list[pathlib.Path]:
    return [path for path in root.rglob(f"*{suffix}") if path.is_file()]


def drop_pages(root: pathlib.Path) -> None:
    for path in files(root):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes(broker: Broker) -> int:
    counters = pathlib.Path(f"/proc/{broker.process.pid}/io").read_text()
    return int(next(line.split()[1] for line in counters.splitlines() if line.startswith("rchar:")))


def start(broker: Broker) -> tuple[float, int]:
    broker.start()
    return broker.ready_after_s, read_bytes(broker)


def many_segments(broker: Broker, wanted: int) -> int:
    """Makes a topic with so many segments: each record begins one, and each tick one behind it."""
    create(broker, "segments", SEGMENTED_PARTITIONS, {"segment.ms": "1"})
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 2})
    lost: list[object] = []
    while len(files(broker.data_dir, ".log")) < wanted:
        for partition in range(SEGMENTED_PARTITIONS):
            producer.produce(
                "segments", b"s" * 2_000, partition=partition, on_delivery=lambda error, _: error and lost.append(error)
            )
        expect_equal(producer.flush(60), 0, "records not delivered")
    expect_equal(lost, [], "failed deliveries")
    return len(files(broker.data_dir, ".log"))


def row(what: str, amount: str, times: list[float], read: list[int], bound: float | None) -> str:
    bounds = "" if bound is None else f"{bound:g}"
    return (
        f"| {what} | {amount} | {statistics.median(times):.2f} | {min(times):.2f} - {max(times):.2f} "
        f"| {statistics.median(read) / 2**20:.1f} | {bounds} |"
    )


def clean_starts(arguments, rows: list[str], missed: list[str]) -> None:
    broker = Broker(data_dir=arguments.root / "clean", shards=arguments.shards)
    try:
        broker.start()
        segments = many_segments(broker, arguments.segments)
        expect(segments >= arguments.segments, f"only {segments} segments")
        expect_equal(broker.stop(), 0, "exit code of the stop")
        for cold in (False, True):
            times, read = [], []
            for _ in range(arguments.rounds):
                if cold:
                    drop_pages(broker.data_dir)
                seconds, count = start(broker)
                times.append(seconds)
                read.append(count)
                expect_equal(broker.stop(), 0, "exit code of the stop")
            what = "closed in order, " + ("cold" if cold else "in the page cache")
            bound = None if cold else CLEAN_S_MAX
            rows.append(row(what, f"{segments:,} segments", times, read, bound))
            print(rows[-1], flush=True)
            if bound and statistics.median(times) > bound:
                missed.append(what)
    finally:
        broker.close()


def killed_starts(arguments, rows: list[str], missed: list[str]) -> None:
    broker = Broker(data_dir=arguments.root / "killed", shards=arguments.shards)
    partitions = arguments.partitions
    try:
        broker.start()
        began = time.monotonic()
        create(broker, "many", partitions, {})
        print(f"{partitions} partitions made in {time.monotonic() - began:.1f} s", flush=True)
        times, read = [], []
        for _ in range(arguments.rounds):
            load = Load(broker, "many", partitions, 400)
            wait_until(lambda: min(load.acked) > 0, 300, "a record acknowledged in every partition", 0.05)
            broker.kill9()
            load.end()
            size = sum(path.stat().st_blocks * 512 for path in files(broker.data_dir))
            seconds, count = start(broker)
            times.append(seconds)
            read.append(count)
        what = "killed under load"
        amount = f"{partitions:,} partitions, {size / 2**20:,.0f} MiB on the disk"
        rows.append(row(what, amount, times, read, KILLED_S_MAX))
        print(rows[-1], flush=True)
        if statistics.median(times) > KILLED_S_MAX:
            missed.append(what)
    finally:
        broker.close()


def newest_checkpoints(broker: Broker) -> float:
    """When the older of the shards' newest checkpoints was written; 0 while one is being replaced."""
    try:
        return min((broker.data_dir / f"checkpoint-{shard}").stat().st_mtime for shard in range(broker.shards))
    except FileNotFoundError:
        return 0.0


def behind_a_checkpoint(arguments, rows: list[str], missed: list[str]) -> None:
    """Much before the last checkpoint, little behind it: only the latter is to be read."""
    broker = Broker(data_dir=arguments.root / "checkpoint", shards=arguments.shards)
    partitions = 16
    try:
        broker.start()
        create(broker, "big", partitions, {"segment.bytes": str(16 << 20)})
        load = Load(broker, "big", partitions, 50_000)
        wait_until(lambda: sum(load.acked) * 50_000 > 1 << 30, 300, "1 GiB acknowledged", 0.05)
        load.end()
        written = time.time()
        wait_until(lambda: newest_checkpoints(broker) > written, 90, "a checkpoint behind it", 0.2)
        load = Load(broker, "big", partitions, 1_000)
        wait_until(lambda: min(load.acked) > 20, 60, "some more acknowledged", 0.01)
        broker.kill9()
        load.end()
        size = sum(path.stat().st_blocks * 512 for path in files(broker.data_dir, ".log"))
        seconds, count = start(broker)
        what = "killed soon after a checkpoint"
        rows.append(row(what, f"{size / 2**20:,.0f} MiB in {partitions} partitions", [seconds], [count], None))
        print(rows[-1], flush=True)
        if count > size / 10:
            missed.append(f"{what}: it read {count} of {size} bytes")
    finally:
        broker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--data-root", type=pathlib.Path, default=ROOT / "target")
    parser.add_argument("--name", default="start")
    parser.add_argument("--no-bounds", action="store_true")
    parser.add_argument("--only", choices=("clean", "killed", "checkpoint"), action="append")
    arguments = parser.parse_args()
    arguments.root = arguments.data_root / f"start-times-{os.getpid()}"
    arguments.root.mkdir(parents=True)
    rows: list[str] = []
    missed: list[str] = []
    try:
        for name, part in (("clean", clean_starts), ("killed", killed_starts), ("checkpoint", behind_a_checkpoint)):
            if not arguments.only or name in arguments.only:
                part(arguments, rows, missed)
    finally:
        import shutil

        shutil.rmtree(arguments.root, ignore_errors=True)
    load = os.getloadavg()[0]
    text = "\n".join(
        [
            "# Start times",
            "",
            f"{datetime.date.today()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {arguments.shards} shards, "
            f"{arguments.rounds} rounds each, load average {load:.1f} at the end. `perf/start.py`.",
            "",
            "| start | of | median s | from - to s | read MiB | bound s |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    path = ROOT / "perf" / "results" / f"{datetime.date.today()}-{arguments.name}.md"
    path.write_text(text)
    print(f"{path}\nmissed: {', '.join(missed) or 'nothing'}", flush=True)
    return 1 if missed and not arguments.no_bounds else 0


if __name__ == "__main__":
    sys.exit(main())
