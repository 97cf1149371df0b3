"""Retention by size and by age, with kcat and confluent-kafka, through kill -9.

    check_retention.py

Starts move, disk space comes back, and whatever is at or above a start is byte for byte what was sent, also when
the broker is killed in the middle of it.
"""

from __future__ import annotations

import random
import sys
import time

from confluent_kafka import KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from lib import Broker, CheckFailed, Checks, expect, expect_equal, http_status, kcat, wait_until

PARTITIONS = 2
SEGMENT_BYTES = 1 << 20
VALUE_BYTES = 20_000
# Some nine segments in each partition.
RECORDS = 900
KEPT_BYTES = 3 << 20
KILLS = 6
MOVES_WITHIN_S = 60.0
READS_MAX = 20


def admin_of(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 3})


def create(broker: Broker, name: str, config: dict[str, str]) -> None:
    settings = {"segment.bytes": str(SEGMENT_BYTES), "retention.ms": "-1", **config}
    topic = NewTopic(name, PARTITIONS, 1, config=settings)
    admin = admin_of(broker)
    for _, future in admin.create_topics([topic]).items():
        expect_equal(future.result(30), None, name)


def alter(broker: Broker, name: str, key: str, value: str) -> None:
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    admin = admin_of(broker)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)


def value_of(number: int) -> bytes:
    return b"%08d " % number + random.Random(number).randbytes(VALUE_BYTES // 2).hex().encode()


def fill(broker: Broker, topic: str, first: int, count: int) -> None:
    """Record n of a partition holds `value_of(n)`, so that what is read tells by itself whether it is right."""
    errors: list[KafkaError] = []
    sender = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 5, "enable.idempotence": True})
    for number in range(first, first + count):
        for partition in range(PARTITIONS):
            while True:
                try:
                    sender.produce(
                        topic, value_of(number), b"key", partition=partition,
                        on_delivery=lambda error, _: errors.append(error) if error else None,
                    )  # fmt: skip
                    break
                except BufferError:
                    sender.poll(0.1)
    expect_equal(sender.flush(120), 0, "messages not delivered")
    expect_equal(errors, [], "failed deliveries")


def starts(broker: Broker, topic: str) -> list[int]:
    asked = {TopicPartition(topic, number): OffsetSpec.earliest() for number in range(PARTITIONS)}
    admin = admin_of(broker)
    futures = admin.list_offsets(asked)
    found = {partition.partition: future.result(30).offset for partition, future in futures.items()}
    return [found[number] for number in range(PARTITIONS)]


def read_between_removals(broker: Broker, topic: str, partition: int) -> tuple[list[list[bytes]], int]:
    """Offsets and values of a partition, and its start. A consumer below a start that moves up while it reads is
    sent to the end, so only what was read while the start stayed where it was counts."""
    for _ in range(READS_MAX):
        start = starts(broker, topic)[partition]
        said = kcat(broker, "-C", "-t", topic, "-p", str(partition), "-o", "beginning", "-e", "-q", "-f", "%o %s\n")
        if starts(broker, topic)[partition] == start:
            return [line.split(b" ", 1) for line in said.splitlines()], start
    raise CheckFailed(f"partition {partition}: the start moved during each of {READS_MAX} reads")


def expect_all(broker: Broker, topic: str, ends: int, at_least: list[int]) -> list[int]:
    """Every record from each start on is there; answers the starts, which are not below those before."""
    found = []
    for partition in range(PARTITIONS):
        lines, start = read_between_removals(broker, topic, partition)
        expect(start >= at_least[partition], f"partition {partition} starts at {start}, it started at {at_least[partition]}")
        expect_equal([int(offset) for offset, _ in lines], list(range(start, ends)), f"offsets of partition {partition}")
        wanted = [(number, value_of(number)) for number in range(start, ends)]
        expect([(int(offset), value) for offset, value in lines] == wanted, f"partition {partition} from {start} to {ends}")
        found.append(start)
    return found


def used_bytes(broker: Broker) -> int:
    """Blocks that the segment files take."""
    total = 0
    for path in (broker.data_dir / "partitions").rglob("*.log"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def by_size(checks: Checks, broker: Broker) -> None:
    found = [0] * PARTITIONS
    with checks.check(f"{RECORDS} records in each of {PARTITIONS} partitions, kept for ever"):
        create(broker, "sized", {})
        fill(broker, "sized", 0, RECORDS)
        expect_equal(expect_all(broker, "sized", RECORDS, [0] * PARTITIONS), [0] * PARTITIONS, "starts")

    with checks.check("retention.bytes moves the starts and gives disk space back"):
        before = used_bytes(broker)
        expect(before > PARTITIONS * RECORDS * VALUE_BYTES, f"only {before} bytes are used")
        alter(broker, "sized", "retention.bytes", str(KEPT_BYTES))
        # What is kept, a segment beyond it, and space that the last segment took ahead.
        most = PARTITIONS * (KEPT_BYTES + 2 * SEGMENT_BYTES + (2 << 20))
        wait_until(lambda: used_bytes(broker) <= most, MOVES_WITHIN_S, f"at most {most} bytes used", 0.05)
        found = expect_all(broker, "sized", RECORDS, [1] * PARTITIONS)
        expect_equal(starts(broker, "sized"), found, "earliest offsets")
        left = (RECORDS - max(found)) * VALUE_BYTES
        expect(left > KEPT_BYTES - SEGMENT_BYTES, f"only {left} bytes are left")

    chance = random.Random(20_261_124)
    ends, known = RECORDS, found
    for number in range(KILLS):
        with checks.check(f"kill -9 in the middle of it, {number + 1} of {KILLS}"):
            alter(broker, "sized", "retention.bytes", "-1")
            fill(broker, "sized", ends, RECORDS // 3)
            ends += RECORDS // 3
            known = expect_all(broker, "sized", ends, known)
            alter(broker, "sized", "retention.bytes", "1")
            # The random moment itself, not a wait for something.
            time.sleep(chance.uniform(0.0, 0.15))
            broker.kill9()
            broker.start()
            known = expect_all(broker, "sized", ends, known)
            wait_until(
                lambda: all(start > old for start, old in zip(starts(broker, "sized"), known))
                or used_bytes(broker) <= PARTITIONS * (2 * SEGMENT_BYTES + (2 << 20)),
                MOVES_WITHIN_S,
                "retention goes on after the kill",
                0.05,
            )
            known = expect_all(broker, "sized", ends, known)

    with checks.check("an idempotent producer goes on, and an orderly stop keeps the starts"):
        fill(broker, "sized", ends, 10)
        ends += 10
        alter(broker, "sized", "retention.bytes", "-1")
        known = expect_all(broker, "sized", ends, known)
        expect_equal(broker.stop(), 0, "exit code of the stop")
        broker.start()
        expect_equal(expect_all(broker, "sized", ends, known), known, "starts")


def by_age(checks: Checks, broker: Broker) -> None:
    with checks.check("retention.ms takes everything in the end, and offsets go on"):
        create(broker, "aged", {})
        fill(broker, "aged", 0, 150)
        expect_equal(starts(broker, "aged"), [0] * PARTITIONS, "nothing is taken before")
        alter(broker, "aged", "retention.ms", "1000")
        wait_until(lambda: starts(broker, "aged") == [150] * PARTITIONS, MOVES_WITHIN_S, "all is too old", 0.05)
        alter(broker, "aged", "retention.ms", "-1")
        fill(broker, "aged", 150, 5)
        expect_equal(expect_all(broker, "aged", 155, [150] * PARTITIONS), [150] * PARTITIONS, "starts")

    with checks.check("a compacted topic keeps everything"):
        create(broker, "compacted", {"cleanup.policy": "compact", "retention.bytes": "1", "retention.ms": "1"})
        fill(broker, "compacted", 0, 150)
        create(broker, "witness", {"retention.ms": "1"})
        fill(broker, "witness", 0, 150)
        wait_until(lambda: starts(broker, "witness") == [150] * PARTITIONS, MOVES_WITHIN_S, "others go meanwhile", 0.05)
        expect_equal(expect_all(broker, "compacted", 150, [0] * PARTITIONS), [0] * PARTITIONS, "starts")


def main() -> int:
    checks = Checks("retention")
    with Broker(shards=2, settings={"log.retention_check_ms": "50"}) as broker:
        by_size(checks, broker)
        by_age(checks, broker)
        with checks.check("the broker is healthy"):
            expect_equal(http_status(f"http://127.0.0.1:{broker.admin_port}/health/ready"), 200, "health")
            expect("quarantined: [Quarantined" not in broker.log(), "something counts as damaged")
        if checks.failed:
            print(broker.log_tail(), flush=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
