"""kafka-python: see ../README.md for what a program here does."""

from __future__ import annotations

import base64
import pathlib
import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

TIMED_RECORD = 5000
READ_S_MAX = 60


def octets(text: str) -> bytes | None:
    return None if text == "-" else base64.b64decode(text)


def text(value: bytes | None) -> str:
    return "-" if value is None else base64.b64encode(value).decode()


def require(condition: object, otherwise: str) -> None:
    if not condition:
        raise SystemExit(otherwise)


def create(bootstrap: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(name=topic, num_partitions=1, replication_factor=1)])
    require(topic in admin.list_topics(), "the topic is not listed")
    require(len(admin.describe_topics([topic])[0]["partitions"]) == 1, "the topic has not one partition")
    require(len(admin.describe_cluster()["brokers"]) == 1, "the cluster has not one broker")
    require(admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]), "no config is described")
    admin.close()


def produce(bootstrap: str, topic: str, lines: list[str], codec: str) -> None:
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type=None if codec == "none" else codec, linger_ms=5
    )
    sent = []
    for line in lines:
        timestamp, key, value, headers = line.split(" ")
        pairs = [header.split(":") for header in headers.split(",") if header]
        sent.append(
            producer.send(
                topic, partition=0, timestamp_ms=int(timestamp), key=octets(key), value=octets(value),
                headers=[(octets(name).decode(), octets(held)) for name, held in pairs],
            )
        )  # fmt: skip
    producer.flush()
    for position, future in enumerate(sent):
        require(future.get(30).offset == position, f"record {position} has another offset")
    producer.close()


def consume(bootstrap: str, topic: str, lines: list[str], output: pathlib.Path) -> None:
    partition = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False)
    consumer.assign([partition])
    first = consumer.beginning_offsets([partition])[partition]
    end = consumer.end_offsets([partition])[partition]
    timed = consumer.offsets_for_times({partition: int(lines[TIMED_RECORD].split()[0])})[partition].offset
    print(f"offsets {first} {end} {timed}")
    consumer.seek_to_beginning(partition)
    deadline = time.monotonic() + READ_S_MAX
    with open(output, "w") as out:
        while consumer.position(partition) < end and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=1000).values():
                for record in records:
                    headers = ",".join(f"{text(name.encode())}:{text(held)}" for name, held in record.headers)
                    out.write(f"{record.timestamp} {text(record.key)} {text(record.value)} {headers}\n")
    consumer.close()


def main(bootstrap: str, topic: str, source: str, output: str, codec: str) -> None:
    lines = pathlib.Path(source).read_text().splitlines()
    create(bootstrap, topic)
    produce(bootstrap, topic, lines, codec)
    consume(bootstrap, topic, lines, pathlib.Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
