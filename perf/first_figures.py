"""First figures: broker CPU seconds per GiB for produce and consume, CPU per small request, idle cost, start.

The load is one prebuilt batch sent again and again and answers that are only hopped over, so the measuring
side costs next to nothing; only the broker's own CPU time (user and system, all threads) is reported.
Beside each figure stands the speed of light: the same work by a bare loop around io_uring, without a broker,
on a 2-vCPU guest (AMD EPYC Zen 4, Linux 6.18, ext4 on virtio).
"""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import platform
import selectors
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci" / "e2e"))

import wire  # noqa: E402
from lib import Broker, expect, expect_equal, tidelog, wait_until  # noqa: E402

GIB = 1 << 30
RECORD_BYTES = 1 << 10
RECORDS_PER_BATCH = 64
REQUESTS_IN_FLIGHT = 16
FETCH_BYTES = 1 << 20
SMALL_CONNECTIONS = 64
SMALL_REQUESTS = 100_000
IDLE_S = 10.0
STARTS = 9


def create_topic(broker: Broker, name: str) -> bytes:
    result = tidelog("topic", "create", name, "-b", broker.bootstrap, "--partitions", "1")
    expect_equal(result.returncode, 0, f"topic create: {result.stderr!r}")
    return name.encode()


def produce(broker: Broker, topic: bytes, total_bytes: int) -> tuple[float, float, int]:
    """(broker CPU s, wall s, payload bytes)."""
    batch = wire.record_batch([os.urandom(RECORD_BYTES)] * RECORDS_PER_BATCH, int(time.time() * 1000))
    frame = wire.produce_request(1, topic, 0, batch, -1)
    requests = max(total_bytes // len(batch), 1)
    with wire.connect(broker.port, 120) as connection:
        cpu, started = broker.cpu_s(), time.monotonic()
        sent = answered = 0
        while answered < requests:
            while sent < requests and sent - answered < REQUESTS_IN_FLIGHT:
                connection.sendall(frame)
                sent += 1
            error, _ = wire.produce_answer(wire.read_frame(connection))
            expect_equal(error, 0, "error code of a produce answer")
            answered += 1
        return broker.cpu_s() - cpu, time.monotonic() - started, requests * len(batch)


def consume(broker: Broker, topic: bytes, total_bytes: int) -> tuple[float, float, int]:
    with wire.connect(broker.port, 120) as connection:
        cpu, started = broker.cpu_s(), time.monotonic()
        offset = taken = 0
        while taken < total_bytes:
            connection.sendall(wire.fetch_request(1, topic, 0, offset, FETCH_BYTES))
            error, high_watermark, records = wire.fetch_answer(wire.read_frame(connection))
            expect_equal(error, 0, "error code of a fetch answer")
            taken += len(records)
            following = wire.next_offset(records, offset)
            if following == offset:
                expect(offset == high_watermark, f"nothing came at {offset} below {high_watermark}")
                break
            offset = following
        return broker.cpu_s() - cpu, time.monotonic() - started, taken


def small_requests(broker: Broker, topic: bytes) -> tuple[float, float]:
    """(CPU us per request, requests per second): one record a request, one in flight per connection."""
    frame = wire.produce_request(1, topic, 0, wire.record_batch([b"x" * 100], int(time.time() * 1000)), 1)
    selector = selectors.DefaultSelector()
    connections = [wire.connect(broker.port, 120) for _ in range(SMALL_CONNECTIONS)]
    try:
        cpu, started = broker.cpu_s(), time.monotonic()
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(frame)
        sent, answered = len(connections), 0
        while answered < SMALL_REQUESTS:
            for key, _ in selector.select(10):
                error, _ = wire.produce_answer(wire.read_frame(key.fileobj))
                expect_equal(error, 0, "error code of a produce answer")
                answered += 1
                if sent < SMALL_REQUESTS:
                    key.fileobj.sendall(frame)
                    sent += 1
        wall_s = time.monotonic() - started
        return (broker.cpu_s() - cpu) / SMALL_REQUESTS * 1e6, SMALL_REQUESTS / wall_s
    finally:
        selector.close()
        for connection in connections:
            connection.close()


def idle(rows: list[str]) -> None:
    with Broker(shards=2) as broker:
        # CPU time has steps of 10 ms, so a second of rest after the start would show as noise.
        before, started = broker.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        share = (broker.cpu_s() - before) / (time.monotonic() - started)
        rss_mib = broker.memory_kib("VmRSS") / 1024
        anonymous_mib = broker.memory_kib("RssAnon") / 1024
    rows.append(f"| idle resident memory, two shards | {rss_mib:.1f} MiB (anonymous {anonymous_mib:.1f}) | at most 64 MiB |")
    rows.append(f"| idle CPU, two shards | {share:.2%} of a core | under 1 % |")


def starts(rows: list[str]) -> None:
    times_ms = []
    for _ in range(STARTS):
        with Broker(shards=2) as broker:
            times_ms.append(broker.ready_after_s * 1000)
    times_ms.sort()
    rows.append(
        f"| ready on an empty directory, median of {STARTS} | {times_ms[STARTS // 2]:.0f} ms "
        f"(slowest {times_ms[-1]:.0f}) | under 200 ms |"
    )


def load(rows: list[str], durability: str, total_bytes: int) -> None:
    with Broker(shards=2, settings={"log.durability": durability}) as broker:
        topic = create_topic(broker, "figures")
        cpu_s, wall_s, count = produce(broker, topic, total_bytes)
        rows.append(row("produce", durability, cpu_s, wall_s, count, ".272"))
        cpu_s, wall_s, count = consume(broker, topic, count)
        rows.append(row("consume", durability, cpu_s, wall_s, count, ".227"))
        small_us, rate = small_requests(broker, create_topic(broker, "small"))
        rows.append(
            f"| one-record produce, 64 connections, `{durability}` | {small_us:.2f} us CPU per request, "
            f"{rate:,.0f} requests/s | 4.93 us (echo of 128 B) |"
        )
        wait_until(broker.alive, 1, "the broker is alive")


def row(what: str, durability: str, cpu_s: float, wall_s: float, count: int, light: str) -> str:
    gib = count / GIB
    return (
        f"| {what}, 64 KiB batches of 1 KiB records, `{durability}` | {cpu_s / gib:.3f} CPU s/GiB, "
        f"{gib / wall_s:.2f} GiB/s | {light} CPU s/GiB |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="how much to produce and consume in each mode")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    arguments = parser.parse_args()
    rows: list[str] = []
    starts(rows)
    idle(rows)
    for durability in ("os", "fsync"):
        load(rows, durability, int(arguments.gib * GIB))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    today = datetime.date.today().isoformat()
    out = arguments.out or ROOT / "perf" / "results" / f"{today}-first-figures.md"
    text = "\n".join(
        [
            f"# First figures, {today}, commit {commit or 'unknown'}",
            "",
            f"{os.cpu_count()} CPUs ({cpu_model()}), Linux {platform.release()}; loopback; two shards, one",
            f"partition, {arguments.gib:g} GiB in each mode. CPU is the broker's, user and system, all threads.",
            "Last column: the bar, or the same work by a bare loop around io_uring without a broker.",
            "",
            "| what | measured | beside |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text)
    print(f"written to {out}", file=sys.stderr)
    return 0


def cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
