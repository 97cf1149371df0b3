"""Three data directories under load: partitions spread, are found again after kill -9, and those of a directory
that is not given are unavailable, and whole when it is back.

    check_directories.py
"""

from __future__ import annotations

import json
import sys
import urllib.request

from confluent_kafka import KafkaError, Producer

from lib import (
    Broker,
    Checks,
    acked_count,
    create_topic,
    expect,
    expect_equal,
    history_check,
    history_stop,
    history_write,
    wait_until,
)

TOPIC = "spread"
PARTITIONS = 9


def extra(broker: Broker, names: list[str]) -> list[str]:
    return [part for name in names for part in ("--data-dir", str(broker.scratch / name))]


def count(broker: Broker, name: str) -> int:
    path = broker.scratch / name / "partitions"
    return len(list(path.iterdir())) if path.exists() else 0


def outcomes(broker: Broker) -> list[int | None]:
    """The code of a record's delivery to each partition, None where it was taken."""
    codes: dict[int, int | None] = {}
    producer = Producer({"bootstrap.servers": broker.bootstrap, "retries": 0, "message.timeout.ms": 20_000, "log_level": 3})

    def delivered(error, message) -> None:
        codes[message.partition()] = error and error.code()

    for partition in range(PARTITIONS):
        producer.produce(TOPIC + "-probe", b"probe", partition=partition, on_delivery=delivered)
    producer.flush(30)
    return [codes.get(partition, -1) for partition in range(PARTITIONS)]


def unavailable(broker: Broker) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.admin_port}/health/ready", timeout=5) as answer:
        components = json.load(answer)["components"]
    return components.get("partitions", {}).get("reason", "")


def main() -> int:
    checks = Checks("directories")
    broker = Broker(shards=2, settings={"log.segment_bytes": "1MiB"})
    history = broker.scratch / "history"
    try:
        broker.extra = extra(broker, ["b", "c"])
        broker.start()
        with checks.check("partitions spread over three directories"):
            create_topic(broker, TOPIC, PARTITIONS)
            create_topic(broker, TOPIC + "-probe", PARTITIONS)
            counts = [count(broker, name) for name in ("data", "b", "c")]
            expect_equal(counts, [6, 6, 6], "partitions of each directory")
            expect_equal(outcomes(broker), [None] * PARTITIONS, "deliveries")
        for number in range(3):
            with checks.check(f"killed with -9 under load, {number + 1} of 3, and everything acknowledged is there"):
                before = acked_count(history)
                writer = history_write(broker, history, TOPIC, "all")
                try:
                    wait_until(lambda: acked_count(history) > before + 2_000, 60, "records acknowledged")
                    broker.kill9()
                finally:
                    said = history_stop(writer)
                broker.start()
                result = history_check(broker, history)
                expect_equal(result.returncode, 0, f"history: {result.stdout[-1000:]!r} {said}")
        with checks.check("without one directory its partitions are unavailable and the others serve"):
            broker.kill9()
            broker.extra = extra(broker, ["c"])
            broker.start()
            codes = outcomes(broker)
            expect_equal(codes.count(None), 6, f"partitions that serve: {codes}")
            expect_equal(codes.count(KafkaError.KAFKA_STORAGE_ERROR), 3, f"partitions that do not: {codes}")
            wait_until(lambda: "6 partitions" in unavailable(broker), 5, "health tells how many are unavailable")
            expect_equal([count(broker, "data"), count(broker, "c")], [6, 6], "none was made elsewhere")
        with checks.check("without the directory of the metadata log the start is refused"):
            expect_equal(broker.stop(), 0, "exit code of the stop")
            home, broker.data_dir = broker.data_dir, broker.scratch / "b"
            broker.start(wait=False)
            expect_equal(broker.process.wait(30), 2, "exit code")
            expect("holds the metadata log" in broker.log_tail(3), broker.log_tail(3))
            broker.data_dir = home
        with checks.check("with all of them again, in another order, everything acknowledged is there"):
            broker.extra = extra(broker, ["c", "b"])
            broker.start()
            result = history_check(broker, history)
            expect_equal(result.returncode, 0, f"history: {result.stdout[-1000:]!r}")
            expect_equal(outcomes(broker), [None] * PARTITIONS, "deliveries")
            expect_equal(unavailable(broker), "", "health")
            expect_equal(broker.stop(), 0, "exit code of the stop")
    finally:
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
