"""kcat and confluent-kafka, by assign(): what they produce is what they consume.

    check_clients.py [--lines N]     N lines of text go through byte for byte (default 200,000)

Two shards; topics of 1 and of 16 partitions, so that connections and partitions meet on different shards.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from lib import Broker, Checks, CheckFailed, expect, expect_equal, kcat, text_lines, tidelog, wait_until

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
# Of this hour: what is older than retention.ms may be removed at any moment.
BASE_TIME_MS = int(time.time()) // 3_600 * 3_600_000


def producer(broker: Broker, **settings) -> Producer:
    return Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 5, **settings})


def consumer(broker: Broker, **settings) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "e2e-by-assign",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            **settings,
        }
    )


def send_all(sender: Producer, messages) -> list:
    """Produces and returns the delivered messages in the order of delivery; any failure raises."""
    delivered, errors = [], []

    def done(error, message) -> None:
        (errors if error else delivered).append(error or message)

    for message in messages:
        while True:
            try:
                sender.produce(on_delivery=done, **message)
                break
            except BufferError:
                sender.poll(0.1)
        sender.poll(0)
    left = sender.flush(60)
    expect(not errors, f"{len(errors)} deliveries failed, first: {errors[:1]}")
    expect_equal(left, 0, "messages not delivered after a flush")
    return delivered


def read_to_end(broker: Broker, topic: str, partitions, offsets: dict | None = None) -> dict[int, list]:
    """Every message from its offset (default: the beginning) to the end of each partition."""
    offsets = offsets or {}
    reader = consumer(broker)
    try:
        return drain(
            reader,
            [TopicPartition(topic, number, offsets.get(number, OFFSET_BEGINNING)) for number in partitions],
        )
    finally:
        reader.close()


def drain(reader: Consumer, assignment: list[TopicPartition]) -> dict[int, list]:
    reader.assign(assignment)
    found: dict[int, list] = {entry.partition: [] for entry in assignment}
    open_partitions = set(found)
    deadline = time.monotonic() + 120
    while open_partitions:
        expect(time.monotonic() < deadline, f"no end of partitions {sorted(open_partitions)} within 120 s")
        for message in reader.consume(10_000, timeout=0.2):
            error = message.error()
            if error is None:
                found[message.partition()].append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
            else:
                raise CheckFailed(f"consume: {error}")
    return found


def fields(message) -> tuple:
    return message.key(), message.value(), message.headers()


def settled(futures) -> None:
    for name, future in futures.items():
        try:
            future.result(30)
        except KafkaException as error:
            raise CheckFailed(f"{name}: {error}") from error


def admin_basics(checks: Checks, broker: Broker, admin: AdminClient) -> None:
    with checks.check("topics of 1 and 16 partitions are created and ready at once"):
        settled(admin.create_topics([NewTopic("one", 1, 1), NewTopic("sixteen", 16, 1)]))
        topics = admin.list_topics(timeout=10).topics
        expect_equal(len(topics["one"].partitions), 1, "partitions of topic one")
        expect_equal(len(topics["sixteen"].partitions), 16, "partitions of topic sixteen")

    with checks.check("a topic that exists is refused as existing"):
        future = admin.create_topics([NewTopic("one", 1, 1)])["one"]
        try:
            future.result(30)
        except KafkaException as error:
            expect_equal(error.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS, "error code")
        else:
            raise CheckFailed("creating topic one again succeeded")

    with checks.check("partitions are added, a topic is deleted and made again"):
        settled(admin.create_topics([NewTopic("short-lived", 1, 1)]))
        send_all(producer(broker), [{"topic": "short-lived", "value": b"old", "partition": 0}])
        settled(admin.create_partitions([NewPartitions("short-lived", 3)]))
        expect_equal(len(admin.list_topics(timeout=10).topics["short-lived"].partitions), 3, "partitions")
        settled(admin.delete_topics(["short-lived"]))
        wait_until(
            lambda: "short-lived" not in admin.list_topics(timeout=10).topics, 10, "the name is gone", 0.05
        )
        settled(admin.create_topics([NewTopic("short-lived", 1, 1)]))
        send_all(producer(broker), [{"topic": "short-lived", "value": b"new", "partition": 0}])
        found = read_to_end(broker, "short-lived", [0])[0]
        expect_equal([(m.offset(), m.value()) for m in found], [(0, b"new")], "records of the new topic")

    with checks.check("configs of a topic and of the broker are described"):
        resources = [
            ConfigResource(ConfigResource.Type.TOPIC, "one"),
            ConfigResource(ConfigResource.Type.BROKER, str(next(iter(admin.list_topics(timeout=10).brokers)))),
        ]
        futures = admin.describe_configs(resources)
        topic = futures[resources[0]].result(30)
        node = futures[resources[1]].result(30)
        expect("retention.ms" in topic, f"topic configs have no retention.ms: {sorted(topic)}")
        expect("num.partitions" in node, f"broker configs have no num.partitions: {sorted(node)}")


def records_of_every_kind(checks: Checks, broker: Broker) -> None:
    headers = [("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None)]
    kinds = [
        {"key": b"k", "value": b"v", "headers": headers},
        {"key": None, "value": b"no key"},
        {"key": b"tombstone", "value": None},
        {"key": b"", "value": b""},
        {"key": bytes(range(256)), "value": bytes(range(256)) * 40},
    ]
    for topic, partitions in (("one", 1), ("sixteen", 16)):
        for codec in CODECS:
            with checks.check(f"keys, headers, nulls: {codec}, {partitions} partitions"):
                sender = producer(broker, **{"compression.type": codec})
                sent: dict[int, list] = {number: [] for number in range(partitions)}
                messages = []
                for number in range(500):
                    partition = number % partitions
                    message = dict(kinds[number % len(kinds)], topic=topic, partition=partition)
                    messages.append(message)
                    sent[partition].append((message["key"], message["value"], message.get("headers")))
                first: dict[int, int] = {}
                for message in send_all(sender, messages):
                    first[message.partition()] = min(
                        first.get(message.partition(), message.offset()), message.offset()
                    )
                everything = read_to_end(broker, topic, range(partitions), first)
                for partition, found in everything.items():
                    expect_equal(
                        [fields(message) for message in found], sent[partition], f"partition {partition}"
                    )
                    offsets = [message.offset() for message in found]
                    expect_equal(
                        offsets,
                        list(range(first[partition], first[partition] + len(found))),
                        f"offsets of partition {partition}",
                    )

    with checks.check("an idempotent producer"):
        sender = producer(broker, **{"enable.idempotence": True})
        done = send_all(
            sender, [{"topic": "one", "value": b"i%d" % n, "partition": 0} for n in range(5_000)]
        )
        found = read_to_end(broker, "one", [0], {0: min(message.offset() for message in done)})[0]
        expect_equal([m.value() for m in found], [b"i%d" % n for n in range(5_000)], "records")

    for acks in ("0", "1"):
        with checks.check(f"acks={acks}"):
            before = len(read_to_end(broker, "one", [0])[0])
            send_all(
                producer(broker, acks=acks),
                [{"topic": "one", "value": b"%d" % n, "partition": 0} for n in range(100)],
            )
            wait_until(
                lambda: len(read_to_end(broker, "one", [0])[0]) == before + 100, 20, "100 more records", 0.1
            )


def positions(checks: Checks, broker: Broker, admin: AdminClient) -> None:
    settled(admin.create_topics([NewTopic("times", 1, 1)]))
    sender = producer(broker)
    # Ten batches of two records, a second between neighbours: a time may fall inside a batch.
    for batch in range(10):
        send_all(
            sender,
            [
                {
                    "topic": "times",
                    "partition": 0,
                    "value": b"%d" % (2 * batch + half),
                    "timestamp": BASE_TIME_MS + 1_000 * (2 * batch + half),
                }
                for half in (0, 1)
            ],
        )
    reader = consumer(broker)

    with checks.check("the watermarks"):
        marks = reader.get_watermark_offsets(TopicPartition("times", 0), timeout=10)
        expect_equal(marks, (0, 20), "low and high watermark")

    with checks.check("offsets by time, also inside a batch, before the first and after the last"):
        for at_ms, wanted in ((-5_000, 0), (0, 0), (500, 1), (5_000, 5), (5_001, 6), (19_000, 19), (19_001, -1)):
            asked = [TopicPartition("times", 0, BASE_TIME_MS + at_ms)]
            found = reader.offsets_for_times(asked, timeout=10)[0]
            expect(found.error is None, f"at {at_ms} ms: {found.error}")
            expect_equal(found.offset, wanted, f"offset at {at_ms} ms")

    with checks.check("from an offset to the end"):
        found = drain(reader, [TopicPartition("times", 0, 7)])[0]
        expect_equal([int(m.value()) for m in found], list(range(7, 20)), "records from 7")
        expect_equal(
            [m.timestamp()[1] for m in found],
            [BASE_TIME_MS + 1_000 * n for n in range(7, 20)],
            "timestamps",
        )

    with checks.check("an offset beyond the end is out of range, not silence"):
        reader.assign([TopicPartition("times", 0, 1_000)])
        message = wait_until(lambda: reader.poll(1.0), 20, "an error event")
        expect(message.error() is not None, "a record came from beyond the end")
        expect(
            message.error().code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET),
            f"wanted offset out of range, got {message.error()}",
        )

    with checks.check("from the end: only what is produced later"):
        reader.assign([TopicPartition("times", 0, OFFSET_END)])
        late = []

        def new_record() -> bool:
            # The end is looked up in the background: produce until one arrives behind it.
            send_all(sender, [{"topic": "times", "partition": 0, "value": b"late"}])
            for message in reader.consume(100, timeout=0.5):
                if message.error() is None:
                    late.append(message)
            return bool(late)

        wait_until(new_record, 30, "a record produced after the assignment")
        expect(late[0].offset() >= 20, f"offset {late[0].offset()} was there before")
        expect_equal({m.value() for m in late}, {b"late"}, "values")
    reader.close()


def with_kcat(checks: Checks, broker: Broker, admin: AdminClient) -> None:
    for codec in CODECS:
        with checks.check(f"kcat produces and consumes: {codec}"):
            topic = f"kcat-{codec}"
            settled(admin.create_topics([NewTopic(topic, 1, 1)]))
            lines = [b"key-%d:value %d" % (n, n) for n in range(1_000)]
            kcat(
                broker, "-P", "-t", topic, "-p", "0", "-K", ":", "-H", "h=1", "-z", codec,
                stdin=b"\n".join(lines) + b"\n",
            )  # fmt: skip
            out = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q",
                       "-f", "%o|%h|%k:%s\\n")  # fmt: skip
            wanted = [b"%d|h=1|%s" % (n, line) for n, line in enumerate(lines)]
            expect_equal(out.splitlines(), wanted, "consumed")

    with checks.check("kcat from an offset, from the tail, from the end, from a time"):
        topic = "kcat-none"
        value = ["-q", "-e", "-f", "%o\\n"]
        out = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", "990", *value)
        expect_equal(out.split(), [b"%d" % n for n in range(990, 1_000)], "from 990")
        out = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", "-2", *value)
        expect_equal(out.split(), [b"998", b"999"], "the last two")
        out = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", "end", *value)
        expect_equal(out, b"", "from the end")
        out = kcat(broker, "-C", "-t", "times", "-p", "0", "-o", f"s@{BASE_TIME_MS + 17_500}", "-c", "2",
                   "-q", "-f", "%o\\n")  # fmt: skip
        expect_equal(out.split(), [b"18", b"19"], "from a time inside a batch")
        out = kcat(broker, "-Q", "-t", f"times:0:{BASE_TIME_MS + 5_500}")
        expect(b"offset 6" in out, f"query by time said {out!r}")

    with checks.check("a topic that is not there is made by its first producer"):
        kcat(broker, "-P", "-t", "made-by-producing", stdin=b"hello\n")
        out = kcat(broker, "-C", "-t", "made-by-producing", "-o", "beginning", "-e", "-q")
        expect_equal(out, b"hello\n", "consumed")

    with checks.check("kcat lists brokers and topics"):
        out = kcat(broker, "-L").decode()
        expect(f"localhost:{broker.port}" in out, f"the advertised address is missing: {out}")
        expect('topic "sixteen" with 16 partitions' in out, f"topic sixteen is missing: {out}")


def with_tidelog(checks: Checks, broker: Broker, admin: AdminClient) -> None:
    at_broker = ["-b", broker.bootstrap]

    def succeeds(*arguments: str, stdin: bytes | None = None) -> bytes:
        result = tidelog(*arguments, stdin=stdin)
        expect_equal(result.returncode, 0, f"tidelog {' '.join(arguments)}: {result.stderr.decode()[-500:]!r}")
        return result.stdout

    with checks.check("tidelog topic create, list, describe, alter, add-partitions, delete"):
        succeeds("topic", "create", "by-tidelog", "-p", "2", "-c", "retention.ms=3600000", *at_broker)
        names = json.loads(succeeds("topic", "list", "--output", "json", *at_broker))
        expect("by-tidelog" in json.dumps(names), f"not listed: {names}")
        expect_equal(len(admin.list_topics(timeout=10).topics["by-tidelog"].partitions), 2, "partitions")
        succeeds("topic", "alter", "by-tidelog", "-c", "retention.ms=7200000", *at_broker)
        expect(b"7200000" in succeeds("topic", "describe", "by-tidelog", *at_broker), "the altered config")
        succeeds("topic", "add-partitions", "by-tidelog", "-p", "3", *at_broker)
        expect_equal(len(admin.list_topics(timeout=10).topics["by-tidelog"].partitions), 3, "partitions")
        succeeds("topic", "delete", "by-tidelog", "--yes", *at_broker)
        expect(b"by-tidelog" not in succeeds("topic", "list", *at_broker), "still listed")

    for codec in CODECS:
        with checks.check(f"tidelog produce, kcat and tidelog consume: {codec}"):
            topic = f"tidelog-{codec}"
            settled(admin.create_topics([NewTopic(topic, 1, 1)]))
            lines = b"".join(b"line %d\n" % number for number in range(1_000))
            succeeds("produce", topic, "-p", "0", "-k", "key", "-H", "a=b", "-z", codec, *at_broker, stdin=lines)
            out = kcat(broker, "-C", "-t", topic, "-p", "0", "-o", "beginning", "-e", "-q",
                       "-f", "%o %k %h %s\\n")  # fmt: skip
            wanted = [b"%d key a=b line %d" % (number, number) for number in range(1_000)]
            expect_equal(out.splitlines(), wanted, "what kcat read")
            expect_equal(succeeds("consume", topic, "-o", "start", "-e", *at_broker), lines, "what tidelog read")
            tail = succeeds("consume", topic, "-o", "-2", "-e", "-f", "%o\\n", *at_broker)
            expect_equal(tail, b"998\n999\n", "the last two offsets")
            few = succeeds("consume", topic, "-o", "10", "-n", "3", "-f", "%o\\n", *at_broker)
            expect_equal(few, b"10\n11\n12\n", "three from offset 10")

    with checks.check("tidelog consume from a time"):
        out = succeeds("consume", "times", "-o", f"@{BASE_TIME_MS + 5_500}", "-n", "2", "-f", "%o %s\\n", *at_broker)
        expect_equal(out, b"6 6\n7 7\n", "two from a time inside a batch")

    with checks.check("tidelog cluster info"):
        info = json.dumps(json.loads(succeeds("cluster", "info", "--output", "json", *at_broker)))
        expect(str(broker.port) in info, f"the broker's port is not in {info}")

    with checks.check("tidelog completions and man"):
        expect(b"tidelog" in succeeds("completions", "bash"), "no completion script")
        pages = broker.scratch / "man"
        pages.mkdir()
        succeeds("man", str(pages))
        expect(any(pages.rglob("tidelog*.1")), f"no man pages in {pages}")


def big_text(checks: Checks, broker: Broker, admin: AdminClient, lines: int) -> None:
    settled(admin.create_topics([NewTopic("text-1", 1, 1), NewTopic("text-16", 16, 1)]))
    text = b"".join(line + b"\n" for line in text_lines(lines))

    with checks.check(f"{lines} lines through kcat, one partition, equal byte for byte"):
        kcat(broker, "-P", "-t", "text-1", "-p", "0", "-X", "acks=all", "-X", "linger.ms=5", "-z", "lz4",
             stdin=text)  # fmt: skip
        out = kcat(broker, "-C", "-t", "text-1", "-p", "0", "-o", "beginning", "-e", "-q")
        expect_equal(len(out), len(text), "bytes consumed")
        expect(out == text, "the text consumed differs from the text produced")

    with checks.check(f"{lines} lines through kcat, sixteen partitions, in order within each"):
        # Not sticky: every partition gets lines.
        kcat(broker, "-P", "-t", "text-16", "-X", "acks=all", "-X", "linger.ms=5",
             "-X", "sticky.partitioning.linger.ms=0", stdin=text)  # fmt: skip
        found = read_to_end(broker, "text-16", range(16))
        everything = []
        for number, messages in found.items():
            values = [message.value() for message in messages]
            # Every line starts with its number, so order within a partition shows.
            expect(values == sorted(values), f"partition {number} is out of order")
            expect(values, f"partition {number} is empty")
            everything += values
        expect_equal(len(everything), lines, "lines consumed")
        everything.sort()
        expect(b"".join(line + b"\n" for line in everything) == text, "the lines differ")

    with checks.check("tidelog consume prints the same text"):
        result = tidelog(
            "consume", "text-1", "-b", broker.bootstrap, "--offset", "start", "--exit-at-end"
        )
        expect_equal(result.returncode, 0, f"exit code ({result.stderr.decode()[-300:]})")
        expect(result.stdout == text, f"{len(result.stdout)} bytes differ from {len(text)} produced")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=200_000)
    arguments = parser.parse_args()
    checks = Checks("clients")
    with Broker(shards=2) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        admin_basics(checks, broker, admin)
        records_of_every_kind(checks, broker)
        positions(checks, broker, admin)
        with_kcat(checks, broker, admin)
        with_tidelog(checks, broker, admin)
        big_text(checks, broker, admin, arguments.lines)
        with checks.check("the broker lived through it and drains"):
            expect(broker.alive(), f"the broker is gone:\n{broker.log_tail()}")
            expect_equal(broker.stop(), 0, "exit code of serve")
        if checks.failed:
            print(broker.log_tail(), flush=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
