"""Bytes that no client sends: each is answered by a closed connection or a Kafka error, the process lives,
and its memory does not grow.

    check_garbage.py [--rounds N] [--seed S]     N random frames (default 2,000)
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys

import wire
from lib import Broker, Checks, expect, expect_equal, kcat, wait_until

# What the allocator may keep behind after the whole run.
GROWTH_KIB_MAX = 32 << 10
# While many frames are half sent: far below the sum of the sizes they announce.
GROWTH_WHILE_HELD_KIB_MAX = 96 << 10
HELD_CONNECTIONS = 200
HELD_FRAME_BYTES = 90 << 20
ANSWER_TIMEOUT_S = 10.0

TLS_HELLO = bytes.fromhex("16030102000100") + b"\x01\xfc\x03\x03" + bytes(range(256)) * 2
HTTP = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.0\r\n\r\n"
COUNT_MAX = struct.pack(">i", 0x7FFFFFFF)
COUNT_MIN = struct.pack(">i", -0x80000000)
COMPACT_MAX = wire.uvarint(0x80000000)
# A varint with more continuation bytes than any integer has.
VARINT_ENDLESS = b"\xff" * 16


def outcome(port: int, octets: bytes, half_close: bool = True) -> tuple[str, bytes]:
    """Sends and reports what came back: ("closed", b"") or ("answer", first frame)."""
    with wire.connect(port, ANSWER_TIMEOUT_S) as connection:
        try:
            connection.sendall(octets)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return "answer", wire.read_frame(connection)
        except socket.timeout:
            return "silence", b""
        except (EOFError, ConnectionError):
            return "closed", b""


def expect_closed(port: int, octets: bytes) -> None:
    # The writing side stays open: it must be the broker that ends it.
    kind, frame = outcome(port, octets, half_close=False)
    expect_equal(kind, "closed", f"connection after {octets[:24]!r} (answer {frame[:40]!r})")


def expect_closed_or_error(port: int, octets: bytes, correlation: int) -> None:
    kind, frame = outcome(port, octets, half_close=False)
    expect(kind in ("closed", "answer"), f"neither closed nor answered within {ANSWER_TIMEOUT_S} s")
    if kind == "answer":
        expect_equal(frame[:4], struct.pack(">i", correlation), "correlation id of the answer")


def sizes_and_strangers(checks: Checks, broker: Broker) -> None:
    with checks.check("HTTP is closed, with a hint in the log"):
        expect_closed(broker.port, HTTP)
        wait_until(lambda: "HTTP" in broker.log(), 5, "a line of the log that mentions HTTP")
    with checks.check("a TLS hello is closed"):
        expect_closed(broker.port, TLS_HELLO)
    for size in (-1, -0x80000000, 0x7FFFFFFF, 101 << 20):
        with checks.check(f"a frame of {size} bytes is closed"):
            expect_closed(broker.port, struct.pack(">i", size) + b"\0" * 64)
    for size in (0, 1, 7):
        with checks.check(f"a frame of {size} bytes, too short for a header, is closed"):
            expect_closed(broker.port, struct.pack(">i", size) + b"\0" * size)
    with checks.check("unknown keys are closed"):
        for key in (-1, 93, 999, 32767):
            expect_closed(broker.port, wire.request(key, 0, 7, b""))
    with checks.check("unknown versions are closed"):
        for key in (wire.PRODUCE, wire.FETCH, wire.METADATA):
            for version in (-1, 99, 32767):
                expect_closed(broker.port, wire.request(key, version, 7, b""))
    with checks.check("ApiVersions above ours is answered in version 0 with error 35"):
        kind, frame = outcome(broker.port, wire.request(wire.API_VERSIONS, 99, 41, b"\0\0", flexible=True), False)
        expect_equal(kind, "answer", "outcome")
        expect_equal(struct.unpack_from(">ih", frame), (41, 35), "correlation id and error code")


def counts(checks: Checks, broker: Broker) -> None:
    topic = wire.string(b"garbage")
    produce_head = struct.pack(">hhi", -1, 1, 1000)
    fetch_head = struct.pack(">iiiib", -1, 10, 1, 1 << 20, 0)
    cases = []
    for name, count in (("2^31-1", COUNT_MAX), ("-2^31", COUNT_MIN)):
        cases += [
            (f"Metadata v1, {name} topics", wire.METADATA, 1, count, False),
            (f"Produce v7, {name} topics", wire.PRODUCE, 7, produce_head + count, False),
            (
                f"Produce v7, {name} partitions",
                wire.PRODUCE,
                7,
                produce_head + struct.pack(">i", 1) + topic + count,
                False,
            ),
            (
                f"Produce v7, records of {name} bytes",
                wire.PRODUCE,
                7,
                produce_head + struct.pack(">i", 1) + topic + struct.pack(">ii", 1, 0) + count,
                False,
            ),
            (f"Fetch v4, {name} topics", wire.FETCH, 4, fetch_head + count, False),
            (
                f"Fetch v4, {name} partitions",
                wire.FETCH,
                4,
                fetch_head + struct.pack(">i", 1) + topic + count,
                False,
            ),
            (f"ListOffsets v1, {name} topics", wire.LIST_OFFSETS, 1, struct.pack(">i", -1) + count, False),
            (f"CreateTopics v2, {name} topics", wire.CREATE_TOPICS, 2, count, False),
        ]
    for name, count in (("2^31", COMPACT_MAX), ("an endless varint of", VARINT_ENDLESS)):
        cases += [
            (f"Metadata v9, {name} topics", wire.METADATA, 9, count, True),
            (f"Metadata v9, {name} tagged fields", wire.METADATA, 9, b"\x01\x00\x00\x00" + count, True),
            (f"Produce v9, {name} topics", wire.PRODUCE, 9, b"\0" + produce_head[2:] + count, True),
            (
                f"Fetch v12, {name} topics",
                wire.FETCH,
                12,
                fetch_head + struct.pack(">ii", 0, -1) + count,
                True,
            ),
            (f"ApiVersions v3, a name of {name} bytes", wire.API_VERSIONS, 3, count, True),
            (f"CreateTopics v5, {name} topics", wire.CREATE_TOPICS, 5, count, True),
        ]
    for correlation, (name, key, version, body, flexible) in enumerate(cases, start=100):
        with checks.check(name):
            expect_closed_or_error(broker.port, wire.request(key, version, correlation, body, flexible), correlation)
            expect(broker.alive(), f"the process died:\n{broker.log_tail()}")

    with checks.check("a header with 2^31 tagged fields"):
        body = struct.pack(">hhi", wire.METADATA, 9, 5) + wire.string(b"x") + COMPACT_MAX
        expect_closed_or_error(broker.port, struct.pack(">i", len(body)) + body, 5)
    with checks.check("a client id longer than its frame"):
        body = struct.pack(">hhih", wire.METADATA, 1, 5, 32767) + b"x"
        expect_closed_or_error(broker.port, struct.pack(">i", len(body)) + body, 5)


def bad_batches(checks: Checks, broker: Broker) -> None:
    """Well-formed requests with records that must not be stored."""
    kcat(broker, "-P", "-t", "good", "-p", "0", stdin=b"first\n")
    good = wire.record_batch([b"value"] * 3, wire.now_ms())

    def changed(at: int, octets: bytes) -> bytes:
        return good[:at] + octets + good[at + len(octets) :]

    def with_crc(batch: bytes) -> bytes:
        return batch[:17] + struct.pack(">I", wire.crc32c(batch[21:])) + batch[21:]

    cases = [
        ("a flipped bit in a value", changed(len(good) - 4, bytes([good[-4] ^ 1]))),
        ("magic 1", changed(16, b"\1")),
        ("a length beyond the batch", changed(8, struct.pack(">i", 0x7FFFFFFF))),
        ("a negative length", changed(8, struct.pack(">i", -1))),
        ("a count of 2^31-1", with_crc(changed(57, COUNT_MAX))),
        ("a last offset delta of 2^31-1", with_crc(changed(23, COUNT_MAX))),
        ("a control batch", with_crc(changed(21, b"\0\x20"))),
        ("an empty record set", b""),
        ("half a batch", good[: len(good) // 2]),
    ]
    for correlation, (name, batch) in enumerate(cases, start=300):
        with checks.check(f"produce: {name} is refused"):
            kind, frame = outcome(
                broker.port, wire.produce_request(correlation, b"good", 0, batch, 1), half_close=False
            )
            expect(kind in ("closed", "answer"), "neither closed nor answered")
            if kind == "answer":
                error, _ = wire.produce_answer(frame)
                expect(error != 0, "accepted")
    with checks.check("none of them was stored, and good records still are"):
        kcat(broker, "-P", "-t", "good", "-p", "0", stdin=b"last\n")
        out = kcat(broker, "-C", "-t", "good", "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%o %s\\n")
        expect_equal(out, b"0 first\n1 last\n", "records of the topic")


def random_frames(checks: Checks, broker: Broker, rounds: int, chance: random.Random) -> None:
    keys = (0, 1, 2, 3, 10, 18, 19, 20, 22, 23, 32, 37, 44, 60)
    with checks.check(f"{rounds} random frames"):
        for _ in range(rounds):
            # DeleteTopics and its like need a name that exists, and random bytes do not make one.
            body = chance.randbytes(chance.randrange(0, 200))
            frame = wire.request(
                chance.choice(keys),
                chance.randrange(0, 14),
                chance.getrandbits(31),
                body,
                flexible=chance.random() < 0.5,
            )
            try:
                with wire.connect(broker.port) as connection:
                    connection.sendall(frame)
            except ConnectionError:
                pass
        expect(broker.alive(), f"the process died:\n{broker.log_tail()}")


def held_frames(checks: Checks, broker: Broker) -> None:
    with checks.check(f"{HELD_CONNECTIONS} connections that announce {HELD_FRAME_BYTES >> 20} MiB and stop"):
        before = broker.memory_kib("VmRSS")
        held = []
        try:
            for _ in range(HELD_CONNECTIONS):
                connection = wire.connect(broker.port)
                held.append(connection)
                try:
                    connection.sendall(struct.pack(">i", HELD_FRAME_BYTES) + b"\0\0\0\7\0\0\0\1")
                except ConnectionError:
                    pass
            growth = broker.memory_kib("VmRSS") - before
            expect(growth < GROWTH_WHILE_HELD_KIB_MAX, f"resident memory grew by {growth} KiB")
        finally:
            for connection in held:
                connection.close()
        # What they had reserved is free again.
        kcat(broker, "-P", "-t", "afterwards", "-p", "0", stdin=b"served\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    checks = Checks("garbage")
    with Broker(shards=2) as broker:
        kcat(broker, "-P", "-t", "garbage", "-p", "0", stdin=b"warm\n")
        pid = broker.process.pid
        before = broker.memory_kib("VmRSS")
        sizes_and_strangers(checks, broker)
        counts(checks, broker)
        bad_batches(checks, broker)
        random_frames(checks, broker, arguments.rounds, random.Random(arguments.seed))
        held_frames(checks, broker)
        with checks.check("alive, serving, and no larger than before"):
            expect(broker.alive() and broker.process.pid == pid, f"the process died:\n{broker.log_tail()}")
            out = kcat(broker, "-C", "-t", "garbage", "-p", "0", "-o", "beginning", "-e", "-q")
            expect_equal(out, b"warm\n", "the record from before")
            growth = broker.memory_kib("VmRSS") - before
            expect(growth < GROWTH_KIB_MAX, f"resident memory grew by {growth} KiB from {before} KiB")
            expect("panicked" not in broker.log(), f"a panic is in the log:\n{broker.log_tail()}")
            print(f"     resident memory {before} KiB before, {growth:+d} KiB", flush=True)
        if checks.failed:
            print(broker.log_tail(), flush=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
