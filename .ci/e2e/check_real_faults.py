"""Faults made for real, not by a simulated disk: a device that fills up and then fails, an fsync that fails or hangs,
a data directory whose device dies, a process without descriptors, a segment truncated or punched under readers.

    check_real_faults.py [--only NAME[,NAME]] [--rounds N]     names: device, fuse, directory, descriptors, damage

Needs root (loop devices, tmpfs, FUSE) and says so. Everything acknowledged must be there afterwards at its offset, byte
for byte; what goes wrong meanwhile must be an error, and the broker must go on or say why it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import wire
from lib import (
    Broker,
    CheckFailed,
    Checks,
    acked_count,
    create_topic,
    expect,
    expect_equal,
    history_check,
    history_stop,
    history_write,
    metric,
    metrics,
    page,
    run,
    tidelog,
    wait_until,
)

HERE = pathlib.Path(__file__).resolve().parent
ACK_TIMEOUT_S = 60.0
UMOUNT_TIMEOUT_S = 30.0
MIB = 1 << 20


def must(*command: str) -> str:
    result = run(list(command))
    if result.returncode != 0:
        raise CheckFailed(f"{' '.join(command)}: exit {result.returncode}: {result.stderr.decode()}")
    return result.stdout.decode().strip()


def partition_directory(broker: Broker, partition: int = 0) -> pathlib.Path:
    """Of the only topic, or of the one that was made last."""
    found = [path for path in (broker.data_dir / "partitions").iterdir() if path.name.endswith(f"-{partition}")]
    expect(found, "no directory of that partition")
    return max(found, key=lambda path: path.stat().st_ctime_ns)


def directories(broker: Broker) -> set[str]:
    return {path.name for path in (broker.data_dir / "partitions").iterdir()}


def wait_for_acks(history: pathlib.Path, above: int, what: str) -> int:
    wait_until(lambda: acked_count(history) > above, ACK_TIMEOUT_S, what, 0.05)
    return acked_count(history)


def check_history(broker: Broker, history: pathlib.Path) -> None:
    result = history_check(broker, history)
    said = result.stdout.decode(errors="replace").strip().splitlines()
    print(f"     {said[-1] if said else '(said nothing)'}", flush=True)
    expect_equal(result.returncode, 0, f"the history: {result.stdout[-2000:]!r} {result.stderr[-2000:]!r}")


@contextlib.contextmanager
def unmounted_after(mount_point: pathlib.Path):
    try:
        yield
    finally:
        # The kernel closes the files of a killed process's rings a moment after the process is gone.
        wait_until(
            lambda: run(["umount", str(mount_point)]).returncode == 0, UMOUNT_TIMEOUT_S, f"umount {mount_point}", 0.1
        )


# ---------------------------------------------------------------- a device that is full, then fails

IMAGE_BYTES = 96 * MIB
TMPFS_BYTES = 40 * MIB


def device(work: pathlib.Path) -> None:
    """An ext4 that believes in more space than its loop file can get: write-back fails with EIO."""
    tmpfs, mounted = work / "tmpfs", work / "ext4"
    tmpfs.mkdir()
    mounted.mkdir()
    must("mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tidelog-faults", str(tmpfs))
    with unmounted_after(tmpfs):
        image, history = tmpfs / "disk.img", work / "device.history"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        must("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0", "-J", "size=4", str(image))
        loop = must("losetup", "--find", "--show", str(image))
        try:
            # A loop device reports a write that its file took only in part as done, so a full tmpfs makes it lie: a
            # plain program of pwrite and fdatasync loses its last acknowledged write. Requests of one page of the
            # tmpfs are taken whole or not at all, and then it does not.
            pathlib.Path(f"/sys/block/{pathlib.Path(loop).name}/queue/max_sectors_kb").write_text("4")
            must("mount", "-o", "errors=continue", loop, str(mounted))
            broker = Broker(mounted / "data", settings={"log.segment_bytes": "4MiB"})
            try:
                fenced = fail_the_device(broker, history)
            finally:
                broker.close()
                must_unmount(mounted)
            print(f"     acknowledged before the new process: {acked_count(history)}, {fenced}", flush=True)
            # Room again, and a new process that knows only what the device has.
            must("mount", "-o", f"remount,size={4 * IMAGE_BYTES}", str(tmpfs))
            checked = run(["e2fsck", "-fp", loop])
            expect(checked.returncode in (0, 1), f"e2fsck: {checked.stdout!r} {checked.stderr!r}")
            must("mount", "-o", "errors=continue", loop, str(mounted))
            broker = Broker(mounted / "data", settings={"log.segment_bytes": "4MiB"})
            try:
                broker.start()
                check_history(broker, history)
                before = acked_count(history)
                writer = history_write(broker, history, "device", "all")
                try:
                    wait_for_acks(history, before + 100, "acknowledgements of the new process")
                finally:
                    history_stop(writer)
                check_history(broker, history)
                expect_equal(broker.stop(), 0, "exit code of serve")
            finally:
                broker.close()
                must_unmount(mounted)
        finally:
            must("losetup", "--detach", loop)


def must_unmount(mount_point: pathlib.Path) -> None:
    with unmounted_after(mount_point):
        pass


def fail_the_device(broker: Broker, history: pathlib.Path) -> str:
    """Loads it until the device fails. What then became of the broker."""
    broker.start()
    create_topic(broker, "device", 2)
    writer = history_write(broker, history, "device", "all")
    try:
        wait_for_acks(history, 0, "a first acknowledgement")

        def has_failed() -> bool:
            return not broker.alive() or metric(broker, "partition_fences_total") > 0

        wait_until(has_failed, 120, "the device fails under the load", 0.2)
        if broker.alive():
            # It goes on trying; what cannot be opened is named in health.
            wait_until(lambda: not broker.alive() or is_settled(broker, history), 30, "it reopens or says why not", 0.2)
    finally:
        said = history_stop(writer)
    if broker.alive():
        state = page(broker, "/health/ready")
        broker.kill9()
        return f"the broker lived, health: {state.strip()[:300]}"
    last = [line for line in broker.log().splitlines() if line.startswith("fatal: ")]
    expect(last, f"the broker ended without a reason:\n{broker.log_tail()}\n{said}")
    return f"the broker ended itself: {last[-1][:200]}"


def is_settled(broker: Broker, history: pathlib.Path) -> bool:
    """Reopened and serving, or named as not."""
    if "cannot be opened" in page(broker, "/health/ready"):
        return True
    return metric(broker, "partitions_opening") == 0


# ---------------------------------------------------------------- an fsync that fails or hangs

HANG_S = 5.0
# What the hang may cost those who have nothing to do with it.
OTHERS_GAP_S_MAX = 2.0


@contextlib.contextmanager
def fuse(work: pathlib.Path):
    """A mount point and the directory that tells it what to do wrong."""
    mounted, backing, control = work / "fuse", work / "backing", work / "control"
    for path in (mounted, backing, control):
        path.mkdir()
    server = subprocess.Popen(
        [sys.executable, str(HERE / "faults/fuse_pass_through.py"), str(mounted), str(backing), str(control)]
    )
    try:
        wait_until(lambda: os.path.ismount(mounted) or server.poll() is not None, 10, "the FUSE mount")
        expect(server.poll() is None, "the FUSE file system did not start; does this host have /dev/fuse?")
        yield mounted, control
    finally:
        if server.poll() is None:
            if run(["umount", str(mounted)]).returncode != 0:
                run(["umount", "--lazy", str(mounted)])
                server.terminate()
            server.wait(UMOUNT_TIMEOUT_S)


def tell(control: pathlib.Path, name: str, text: str) -> None:
    """Whole at once: the other side looks at any moment."""
    unfinished = control / f"{name}.unfinished"
    unfinished.write_text(text)
    unfinished.rename(control / name)


def failing_fsync(checks: Checks, work: pathlib.Path) -> None:
    with fuse(work) as (mounted, control):
        broker = Broker(mounted / "data", shards=1, settings={"log.segment_bytes": "64MiB"})
        histories = {name: work / f"{name}.history" for name in ("hurt", "other")}
        writers = {}
        try:
            broker.start()
            create_topic(broker, "other", 1)
            known = directories(broker)
            create_topic(broker, "hurt", 1)
            (hurt,) = directories(broker) - known
            for name, history in histories.items():
                writers[name] = history_write(broker, history, name, "all")
                wait_for_acks(history, 0, f"a first acknowledgement of {name}")

            with checks.check("an fsync that hangs for 5 s holds up its partition alone, and health says so"):
                hang(broker, histories, control, hurt)
            with checks.check("an fsync that fails fences its partition, which is read again and goes on"):
                fail_once(broker, histories, control, hurt)
        finally:
            for writer in writers.values():
                history_stop(writer)
            try:
                with checks.check("what was acknowledged over both faults is there, also for the next process"):
                    for history in histories.values():
                        check_history(broker, history)
                    expect_equal(broker.stop(), 0, "exit code of serve")
                    broker.start()
                    for history in histories.values():
                        check_history(broker, history)
            finally:
                if checks.failed:
                    print(broker.log_tail(), flush=True)
                broker.close()


def hang(broker: Broker, histories, control: pathlib.Path, hurt: str) -> None:
    tell(control, "hang", f"{hurt} {HANG_S}")
    wait_until((control / "begun").exists, ACK_TIMEOUT_S, "an fsync that hangs")
    began = time.monotonic()
    expect(hurt in (control / "begun").read_text(), "another file's fsync hangs")
    # One that was acknowledged just before may be noted a moment later.
    stuck_at = None
    others, last_other, gap = acked_count(histories["other"]), began, 0.0
    said = ""
    connected = 0.0
    while time.monotonic() < began + HANG_S - 0.5:
        now = time.monotonic()
        count = acked_count(histories["other"])
        if count > others:
            others, last_other = count, now
        gap = max(gap, now - last_other)
        if stuck_at is None and now > began + 1.0:
            stuck_at = acked_count(histories["hurt"])
        if now > began + 2.0 and not said:
            text = page(broker, "/health/ready")
            said = text if "sync has been under way" in text else ""
        if not connected:
            before = time.monotonic()
            result = tidelog("topic", "list", "-b", broker.bootstrap)
            expect_equal(result.returncode, 0, f"a new connection: {result.stderr!r}")
            connected = time.monotonic() - before
        time.sleep(0.02)
    print(f"     longest wait of the other partition {gap:.2f} s, a new client served in {connected:.2f} s", flush=True)
    expect(gap < OTHERS_GAP_S_MAX, f"the other partition of the shard waited {gap:.2f} s")
    expect_equal(acked_count(histories["hurt"]), stuck_at, "acknowledged by the partition whose fsync hangs")
    expect(said, f"health does not say that a sync hangs: {page(broker, '/health/ready')}")
    wait_for_acks(histories["hurt"], stuck_at, "the partition goes on when its fsync has ended")
    wait_until(lambda: "under way" not in page(broker, "/health/ready"), 10, "health forgets the hang", 0.1)
    expect_equal(metric(broker, "partition_fences_total"), 0, "partitions fenced by a slow fsync")


def fail_once(broker: Broker, histories, control: pathlib.Path, hurt: str) -> None:
    fences = metric(broker, "partition_fences_total")
    tell(control, "eio", hurt)
    wait_until(lambda: not (control / "eio").exists(), ACK_TIMEOUT_S, "an fsync that fails", 0.02)
    wait_until(lambda: metric(broker, "partition_fences_total") > fences, 10, "the partition is fenced", 0.05)
    after = {name: acked_count(history) for name, history in histories.items()}
    for name, history in histories.items():
        wait_for_acks(history, after[name], f"{name} goes on")
    expect_equal(metric(broker, "partition_fences_total"), fences + 1, "partitions fenced")


# ---------------------------------------------------------------- a data directory whose device dies

PARTITIONS = 6
# Errors must go on for ten seconds before they are the device's.
FAILED_S_MAX = 60.0


def failing_directory(checks: Checks, work: pathlib.Path) -> None:
    """Two data directories; the one without the metadata log is on a file system whose fsync fails."""
    work = work / "directory"
    work.mkdir()
    with fuse(work) as (mounted, control):
        lost = mounted / "second"
        broker = Broker(work / "first", settings={"log.segment_bytes": "16MiB"})
        broker.extra = ["--data-dir", str(lost)]
        history = work / "directory.history"
        writer = None
        try:
            broker.start()
            create_topic(broker, "spread", PARTITIONS)
            there = sorted(path.name for path in (lost / "partitions").iterdir())
            expect_equal(len(there), PARTITIONS // 2, "partitions of the second directory")
            create_topic(broker, "probe", PARTITIONS)
            writer = history_write(broker, history, "spread", "all")
            wait_for_acks(history, 0, "a first acknowledgement")

            with checks.check("an fsync of one file that fails again and again does not take its directory along"):
                for number in range(4):
                    fail_one_of(broker, control, lost, there[0], number)
                expect_equal(storage_health(broker, lost), "", "health of the second directory")
                expect_equal(probe_each(broker).count(None), PARTITIONS, "partitions that serve")
            with checks.check("a device that fails for all its files fails its directory, which is named with the error"):
                tell(control, "dead", "/second/partitions/")
                wait_until(lambda: "has failed" in storage_health(broker, lost), FAILED_S_MAX, "health names it", 0.1)
                said = storage_health(broker, lost)
                print(f"     {said}", flush=True)
                expect("Input/output error" in said and "smartctl" in said, f"health says: {said}")
                errors = metrics(broker, "storage_segment_errors_total")
                hurt = [value for labels, value in errors.items() if str(lost) in labels]
                expect(hurt and hurt[0] >= 7 and sum(errors.values()) == hurt[0], f"errors by directory: {errors}")
                wait_until(lambda: metric(broker, "partitions_unavailable") == PARTITIONS, 10, "its partitions are unavailable")
            with checks.check("its partitions answer KAFKA_STORAGE_ERROR, the others serve, and new ones go elsewhere"):
                codes = probe_each(broker)
                expect_equal(codes.count(None), PARTITIONS - len(there), f"partitions that serve: {codes}")
                expect_equal(codes.count(STORAGE_ERROR), len(there), f"partitions that do not: {codes}")
                more = acked_count(history)
                wait_for_acks(history, more + 100, "the other partitions go on")
                create_topic(broker, "new", 2)
                expect_equal(len(list((lost / "partitions").iterdir())), PARTITIONS, "partitions there")
            with checks.check("after a restart on a device that works everything acknowledged is there, and all serve"):
                print(f"     {history_stop(writer)}", flush=True)
                writer = None
                broker.kill9()
                (control / "dead").unlink()
                broker.start()
                check_history(broker, history)
                expect_equal(probe_each(broker).count(None), PARTITIONS, "partitions that serve")
                expect_equal(storage_health(broker, lost), "", "health of the second directory")
                expect_equal(broker.stop(), 0, "exit code of serve")
        finally:
            if writer:
                history_stop(writer)
            if checks.failed:
                print(broker.log_tail(), flush=True)
            broker.close()


def fail_one_of(broker: Broker, control: pathlib.Path, lost: pathlib.Path, partition: str, before: int) -> None:
    """One fsync of a partition's segment fails (one of an index file would fence nothing); it is fenced, and counted."""
    tell(control, "eio", f"/second/partitions/{partition}/ .log")
    wait_until(lambda: not (control / "eio").exists(), ACK_TIMEOUT_S, "an fsync that fails", 0.02)
    wait_until(
        lambda: metric(broker, "storage_segment_errors_total") == before + 1, 10, "the error is counted", 0.05
    )
    wait_until(lambda: metric(broker, "partitions_opening") == 0, 10, "it was opened again", 0.05)


def storage_health(broker: Broker, directory: pathlib.Path) -> str:
    components = json.loads(page(broker, "/health/ready"))["components"]
    return components.get(f"storage {directory}", {}).get("reason", "")


def probe_each(broker: Broker) -> list[int | None]:
    """The code of a record's delivery to each partition, None where it was taken."""
    codes: list[int | None] = []
    batch = wire.record_batch([b"probe"], wire.now_ms())
    with wire.connect(broker.port) as producer:
        for partition in range(PARTITIONS):
            producer.sendall(wire.produce_request(1, b"probe", partition, batch, -1))
            code, _ = wire.produce_answer(wire.read_frame(producer))
            codes.append(code or None)
    return codes


# ---------------------------------------------------------------- a process without descriptors

LIMIT = 400
STEPS = (300, 200, 120, 80, 40, 24, 12)
HELD = 100
STEP_S = 2.0
MANY = 600


class LimitedBroker(Broker):
    def command(self) -> list[str]:
        return ["prlimit", f"--nofile={LIMIT}:{LIMIT}", *super().command()]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def limit(self, soft: int) -> None:
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (soft, LIMIT))


def descriptors(checks: Checks, work: pathlib.Path) -> None:
    broker = LimitedBroker(work / "few", settings={"log.segment_bytes": "1MiB"})
    history = work / "few.history"
    writer = None
    try:
        broker.start()
        with checks.check(f"{MANY} partitions are written and read with a limit of {LIMIT} descriptors"):
            create_topic(broker, "few", MANY)
            writer = history_write(broker, history, "few", "all")
            wait_for_acks(history, 20 * MANY, "each partition is written several times")
            expect(broker.descriptors() <= LIMIT, f"{broker.descriptors()} descriptors")
            # A shard publishes its counters once a tick.
            wait_until(lambda: metric(broker, "descriptors_evicted_total") > 0, 10, "a descriptor closed to make room", 0.05)
            evicted = metric(broker, "descriptors_evicted_total")
            print(f"     {broker.descriptors()} descriptors open, {evicted} closed to make room", flush=True)
        with checks.check("connections beyond their share are refused at once, with a line and a metric"):
            refuse_connections(broker)
        with checks.check("the limit stepped down to nothing under load: nothing panics, and all goes on afterwards"):
            with contextlib.ExitStack() as held:
                # Theirs cannot be taken back, as those of files can.
                for _ in range(HELD):
                    held.enter_context(wire.connect(broker.port))
                wait_until(lambda: metric(broker, "connections") >= HELD, 20, "the connections are accepted", 0.05)
                for soft in STEPS:
                    broker.limit(soft)
                    # Load at each step: connections that come and go, topics, and whatever the writer gets through.
                    for _ in range(20):
                        with contextlib.suppress(OSError):
                            held.enter_context(socket.create_connection(("127.0.0.1", broker.port), timeout=1))
                    tidelog(
                        "topic", "create", f"at-{soft}", "-b", broker.bootstrap, "--partitions", "4", "--timeout", "2s"
                    )
                    # As long as it takes the writer to come round to every partition, if it gets so far.
                    with contextlib.suppress(CheckFailed):
                        above = acked_count(history) + 10 * MANY
                        wait_until(lambda: acked_count(history) > above, STEP_S, "a round of the writer", 0.05)
                    expect(broker.alive(), f"the broker ended at a limit of {soft}:\n{broker.log_tail()}")
            broker.limit(LIMIT)
            before = acked_count(history)
            wait_for_acks(history, before + MANY, "the writer goes on when there are descriptors again")
            refused, accepts = metric(broker, "descriptors_refused_total"), metric(broker, "accepts_failed_total")
            print(f"     refused to log files {refused}, failed accepts {accepts}", flush=True)
            expect(refused > 0 and accepts > 0, "the descriptors were never exhausted")
            wait_until(lambda: metric(broker, "partitions_failed") == 0, 30, "all partitions are open", 0.2)
            wait_until(lambda: metric(broker, "partitions_opening") == 0, 30, "no partition is being opened", 0.2)
        with checks.check("everything acknowledged is there, after kill -9 and recovery with as few as well"):
            history_stop(writer)
            writer = None
            check_history(broker, history)
            broker.kill9()
            broker.start()
            check_history(broker, history)
            expect(broker.descriptors() <= LIMIT, f"{broker.descriptors()} descriptors")
            expect("panicked" not in broker.log(), "a panic in the log")
            expect_equal(broker.stop(), 0, "exit code of serve")
    finally:
        if writer is not None:
            history_stop(writer)
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()


def refuse_connections(broker: LimitedBroker) -> None:
    before = metric(broker, "connections_refused_total")
    with contextlib.ExitStack() as held:
        first = held.enter_context(wire.connect(broker.port))
        refused = 0
        for _ in range(LIMIT):
            connection = socket.create_connection(("127.0.0.1", broker.port), timeout=10)
            held.callback(connection.close)
            connection.setblocking(False)
        deadline = time.monotonic() + 20
        while not refused and time.monotonic() < deadline:
            refused = metric(broker, "connections_refused_total") - before
        expect(refused > 0, f"none of {LIMIT} connections was refused")
        expect("connection refused: the process has no descriptor" in broker.log(), "no line in the log")
        first.sendall(wire.request(wire.API_VERSIONS, 0, 7, b""))
        expect_equal(struct.unpack_from(">i", wire.read_frame(first))[0], 7, "the answer on an old connection")
    wait_until(lambda: metric(broker, "connections") < LIMIT // 4, 20, "the connections are gone", 0.05)


# ---------------------------------------------------------------- a segment damaged under readers

VALUE_BYTES = 100_000
BATCHES = 60
CORRUPT_MESSAGE, STORAGE_ERROR = 2, 56


class Readers:
    """Read each batch again and again, and keep what came of it by offset."""

    def __init__(self, port: int, batches: list[bytes]) -> None:
        self.port = port
        self.batches = batches
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self.errors: dict[int, set[int]] = {}
        self.rounds = 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.read, daemon=True) for _ in range(2)]

    def __enter__(self) -> "Readers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def read(self) -> None:
        connection = None
        while not self.stop.is_set():
            for offset, sent in enumerate(self.batches):
                try:
                    connection = connection or wire.connect(self.port)
                    connection.sendall(wire.fetch_request(1, b"damage", 0, offset, 64))
                    code, _, records = wire.fetch_answer(wire.read_frame(connection))
                except (OSError, EOFError):
                    # A send from a map that ends early closes the connection: no bytes, and no wrong ones.
                    connection = None
                    code, records = -2, memoryview(b"")
                with self.lock:
                    if code != 0:
                        self.errors.setdefault(offset, set()).add(code)
                    elif bytes(records[21:]) != sent[21:] or struct.unpack_from(">q", records)[0] != offset:
                        self.wrong.append(f"offset {offset}: {len(records)} bytes that were never sent")
            with self.lock:
                self.rounds += 1
        if connection is not None:
            connection.close()

    def wait_rounds(self, count: int) -> None:
        with self.lock:
            target = self.rounds + count
        wait_until(lambda: self.rounds >= target, 60, f"{count} more rounds of the readers", 0.01)


def damage(checks: Checks, work: pathlib.Path, durability: str) -> None:
    broker = Broker(
        work / f"damage-{durability}", settings={"log.segment_bytes": "1MiB", "log.durability": durability}
    )
    try:
        broker.start()
        create_topic(broker, "damage", 1)
        batches = [wire.record_batch([bytes([n]) * VALUE_BYTES], wire.now_ms() + n) for n in range(BATCHES)]
        with wire.connect(broker.port) as producer:
            for n, batch in enumerate(batches):
                producer.sendall(wire.produce_request(n, b"damage", 0, batch, -1))
                expect_equal(wire.produce_answer(wire.read_frame(producer)), (0, n), "the answer of a produce")
        segments = sorted(partition_directory(broker).glob("*.log"))
        expect(len(segments) >= 4, f"{len(segments)} segments")
        with Readers(broker.port, batches) as readers:
            with checks.check(f"{durability}: before the damage all is read"):
                readers.wait_rounds(2)
                expect_equal((readers.errors, readers.wrong), ({}, []), "errors and wrong answers")
            with checks.check(f"{durability}: a hole punched in a closed segment is an error to readers, and never zeros"):
                punch(segments[1])
                hit = damaged_reads(readers, broker)
                expect(hit and max(hit) < BATCHES // 2, f"offsets with an error: {sorted(hit)}")
                # Whoever else reads the file brings its zeros into the page cache, where a hot read would find them.
                segments[1].read_bytes()
                again = damaged_reads(readers, broker)
                expect_equal(again, hit, "offsets with an error, once the hole is in the page cache")
            with checks.check(f"{durability}: a closed segment that is cut is an error to readers, and no SIGBUS"):
                os.truncate(segments[2], 300_000)
                more = damaged_reads(readers, broker)
                expect(more > hit, f"offsets with an error: {sorted(more)} after {sorted(hit)}")
        with checks.check(f"{durability}: appends and the rest of the partition go on, and verify names both files"):
            with wire.connect(broker.port) as producer:
                producer.sendall(wire.produce_request(1, b"damage", 0, batches[0], -1))
                expect_equal(wire.produce_answer(wire.read_frame(producer)), (0, BATCHES), "the answer of a produce")
            broker.stop()
            verified = tidelog("segment", "verify", str(broker.data_dir), "--output", "json")
            expect_equal(verified.returncode, 3, f"exit code of verify: {verified.stderr!r}")
            for segment in segments[1:3]:
                expect(segment.name.encode() in verified.stdout, f"verify does not name {segment.name}")
    finally:
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()


def punch(segment: pathlib.Path) -> None:
    """In the middle of a batch's payload, so that its header stays."""
    must("fallocate", "--punch-hole", "--offset", str(8192 + 64 + 200_000 // 4096 * 4096), "--length", "8192", str(segment))


def damaged_reads(readers: Readers, broker: Broker) -> set[int]:
    """The offsets that get an error now, every time they are read."""
    readers.wait_rounds(3)
    with readers.lock:
        readers.errors.clear()
    readers.wait_rounds(3)
    expect(broker.alive(), f"the broker ended:\n{broker.log_tail()}")
    expect_equal(readers.wrong, [], "answers with other bytes than were sent")
    with readers.lock:
        for offset, codes in readers.errors.items():
            expect(codes <= {CORRUPT_MESSAGE, STORAGE_ERROR}, f"offset {offset} got errors {sorted(codes)}")
        return set(readers.errors)


# ---------------------------------------------------------------- all of them

PARTS = ("device", "fuse", "directory", "descriptors", "damage")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    if unknown := set(only) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if os.geteuid() != 0:
        print("error: loop devices, tmpfs and FUSE need root", file=sys.stderr)
        return 1
    checks = Checks("real-faults")
    for number in range(arguments.rounds):
        work = pathlib.Path(tempfile.mkdtemp(prefix="real-faults-", dir=os.environ.get("TIDELOG_FAULTS_DIR")))
        try:
            if "device" in only:
                with checks.check(f"device, round {number + 1}: full, then failing: nothing acknowledged is lost or wrong"):
                    device(work)
            if "fuse" in only:
                failing_fsync(checks, work)
            if "directory" in only:
                failing_directory(checks, work)
            if "descriptors" in only:
                descriptors(checks, work)
            if "damage" in only:
                for durability in ("fsync", "os"):
                    damage(checks, work, durability)
        finally:
            if not os.environ.get("TIDELOG_E2E_KEEP"):
                shutil.rmtree(work, ignore_errors=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
