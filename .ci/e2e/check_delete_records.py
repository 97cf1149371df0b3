"""DeleteRecords with librdkafka's admin client, by kcat and through kill -9; keys of compacted topics.

    check_delete_records.py

What was deleted is not read by anyone again, what follows is byte for byte what it was, and a broker that is
killed as soon as it has answered starts where it said.
"""

from __future__ import annotations

import json
import sys

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from lib import Broker, Checks, expect, expect_equal, kcat, tidelog

TOPIC = "trimmed"
PARTITIONS = 4
RECORDS = 5_000
KILLS = 5


def admin_of(broker: Broker) -> AdminClient:
    # Clients that end with an answer in hand say so at level 6.
    return AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 3})


def create(broker: Broker, topic: NewTopic) -> None:
    admin = admin_of(broker)
    for name, future in admin.create_topics([topic]).items():
        expect_equal(future.result(30), None, name)


def delete(broker: Broker, wanted: dict[int, int], topic: str = TOPIC) -> dict[int, object]:
    """Per partition the new low watermark, or Kafka's error code."""
    asked = [TopicPartition(topic, number, offset) for number, offset in wanted.items()]
    answers: dict[int, object] = {}
    admin = admin_of(broker)
    for partition, future in admin.delete_records(asked).items():
        try:
            answers[partition.partition] = future.result(30).low_watermark
        except KafkaException as error:
            answers[partition.partition] = error.args[0].code()
    return answers


def earliest(broker: Broker) -> list[int]:
    asked = {TopicPartition(TOPIC, number): OffsetSpec.earliest() for number in range(PARTITIONS)}
    admin = admin_of(broker)
    futures = admin.list_offsets(asked)
    found = {partition.partition: future.result(30).offset for partition, future in futures.items()}
    return [found[number] for number in range(PARTITIONS)]


def fill(broker: Broker) -> dict[int, list[bytes]]:
    """Small batches, so that log starts fall between and inside of them."""
    sent: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    errors: list[KafkaError] = []
    sender = Producer(
        {"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 2, "compression.type": "lz4",
         "batch.num.messages": 70}
    )  # fmt: skip
    for number in range(RECORDS):
        value = b"%06d %s" % (number, b"x" * (number % 97))
        partition = number % PARTITIONS
        sent[partition].append(value)
        while True:
            try:
                sender.produce(
                    TOPIC, value, partition=partition, on_delivery=lambda error, _: errors.append(error) if error else None
                )
                break
            except BufferError:
                sender.poll(0.1)
    expect_equal(sender.flush(60), 0, "messages not delivered")
    expect_equal(errors, [], "failed deliveries")
    return sent


def read_with_kcat(broker: Broker, partition: int) -> list[tuple[int, bytes]]:
    """From the beginning to the end."""
    said = kcat(broker, "-C", "-t", TOPIC, "-p", str(partition), "-o", "beginning", "-e", "-q", "-f", "%o %s\n")
    lines = [line.split(b" ", 1) for line in said.splitlines()]
    return [(int(offset), value) for offset, value in lines]


def expect_tails(broker: Broker, sent: dict[int, list[bytes]], starts: dict[int, int]) -> None:
    for number, values in sent.items():
        wanted = list(enumerate(values))[starts[number] :]
        expect_equal(read_with_kcat(broker, number), wanted, f"partition {number} from {starts[number]}")


def records(checks: Checks, broker: Broker) -> None:
    starts = {number: 0 for number in range(PARTITIONS)}
    with checks.check(f"{RECORDS} records in {PARTITIONS} partitions"):
        create(broker, NewTopic(TOPIC, PARTITIONS, 1))
        sent = fill(broker)
        expect_tails(broker, sent, starts)

    with checks.check("confluent-kafka deletes; kcat reads from the new start"):
        wanted = {0: 1, 1: 333, 2: 700}
        expect_equal(delete(broker, wanted), wanted, "low watermarks")
        starts.update(wanted)
        expect_equal(earliest(broker), list(starts.values()), "earliest offsets")
        expect_tails(broker, sent, starts)

    with checks.check("what cannot be done is an error of its partition alone"):
        end = len(sent[3])
        answers = delete(broker, {1: 10, 2: 701, 3: end + 1})
        expect_equal(answers, {1: 333, 2: 701, 3: KafkaError.OFFSET_OUT_OF_RANGE}, "answers")
        starts[2] = 701
        expect_tails(broker, sent, starts)

    for number in range(KILLS):
        with checks.check(f"killed with -9 as soon as it has answered, {number + 1} of {KILLS}"):
            wanted = {partition: starts[partition] + 37 + partition for partition in range(PARTITIONS)}
            expect_equal(delete(broker, wanted), wanted, "low watermarks")
            broker.kill9()
            broker.start()
            starts = wanted
            expect_equal(earliest(broker), list(starts.values()), "earliest offsets")
            expect_tails(broker, sent, starts)

    with checks.check("tidelog topic trim says where each partition starts, and an orderly stop keeps it"):
        result = tidelog("topic", "trim", TOPIC, "--before", "1000", "-b", broker.bootstrap, "--output", "jsonl")
        expect_equal(result.returncode, 0, result.stderr.decode(errors="replace"))
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        expect_equal([row["start_offset"] for row in rows], [1000] * PARTITIONS, "start offsets")
        starts = dict.fromkeys(starts, 1000)
        expect_equal(broker.stop(), 0, "exit code of the stop")
        broker.start()
        expect_tails(broker, sent, starts)

    with checks.check("everything goes, and the next record follows at its offset"):
        ends = {number: len(values) for number, values in sent.items()}
        expect_equal(delete(broker, dict.fromkeys(ends, -1)), ends, "low watermarks")
        for number, end in ends.items():
            expect_equal(read_with_kcat(broker, number), [], f"partition {number}")
            kcat(broker, "-P", "-t", TOPIC, "-p", str(number), stdin=b"next\n")
            expect_equal(read_with_kcat(broker, number), [(end, b"next")], f"partition {number}")


def compacted(checks: Checks, broker: Broker) -> None:
    with checks.check("a compacted topic keeps its records from DeleteRecords and takes none without a key"):
        create(broker, NewTopic("compacted", 1, 1, config={"cleanup.policy": "compact"}))
        outcomes: list[object] = []
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            sender = Producer({"bootstrap.servers": broker.bootstrap, "compression.type": codec})
            for key in (None, b"key"):
                sender.produce(
                    "compacted", b"value" * 100, key, on_delivery=lambda error, _: outcomes.append(error and error.code())
                )
                expect_equal(sender.flush(30), 0, "messages without an outcome")
        expect_equal(outcomes, [KafkaError.INVALID_RECORD, None] * 5, "outcomes")
        expect_equal(delete(broker, {0: -1}, "compacted"), {0: KafkaError.POLICY_VIOLATION}, "policy")
        read = kcat(broker, "-C", "-t", "compacted", "-o", "beginning", "-e", "-q", "-f", "%k\n")
        expect_equal(read, b"key\n" * 5, "keys")


def main() -> int:
    checks = Checks("delete_records")
    with Broker(shards=2) as broker:
        records(checks, broker)
        compacted(checks, broker)
        expect(broker.alive(), "the broker died")
        if checks.failed:
            print(broker.log_tail(), flush=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
