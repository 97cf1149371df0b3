"""A disk that fills up under load, on a tmpfs and on ext4 in a loop file, each of its own and small: producers
get KAFKA_STORAGE_ERROR, reads go on, a deleted topic lets writes resume without a restart, and every record that
was acknowledged is there at its offset, also after kill -9.

    check_full_disk.py

Run as root: it mounts. Each file system is filled twice: until `storage.min_free` refuses writes, and with that
bound off, so that the disk is really full and only the reserve lets the deletion through.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from lib import Broker, Checks, create_topic, expect, expect_equal, metric, page, wait_until

SIZE_MIB = 160
VALUE_BYTES = 40_000
RESUME_TIMEOUT_S = 60.0
FULL_TIMEOUT_S = 120.0


@contextlib.contextmanager
def mounted(kind: str):
    """A small file system of its own; its mount point."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="tidelog-full-"))
    point = scratch / "mnt"
    point.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "none", str(point)]
    else:
        image = scratch / "image"
        with open(image, "wb") as file:
            file.truncate(SIZE_MIB << 20)
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(point)]
    subprocess.run(mount, check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)
        shutil.rmtree(scratch, ignore_errors=True)


def value_of(number: int) -> bytes:
    return b"%08d " % number + b"abcdefgh" * 24


class Keeper:
    """An idempotent producer that never gives up, on a thread of its own: what it has acknowledged, by offset."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.topic = topic
        self.acked: dict[int, bytes] = {}
        self.failed: list[KafkaError] = []
        self.stopping = threading.Event()
        self.producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 5,
             "message.timeout.ms": 300_000, "retry.backoff.max.ms": 500, "queue.buffering.max.messages": 1_000}
        )  # fmt: skip
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            value = value_of(number)
            try:
                self.producer.produce(self.topic, value, partition=0, on_delivery=self.delivered)
                number += 1
            except BufferError:
                pass
            self.producer.poll(0.002)

    def delivered(self, error, message) -> None:
        if error:
            self.failed.append(error)
        else:
            self.acked[message.offset()] = message.value()

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()
        left = self.producer.flush(120)
        expect_equal((left, self.failed), (0, []), "records not delivered, and failed for good")


def fill(broker: Broker, topic: str) -> tuple[int, int]:
    """Writes without retries until the broker refuses: records acknowledged, and the code of the refusal."""
    outcomes: list[object] = []
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "acks": "all", "retries": 0, "linger.ms": 0, "max.in.flight": 1,
         "queue.buffering.max.messages": 20}
    )  # fmt: skip
    value = b"b" * VALUE_BYTES

    def refused() -> object:
        with contextlib.suppress(BufferError):
            producer.produce(topic, value, partition=0, on_delivery=lambda error, _: outcomes.append(error))
        producer.poll(0.001)
        return next((error for error in outcomes if error), None)

    error = wait_until(refused, FULL_TIMEOUT_S, "a refusal", 0)
    producer.purge()
    producer.flush(30)
    return sum(1 for outcome in outcomes if outcome is None), error.code()


def read(broker: Broker, topic: str, wanted: dict[int, bytes]) -> None:
    """Reads the topic to the highest offset wanted; every wanted record has to be there, each offset once."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    last = max(wanted)
    found: dict[int, bytes] = {}

    def done() -> bool:
        for message in consumer.consume(1_000, 0.2):
            expect(message.error() is None, f"{topic}: {message.error()}")
            expect(message.offset() not in found, f"{topic}: offset {message.offset()} came twice")
            found[message.offset()] = message.value()
        return last in found

    wait_until(done, 60, f"{topic} is read to offset {last}", 0)
    consumer.close()
    missing = [offset for offset in wanted if offset not in found]
    expect_equal(missing[:10], [], f"{topic}: acknowledged and gone")
    other = [offset for offset in wanted if found[offset] != wanted[offset]]
    expect_equal(other[:10], [], f"{topic}: other bytes at an offset")
    numbers = [int(found[offset][:8]) for offset in sorted(found)]
    expect_equal(len(set(numbers)), len(numbers), f"{topic}: distinct records")
    expect(numbers == sorted(numbers), f"{topic}: records out of order")


def storage_health(broker: Broker) -> dict:
    components = json.loads(page(broker, "/health/ready"))["components"]
    return {name: state for name, state in components.items() if name.startswith("storage ")}


def one(checks: Checks, kind: str, bound: str, settings: dict[str, str]) -> None:
    name = f"{kind}, {bound}"
    with mounted(kind) as point:
        broker = Broker(data_dir=point / "data", shards=2, settings=settings)
        try:
            broker.start()
            expect(kind in broker.log(), f"the log names {kind}: {broker.log_tail()}")
            for topic in ("kept", "ballast"):
                create_topic(broker, topic, 1)
            keeper = Keeper(broker, "kept")
            with checks.check(f"{name}: a full disk is KAFKA_STORAGE_ERROR"):
                wait_until(lambda: len(keeper.acked) > 1_000, 60, "first records acknowledged")
                count, code = fill(broker, "ballast")
                expect_equal(code, KafkaError.KAFKA_STORAGE_ERROR, "the refusal")
                expect(count > 500, f"only {count} records fitted")
            with checks.check(f"{name}: health and metrics say so, and the broker stays ready"):
                wait_until(lambda: storage_health(broker), 5, "health tells of the disk")
                (state,) = storage_health(broker).values()
                expect_equal(state["health"], "degraded", "health")
                expect("storage.min_free" in state["reason"], state["reason"])
                expect_equal(metric(broker, "storage_takes_writes"), 0, "takes writes")
                expect(metric(broker, "storage_total_bytes") > 100 << 20, "bytes in all")
                # Shards leave their figures at each tick.
                wait_until(lambda: metric(broker, "produce_refused_full_total") > 0, 5, "refusals are counted")
            with checks.check(f"{name}: reads go on"):
                read(broker, "kept", dict(keeper.acked))
            with checks.check(f"{name}: a deleted topic lets writes resume, without a restart"):
                stuck = len(keeper.acked)
                admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 3})
                for future in admin.delete_topics(["ballast"], request_timeout=30).values():
                    expect_equal(future.result(60), None, "the deletion")
                wait_until(lambda: len(keeper.acked) > stuck + 1_000, RESUME_TIMEOUT_S, "writes resumed")
                wait_until(lambda: not storage_health(broker), 5, "health is good again")
                expect_equal(metric(broker, "storage_takes_writes"), 1, "takes writes")
                expect_equal(metric(broker, "partition_fences_total"), 0, "partitions fenced")
            with checks.check(f"{name}: every acknowledged record is at its offset, after kill -9 too"):
                keeper.stop()
                read(broker, "kept", keeper.acked)
                broker.kill9()
                broker.start()
                read(broker, "kept", keeper.acked)
            with checks.check(f"{name}: a broker that is killed while the disk is full starts again and recovers"):
                create_topic(broker, "ballast", 1)
                fill(broker, "ballast")
                broker.kill9()
                broker.start()
                read(broker, "kept", keeper.acked)
                expect_equal(broker.stop(), 0, "exit code of the stop")
        finally:
            if checks.failed:
                print(broker.log_tail(), flush=True)
            broker.close()


def main() -> int:
    checks = Checks("full_disk")
    for kind in ("tmpfs", "ext4"):
        one(checks, kind, "below storage.min_free", {"storage.min_free": "32MiB"})
        one(checks, kind, "really full", {"storage.min_free": "0", "storage.reserve": "8MiB"})
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
