"""Topics with storage=memory, by confluent-kafka: served as others are, on no disk, empty after kill -9 and after a
stop in order under a higher leader epoch, and bounded.

    check_memory_storage.py
"""

from __future__ import annotations

import pathlib
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

from lib import Broker, Checks, expect, expect_equal, metric, tidelog, wait_until

TOPIC = "fleeting"
DISK_TOPIC = "kept"
PARTITIONS = 3
RECORDS = 3_000
MARKER = b"only-in-memory-7f3a"
DISK_MARKER = b"on-the-disk-91c2"
MEMORY_MAX_MIB = 8
CHARGED_MIB = 64
VALUE_BYTES = 40_000
TIMEOUT_S = 60.0


def admin_of(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 3})


def create(broker: Broker, name: str, partitions: int, config: dict[str, str]) -> None:
    topic = NewTopic(name, partitions, 1, config=config)
    admin = admin_of(broker)
    for future in admin.create_topics([topic]).values():
        future.result(30)


def fill(broker: Broker, topic: str, marker: bytes, acks: str = "all") -> dict[int, list[bytes]]:
    sent: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
    errors: list[KafkaError] = []
    sender = Producer(
        {"bootstrap.servers": broker.bootstrap, "acks": acks, "enable.idempotence": acks == "all", "linger.ms": 2,
         "batch.num.messages": 100}
    )  # fmt: skip
    for number in range(RECORDS):
        value = b"%s %06d %s" % (marker, number, b"x" * (number % 211))
        partition = number % PARTITIONS
        sent[partition].append(value)
        sender.produce(
            topic, value, partition=partition, on_delivery=lambda error, _: errors.append(error) if error else None
        )
        sender.poll(0)
    expect_equal(sender.flush(TIMEOUT_S), 0, "messages not delivered")
    expect_equal(errors, [], "failed deliveries")
    return sent


def read(broker: Broker, topic: str, partition: int, count: int) -> list[bytes]:
    reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "unused", "enable.auto.commit": False})
    try:
        reader.assign([TopicPartition(topic, partition, 0)])
        values: list[bytes] = []

        def take() -> bool:
            for message in reader.consume(1_000, 0.2):
                if message.error():
                    raise KafkaException(message.error())
                values.append(message.value())
            return len(values) >= count

        wait_until(take, TIMEOUT_S, f"{count} records of {topic} {partition}")
        return values
    finally:
        reader.close()


def expect_sent(broker: Broker, topic: str, sent: dict[int, list[bytes]]) -> None:
    for partition, values in sent.items():
        expect(read(broker, topic, partition, len(values)) == values, f"{topic} {partition} is not as it was sent")


def ends(broker: Broker) -> list[tuple[int, int]]:
    """Start and end of each partition."""
    admin = admin_of(broker)
    found = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        asked = {TopicPartition(TOPIC, number): spec for number in range(PARTITIONS)}
        offsets = {p.partition: future.result(30).offset for p, future in admin.list_offsets(asked).items()}
        found.append([offsets[number] for number in range(PARTITIONS)])
    return list(zip(*found))


def epochs(broker: Broker) -> list[int]:
    """The leader epoch that each partition's first record carries."""
    reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "unused", "enable.auto.commit": False})
    found: dict[int, int] = {}
    try:
        reader.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])

        def take() -> bool:
            for message in reader.consume(100, 0.2):
                expect(message.error() is None, f"{message.error()}")
                found.setdefault(message.partition(), message.leader_epoch())
            return len(found) == PARTITIONS

        wait_until(take, TIMEOUT_S, "a record of each partition")
    finally:
        reader.close()
    return [found[number] for number in range(PARTITIONS)]


def files_with(directory: pathlib.Path, marker: bytes) -> list[str]:
    return [str(path) for path in directory.rglob("*") if path.is_file() and marker in path.read_bytes()]


def stored(broker: Broker) -> int:
    """Bytes told of records in memory."""
    return metric(broker, "memory_bytes", 'pool="storage"')


def serving(checks: Checks) -> None:
    with Broker(shards=2) as broker:
        with checks.check(f"{RECORDS} records go in and come out, and none of them is on the disk"):
            create(broker, TOPIC, PARTITIONS, {"storage": "memory"})
            create(broker, DISK_TOPIC, PARTITIONS, {})
            kept = fill(broker, DISK_TOPIC, DISK_MARKER)
            sent = fill(broker, TOPIC, MARKER)
            expect_sent(broker, TOPIC, sent)
            expect(stored(broker) > 0, "no bytes are told in memory")
            expect(files_with(broker.data_dir, DISK_MARKER), "this look would not find anything")
            expect_equal(files_with(broker.data_dir, MARKER), [], "files with records that are in memory only")

        before = [-1] * PARTITIONS
        for ending in ("killed with -9", "stopped in order"):
            with checks.check(f"{ending}, it is there again, empty, and takes records under a higher leader epoch"):
                seen = epochs(broker)
                expect(all(now > then for now, then in zip(seen, before)), f"{seen} after {before}")
                before = seen
                if ending == "stopped in order":
                    expect_equal(broker.stop(), 0, "exit code")
                else:
                    broker.kill9()
                verified = tidelog("segment", "verify", str(broker.data_dir))
                expect_equal(verified.returncode, 0, f"segment verify: {verified.stderr.decode()}")
                broker.start()
                expect_equal(ends(broker), [(0, 0)] * PARTITIONS, "starts and ends")
                sent = fill(broker, TOPIC, MARKER)
                expect_sent(broker, TOPIC, sent)
                seen = epochs(broker)
                expect(all(now > then for now, then in zip(seen, before)), f"{seen} after {before}")
                expect_sent(broker, DISK_TOPIC, kept)
                expect_equal(files_with(broker.data_dir, MARKER), [], "files with records that are in memory only")

        with checks.check("it is described, and cannot be changed"):
            admin = admin_of(broker)
            resource = ConfigResource(ConfigResource.Type.TOPIC, TOPIC)
            configs = list(admin.describe_configs([resource]).values())[0].result(30)
            expect_equal(configs["storage"].value, "memory", "storage")
            changed = tidelog("topic", "alter", TOPIC, "-b", broker.bootstrap, "-c", "storage=disk")
            expect(changed.returncode != 0, "it was changed")
            said = changed.stderr.decode()
            expect("cannot be changed" in said, f"the refusal says: {said}")


def offer(broker: Broker, count: int, timeout_ms: int) -> tuple[int, list[KafkaError]]:
    """Sends large records; how many were acknowledged, and the errors."""
    acked, errors = 0, []

    def on_delivery(error, _message) -> None:
        nonlocal acked
        if error:
            errors.append(error)
        else:
            acked += 1

    sender = Producer(
        {"bootstrap.servers": broker.bootstrap, "acks": "all", "message.timeout.ms": timeout_ms, "linger.ms": 0,
         "batch.num.messages": 1}
    )  # fmt: skip
    for number in range(count):
        sender.produce(TOPIC, b"%08d" % number + b"v" * VALUE_BYTES, partition=0, on_delivery=on_delivery)
        sender.poll(0)
    expect_equal(sender.flush(TIMEOUT_S), 0, "messages without an answer")
    return acked, errors


def bounded(checks: Checks) -> None:
    settings = {"storage.memory_max": f"{MEMORY_MAX_MIB}MiB", "log.retention_check_ms": "100"}
    with Broker(shards=2, settings=settings) as broker:
        most = MEMORY_MAX_MIB << 20
        with checks.check("the bound is told by an error that clients retry, and holds"):
            create(broker, TOPIC, 1, {"storage": "memory", "retention.ms": "-1"})
            acked, errors = offer(broker, 2 * most // VALUE_BYTES, 3_000)
            expect(acked * VALUE_BYTES > most // 2, f"only {acked} records fit")
            expect(errors, "everything was taken")
            # The client tried again until its own time was up.
            codes = {error.code() for error in errors}
            expect_equal(codes, {KafkaError._MSG_TIMED_OUT}, "errors of the records that were not taken")
            expect(stored(broker) <= most, "more than the bound is taken")
            expect(metric(broker, "produce_refused_full_total") > 1, "it was not tried again")

        with checks.check("what was acknowledged is read; a waiting producer goes on when retention made room"):
            values = read(broker, TOPIC, 0, acked)
            expect_equal([value[:8] for value in values[:acked]], [b"%08d" % n for n in range(acked)], "records")
            altered = tidelog(
                "topic", "alter", TOPIC, "-b", broker.bootstrap, "-c", f"retention.bytes={2 << 20}"
            )
            expect_equal(altered.returncode, 0, f"topic alter: {altered.stderr.decode()}")
            acked, errors = offer(broker, 2 * most // VALUE_BYTES, 60_000)
            expect_equal(errors, [], "errors")
            expect_equal(acked, 2 * most // VALUE_BYTES, "acknowledged")
            wait_until(lambda: stored(broker) < most // 2, TIMEOUT_S, "retention gives memory back")

        with checks.check("a deleted topic gives all of it back"):
            admin = admin_of(broker)
            for future in admin.delete_topics([TOPIC]).values():
                future.result(30)
            wait_until(lambda: stored(broker) == 0, TIMEOUT_S, "nothing is held")


def charged(checks: Checks) -> None:
    settings = {"storage.memory_max": f"{CHARGED_MIB}MiB", "memory.limit": "256MiB"}
    with Broker(shards=2, settings=settings) as broker:
        with checks.check("what is told of records in memory is what the process holds"):
            create(broker, TOPIC, PARTITIONS, {"storage": "memory"})
            fill(broker, TOPIC, MARKER)
            held, told = broker.memory_kib("RssAnon"), stored(broker) // 1024
            sender = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 1})
            for number in range(CHARGED_MIB * 1024 * 3 // 4):
                # Batches of all sizes, down to one record.
                sender.produce(TOPIC, MARKER + b"v" * 1_000, partition=number % PARTITIONS)
                if number % 50 < 3:
                    sender.flush(TIMEOUT_S)
            expect_equal(sender.flush(TIMEOUT_S), 0, "messages not delivered")
            held, told = broker.memory_kib("RssAnon") - held, stored(broker) // 1024 - told
            print(f"     {told} KiB more are told, RssAnon grew by {held} KiB", flush=True)
            expect(told > CHARGED_MIB * 1024 // 2, f"only {told} KiB are told")
            expect(held < told * 1.15 + 2_048, f"{held} KiB are held, {told} KiB are told")


def main() -> int:
    checks = Checks("memory storage")
    serving(checks)
    bounded(checks)
    charged(checks)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
