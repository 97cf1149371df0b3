"""The log under fsync: what an acknowledgement waits for, and what many partitions cost.

The server under load has core 0 and the load generator core 1. Every run has a server and a data directory of
its own, on the disk that holds --data-root; directories are removed after the run.
"""

from __future__ import annotations

import json
import subprocess
import sys

import compare
from compare import LIGHT, LOAD_TIMEOUT_S, SERVER_CORE, Options, Table, broker, directory, kafka, median, ratio, rounds
from lib import metric

# 200 MB/s in records of which each is a request.
LATENCY_RECORD_BYTES = 64 << 10
LATENCY_RATE = 200_000_000 // LATENCY_RECORD_BYTES
# What an acknowledgement at that rate may take beside the device's own sync of as many bytes.
LATENCY_P99_RATIO_MAX = 2.0
# Hot partitions: all of them get batches in turn, with so many requests on their way.
HOT_BATCH_BYTES = 16 << 10
HOT_CONNECTIONS, HOT_IN_FLIGHT = 4, 256
HOT_SHARE_MIN = 0.7
# All have a segment, and the journal its first files, before anything is counted.
HOT_WARM_UP_BYTES = 512 << 20
# A roll each second or so.
RECYCLED_SEGMENT_BYTES = "256MiB"
# What the reader may be behind, and how long it takes until the first files come back.
RECYCLED_RETENTION_BYTES, RECYCLED_WARM_UP_S = "512MiB", 6


def latency_at_200_mb() -> Table:
    seconds = Options.seconds() + 1

    def ours() -> dict:
        with broker(durability="fsync") as running:
            size = ("--record-bytes", LATENCY_RECORD_BYTES, "--rate", LATENCY_RATE, "--seconds", seconds)
            return kafka(running, "latency", 1, *size)["answer"]

    def device() -> dict:
        with directory() as path:
            count = "200" if Options.quick else "2000"
            command = ["taskset", "-c", SERVER_CORE, str(LIGHT), "sync-latency", "--dir", str(path)]
            command += ["--bytes", str(LATENCY_RECORD_BYTES), "--count", count]
            result = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=True)
            return json.loads(result.stdout)

    results = rounds({"broker: acknowledgement": ours, "append + fdatasync, one after the other": device})
    table = Table(
        f"latency at {LATENCY_RATE:,} records/s of 64 KiB (200 MB/s), acks=all, `fsync`, us", "what", "p50", "p99", "p99.9", "max"
    )
    for name, reports in results.items():
        table.row(name, *(f"{median(reports, q):,.0f}" for q in ("p50_us", "p99_us", "p999_us", "max_us")))
    ours_p99, device_p99 = (median(reports, "p99_us") for reports in results.values())
    table.note(f"p99 to the device's own: {ratio(ours_p99, device_p99)} (wanted: at most {LATENCY_P99_RATIO_MAX:.1f}).")
    return table


def recycled_segments() -> str:
    """A topic at its retention, so that segments come and go: their files are new, or those of removed ones."""
    seconds = Options.seconds() + 2

    def warm(recycle_max: str, then) -> dict:
        settings = {
            "storage.recycle_max": recycle_max,
            "log.segment_bytes": RECYCLED_SEGMENT_BYTES,
            "log.retention_bytes": RECYCLED_RETENTION_BYTES,
            "log.retention_check_ms": "100",
        }
        with broker(durability="fsync", more=settings) as running:
            return then(running)

    def latency(running) -> dict:
        # What is sent before the first files come back is not counted.
        size = ("--record-bytes", LATENCY_RECORD_BYTES, "--rate", LATENCY_RATE)
        time = ("--warm-up-seconds", RECYCLED_WARM_UP_S, "--seconds", seconds + RECYCLED_WARM_UP_S)
        return kafka(running, "latency", 1, *size, *time)["answer"]

    def produce(running) -> dict:
        kafka(running, "produce", 1, "--bytes", 1 << 30)
        return kafka(running, "produce", 1, "--bytes", Options.bytes() * 2)

    ways = {"new files": "0", "recycled files": "4GiB"}
    shape = f"1 partition at its retention, segments of {RECYCLED_SEGMENT_BYTES}, `fsync`"
    late = Table(
        f"acknowledgement at {LATENCY_RATE:,} records/s of 64 KiB (200 MB/s), {shape}, us", "segments are", "p50", "p99", "p99.9", "max"
    )
    results = rounds({name: lambda limit=limit: warm(limit, latency) for name, limit in ways.items()})
    for name, reports in results.items():
        late.row(name, *(f"{median(reports, q):,.0f}" for q in ("p50_us", "p99_us", "p999_us", "max_us")))
    fast = Table(f"produce in batches of 64 KiB, 16 in flight, {shape}", "segments are", "GiB/s", "CPU s/GiB")
    results = rounds({name: lambda limit=limit: warm(limit, produce) for name, limit in ways.items()})
    for name, reports in results.items():
        fast.row(name, f"{median(reports, 'gib_per_s'):.2f}", f"{median(reports, 'broker.cpu_s_per_gib'):.2f}")
    return f"{late}\n{fast}"


def hot_partitions() -> Table:
    counts = (16, 1_000, 10_000)

    def run(partitions: int, journal: str):
        def one() -> dict:
            with broker(durability="fsync", more={"journal.max_bytes": journal}) as running:
                shape = ("--connections", HOT_CONNECTIONS, "--in-flight", HOT_IN_FLIGHT, "--batch-bytes", HOT_BATCH_BYTES)
                kafka(running, "produce", partitions, *shape, "--bytes", HOT_WARM_UP_BYTES)
                report = kafka(running, "produce", partitions, *shape, "--bytes", Options.bytes() * 2)
                return report | {"journal_trims": metric(running, "journal_trims_total")}

        return one

    contestants = {f"{count:,}": run(count, "auto") for count in counts}
    contestants |= {f"{count:,}, without a commit journal": run(count, "0") for count in counts}
    results = rounds(contestants)
    table = Table(
        f"produce into many hot partitions, 16 KiB batches, {HOT_CONNECTIONS} x {HOT_IN_FLIGHT} in flight, `fsync`",
        "partitions", "GiB/s", "to 16 partitions", "CPU s/GiB", "switches/record", "journal trims",
    )  # fmt: skip
    first = None
    for name, reports in results.items():
        rate = median(reports, "gib_per_s")
        first = first or rate
        cpu = median(reports, "broker.cpu_s_per_gib")
        switches = median(reports, "broker.context_switches_per_record")
        trims = f"{median(reports, 'journal_trims'):.0f}"
        table.row(name, f"{rate:.2f}", ratio(rate, first), f"{cpu:.2f}", f"{switches:.4f}", trims)
    table.note(f"10,000 partitions are to reach {HOT_SHARE_MIN:.0%} of 16, over at least three trims of the journal.")
    return table


ROWS = {"latency-200": latency_at_200_mb, "recycled": recycled_segments, "hot-partitions": hot_partitions}

if __name__ == "__main__":
    sys.exit(compare.main(ROWS, "perf/log.py", __doc__, "log"))
