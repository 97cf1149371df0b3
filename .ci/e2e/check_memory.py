"""What the broker says of its memory is what the kernel counts, within 15 %, and it stays within memory.limit:
with many connections, with frames that were begun and not finished, and with clients that ask and do not read.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

import wire
from lib import Broker, Checks, create_topic, expect, metric, metrics, wait_until

LIMIT_BYTES = 256 << 20
SHARDS = 2
CONNECTIONS = 1_000
HELD = 80
HELD_BYTES = 1_040_000
READERS = 60
READ_BYTES = 1 << 20
BATCH_BYTES = 100_000
FILL_BYTES = 96 << 20
# Of what the kernel counts.
TOLERANCE = 0.15


def pools(broker: Broker) -> dict[str, int]:
    told = metrics(broker, "memory_bytes")
    return {labels.removeprefix('pool="').rstrip('"'): int(count) for labels, count in told.items()}


def limits_bytes(broker: Broker) -> int:
    """What all pools that are told may use together."""
    return metric(broker, "memory_limit_bytes")


def process_bytes(broker: Broker) -> tuple[int, int]:
    """What the pools of the process's own memory add up to, and what the kernel counts."""
    told = pools(broker)
    return sum(told[pool] for pool in ("control", "receive", "fetch")), broker.memory_kib("RssAnon") << 10


def compare(broker: Broker) -> None:
    def agree() -> bool:
        told, counted = process_bytes(broker)
        return abs(told - counted) <= TOLERANCE * counted

    try:
        # Metrics are as old as a tick, and the allocator gives freed pages back after a while.
        wait_until(agree, 10.0, "the pools add up to RssAnon", 0.1)
    finally:
        told, counted = process_bytes(broker)
        print(f"     told {told / 2**20:.1f} MiB, counted {counted / 2**20:.1f} MiB ({told / counted:.2f}), {pools(broker)}")
    total = counted + pools(broker)["sockets"]
    expect(total <= LIMIT_BYTES, f"{total} bytes with the sockets' are more than the limit")


def above(broker: Broker, pool: str, count: int) -> None:
    wait_until(lambda: pools(broker)[pool] >= count, 30.0, f"the pool {pool} holds {count} bytes", 0.1)


def fill(broker: Broker) -> None:
    create_topic(broker, "cold", 1)
    batch = wire.record_batch([bytes(BATCH_BYTES)], int(time.time() * 1000))
    with wire.connect(broker.port) as connection:
        for n in range(FILL_BYTES // BATCH_BYTES):
            connection.sendall(wire.produce_request(n, b"cold", 0, batch, -1))
            error, _ = wire.produce_answer(wire.read_frame(connection))
            expect(error == 0, f"produce: error {error}")


def quiet_connections(broker: Broker) -> list[socket.socket]:
    connections = []
    for n in range(CONNECTIONS):
        connection = wire.connect(broker.port)
        connection.sendall(wire.request(wire.API_VERSIONS, 0, n, b""))
        wire.read_frame(connection)
        connections.append(connection)
    return connections


def begun_frames(broker: Broker) -> list[socket.socket]:
    connections = []
    for _ in range(HELD):
        connection = wire.connect(broker.port, timeout_s=30.0)
        connection.sendall(struct.pack(">i", HELD_BYTES) + bytes(HELD_BYTES - 1))
        connections.append(connection)
    return connections


def readers_that_do_not_read(broker: Broker) -> list[socket.socket]:
    connections = []
    for n in range(READERS):
        connection = socket.socket()
        # So that answers stay with the broker.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.connect(("127.0.0.1", broker.port))
        connection.sendall(wire.fetch_request(n, b"cold", 0, 0, READ_BYTES))
        connections.append(connection)
    return connections


def close(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


def main() -> int:
    checks = Checks("memory")
    settings = {"log.durability": "os"}
    with Broker(shards=SHARDS, settings=settings, extra=["--memory", f"{LIMIT_BYTES >> 20}MiB"]) as broker:
        fill(broker)
        # What was written before a start is not taken for resident.
        broker.stop()
        broker.start()
        # A shard tells of its pools from its first tick on; together they may use all of the limit but the sockets' part.
        wait_until(lambda: limits_bytes(broker) >= LIMIT_BYTES * 0.9, 10.0, "the pools of all shards are told")
        quiet = pools(broker)
        held, slow = [], []
        with checks.check(f"{CONNECTIONS} connections"):
            many = quiet_connections(broker)
            compare(broker)
            close(many)
        with checks.check(f"{HELD} frames of {HELD_BYTES} bytes, begun and not finished"):
            held = begun_frames(broker)
            above(broker, "receive", HELD * HELD_BYTES)
            compare(broker)
        with checks.check("and clients that ask for cold records and do not read the answers"):
            slow = readers_that_do_not_read(broker)
            above(broker, "fetch", READERS * READ_BYTES // 2)
            compare(broker)
        close(held)
        close(slow)
        with checks.check("everything is given back when the connections are gone"):
            for pool in ("receive", "fetch", "sockets"):
                wait_until(
                    lambda pool=pool: pools(broker)[pool] <= quiet[pool] + (1 << 20), 30.0, f"{pool} is back", 0.1
                )
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
