"""Just enough of the Kafka protocol to send requests that no client library would: malformed ones, and the
same prebuilt batch again and again, so that the load costs the measuring side next to nothing.

Everything is big endian. A frame is {size i32, header, body}; a request header v1 is {api key i16,
api version i16, correlation id i32, client id nullable string i16}; v2 adds a tag buffer.
"""

from __future__ import annotations

import socket
import struct
import time

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, CREATE_TOPICS = 0, 1, 2, 3, 18, 19
CLIENT_ID = b"e2e"


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC32C_TABLE = _crc32c_table()


def crc32c(octets: bytes) -> int:
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = CRC32C_TABLE[(crc ^ octet) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def zigzag(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    return uvarint(value & 0xFFFFFFFFFFFFFFFF)


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def now_ms() -> int:
    """A time that retention does not take for old."""
    return int(time.time() * 1_000)


def record_batch(values: list[bytes], timestamp_ms: int) -> bytes:
    """A RecordBatch v2 without compression, producer id or keys."""
    records = bytearray()
    for delta, value in enumerate(values):
        body = b"\0" + zigzag(0) + zigzag(delta) + zigzag(-1) + zigzag(len(value)) + value + zigzag(0)
        records += zigzag(len(body)) + body
    covered = struct.pack(
        ">hiqqqhii", 0, len(values) - 1, timestamp_ms, timestamp_ms, -1, -1, -1, len(values)
    ) + bytes(records)
    # base offset, length, leader epoch, magic, crc, then what the crc covers
    return struct.pack(">qiibI", 0, len(covered) + 9, -1, 2, crc32c(covered)) + covered


def string(value: bytes) -> bytes:
    return struct.pack(">h", len(value)) + value


def request(api_key: int, version: int, correlation: int, body: bytes, flexible: bool = False) -> bytes:
    header = struct.pack(">hhi", api_key, version, correlation) + string(CLIENT_ID)
    if flexible:
        header += b"\0"
    return struct.pack(">i", len(header) + len(body)) + header + body


def produce_request(correlation: int, topic: bytes, partition: int, batch: bytes, acks: int) -> bytes:
    """Produce v7: {transactional id, acks, timeout, topics}."""
    body = struct.pack(">hhii", -1, acks, 30_000, 1) + string(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    return request(PRODUCE, 7, correlation, body)


def fetch_request(correlation: int, topic: bytes, partition: int, offset: int, max_bytes: int) -> bytes:
    """Fetch v4: {replica id, max wait, min bytes, max bytes, isolation, topics}."""
    body = struct.pack(">iiiibi", -1, 500, 1, max_bytes, 0, 1) + string(topic)
    body += struct.pack(">iiqi", 1, partition, offset, max_bytes)
    return request(FETCH, 4, correlation, body)


def list_offsets_request(correlation: int, topic: bytes, partitions: int, timestamp: int) -> bytes:
    """ListOffsets v1 of partitions 0 on: {replica id, topics}; timestamp -2 asks for log starts, -1 for log ends."""
    body = struct.pack(">ii", -1, 1) + string(topic) + struct.pack(">i", partitions)
    body += b"".join(struct.pack(">iq", number, timestamp) for number in range(partitions))
    return request(LIST_OFFSETS, 1, correlation, body)


def list_offsets_answer(frame: bytes) -> dict[int, tuple[int, int]]:
    """By partition, (error code, offset) of a ListOffsets v1 answer for one topic."""
    at = 4 + 4
    (name_length,) = struct.unpack_from(">h", frame, at)
    at += 2 + name_length
    (count,) = struct.unpack_from(">i", frame, at)
    answers = struct.iter_unpack(">ihqq", frame[at + 4 : at + 4 + 22 * count])
    return {partition: (error, offset) for partition, error, _, offset in answers}


def connect(port: int, timeout_s: float = 10.0) -> socket.socket:
    connection = socket.create_connection(("localhost", port), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray(count)
    view = memoryview(parts)
    at = 0
    while at < count:
        got = connection.recv_into(view[at:])
        if got == 0:
            raise EOFError(f"closed after {at} of {count} bytes")
        at += got
    return bytes(parts)


def read_frame(connection: socket.socket) -> bytes:
    (size,) = struct.unpack(">i", read_exactly(connection, 4))
    if not 0 <= size <= 256 << 20:
        raise ValueError(f"an answer of {size} bytes")
    return read_exactly(connection, size)


def produce_answer(frame: bytes) -> tuple[int, int]:
    """(error code, base offset) of a Produce v7 answer for one partition."""
    at = 4 + 4
    (name_length,) = struct.unpack_from(">h", frame, at)
    at += 2 + name_length + 4 + 4
    return struct.unpack_from(">hq", frame, at)


def fetch_answer(frame: bytes) -> tuple[int, int, memoryview]:
    """(error code, high watermark, record set) of a Fetch v4 answer for one partition."""
    at = 4 + 4 + 4
    (name_length,) = struct.unpack_from(">h", frame, at)
    at += 2 + name_length + 4 + 4
    error, high_watermark, _, aborted = struct.unpack_from(">hqqi", frame, at)
    at += 22 + max(aborted, 0) * 16
    (length,) = struct.unpack_from(">i", frame, at)
    at += 4
    return error, high_watermark, memoryview(frame)[at : at + max(length, 0)]


def next_offset(records: memoryview, offset: int) -> int:
    """The offset behind the last whole batch, found by hopping over the batches."""
    at = 0
    while at + 61 <= len(records):
        base, length = struct.unpack_from(">qi", records, at)
        if at + 12 + length > len(records):
            break
        (last_delta,) = struct.unpack_from(">i", records, at + 23)
        offset = base + last_delta + 1
        at += 12 + length
    return offset
