"""One shard's thread is stopped: partitions of the other shard go on, those of the stopped one get a retriable
error within the bound, and all recovers when it goes on.

Connections that the stopped shard itself holds cannot be answered by anybody; the check finds out which of its
own these are and uses the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import select
import socket
import sys
import time

import wire
from lib import Broker, CheckFailed, Checks, create_topic, expect, expect_equal, metric, page, wait_until

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WAIT_ALL = 0x40000000

SILENT_MS = 1_000
# The setting, a few ticks, and the 0.5 s that a fetch may be held back, on a busy machine.
ANSWER_S_MAX = 5.0
PARTITIONS = 8
CONNECTIONS = 12
NONE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT = 0, 6, 7

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long


def ptrace(request: int, tid: int) -> None:
    if LIBC.ptrace(request, tid, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of thread {tid}: {os.strerror(number)}")


@contextlib.contextmanager
def stopped(tid: int):
    """The thread does not run inside the block. A process that ends meanwhile takes its threads along."""
    ptrace(PTRACE_SEIZE, tid)
    try:
        ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WAIT_ALL)
        yield
    finally:
        ptrace(PTRACE_DETACH, tid)


def thread_of(broker: Broker, name: str) -> int:
    tasks = pathlib.Path(f"/proc/{broker.process.pid}/task")
    found = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name]
    if not found:
        raise CheckFailed(f"no thread is named {name}")
    # Threads that it starts itself take over its name; they come later.
    return min(found)


def silent_metric(broker: Broker) -> int:
    return metric(broker, "shard_silent", 'shard="1"')


def is_served(connection: socket.socket, timeout_s: float) -> bool:
    """Whether the connection's own shard answers."""
    connection.settimeout(timeout_s)
    connection.sendall(wire.request(wire.API_VERSIONS, 0, 1, b""))
    try:
        wire.read_frame(connection)
    except socket.timeout:
        return False
    connection.settimeout(ANSWER_S_MAX)
    return True


def produce(connection: socket.socket, partition: int) -> tuple[int, int]:
    batch = wire.record_batch([b"value"], wire.now_ms())
    connection.sendall(wire.produce_request(partition, b"stalled", partition, batch, -1))
    return wire.produce_answer(wire.read_frame(connection))


def fetch(connection: socket.socket, partition: int) -> int:
    connection.sendall(wire.fetch_request(partition, b"stalled", partition, 0, 1 << 20))
    error, _, _ = wire.fetch_answer(wire.read_frame(connection))
    return error


def while_stopped(checks: Checks, broker: Broker, connections: list[socket.socket]) -> tuple[socket.socket, dict[int, int]] | None:
    for connection in connections:
        connection.sendall(wire.request(wire.API_VERSIONS, 0, 1, b""))
    # Both shards hold some of them; those of the other shard answer long before the shard counts as silent.
    served, _, _ = select.select(connections, [], [], ANSWER_S_MAX)
    with checks.check("connections of the other shard are answered"):
        expect(0 < len(served) < len(connections), f"{len(served)} of {len(connections)} connections are answered")
    if not served:
        return None
    connection = served[0]
    wire.read_frame(connection)
    errors: dict[int, int] = {}
    longest_s = 0.0
    with checks.check("partitions of the stopped shard get a retriable error, the others are written"):
        for partition in range(PARTITIONS):
            started = time.monotonic()
            errors[partition], _ = produce(connection, partition)
            passed_s = time.monotonic() - started
            expect(passed_s < ANSWER_S_MAX, f"partition {partition} was answered too late")
            longest_s = max(longest_s, passed_s)
        print(f"     the longest wait was {longest_s:.2f} s", flush=True)
        expect_equal(set(errors.values()), {NONE, REQUEST_TIMED_OUT}, f"error codes {errors}")
    with checks.check("fetches as well"):
        for partition, error in errors.items():
            wanted = NOT_LEADER_OR_FOLLOWER if error else NONE
            expect_equal(fetch(connection, partition), wanted, f"fetch of partition {partition}")
    with checks.check("metadata is answered"):
        # v1: an array of names.
        names = b"\0\0\0\1" + wire.string(b"stalled")
        connection.sendall(wire.request(wire.METADATA, 1, 9, names))
        expect(b"stalled" in wire.read_frame(connection), "the topic is not in the answer")
    with checks.check("it is reported: health, metric, one line of the log"):
        wait_until(lambda: silent_metric(broker) == 1, ANSWER_S_MAX, "the metric is 1")
        health = json.dumps(json.loads(page(broker, "/health/ready")))
        expect("shard-1" in health and "degraded" in health, f"health says {health}")
        # The page is 200, or urlopen would have failed: the other shard serves.
        expect_equal(broker.log().count("the shard takes no turns"), 1, "lines of the log")
    return connection, errors


def main() -> int:
    checks = Checks("stalled shard")
    with Broker(shards=2, settings={"shard.silent_ms": str(SILENT_MS)}) as broker:
        create_topic(broker, "stalled", PARTITIONS)
        connections = [wire.connect(broker.port, ANSWER_S_MAX) for _ in range(CONNECTIONS)]
        with checks.check("everything is served before"):
            for connection in connections:
                expect(is_served(connection, ANSWER_S_MAX), "a connection is not answered")
            for partition in range(PARTITIONS):
                expect_equal(produce(connections[0], partition), (NONE, 0), f"partition {partition}")
        with stopped(thread_of(broker, "shard-1")):
            outcome = while_stopped(checks, broker, connections)
        if outcome is not None:
            connection, errors = outcome
            with checks.check("all recovers when it goes on"):
                started = time.monotonic()
                wait_until(lambda: silent_metric(broker) == 0, ANSWER_S_MAX, "the metric is 0")
                refused = next(partition for partition in range(PARTITIONS) if errors[partition])
                # Each shard looks for itself, at its own ticks.
                wait_until(lambda: fetch(connection, refused) == NONE, ANSWER_S_MAX, "the other shard has seen it")
                for partition in range(PARTITIONS):
                    error, base_offset = produce(connection, partition)
                    expect_equal(error, NONE, f"produce to partition {partition}")
                    expect(base_offset in (1, 2), f"partition {partition} goes on at {base_offset}")
                    expect_equal(fetch(connection, partition), NONE, f"fetch of partition {partition}")
                expect("shard-1" not in page(broker, "/health/ready"), "health still names the shard")
                fresh = [wire.connect(broker.port, ANSWER_S_MAX) for _ in range(CONNECTIONS)]
                expect(all(is_served(other, ANSWER_S_MAX) for other in fresh), "a new connection is not answered")
                print(f"     after {time.monotonic() - started:.2f} s", flush=True)
        with checks.check("it stops in order"):
            expect_equal(broker.stop(), 0, "exit code")
        if checks.failed:
            print(broker.log_tail(), flush=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
