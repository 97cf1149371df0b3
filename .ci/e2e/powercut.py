"""Power cuts on a loop file: what reached the device is kept, the page cache is not.

The data directory lies on a fresh file system in a loop file. Under load the broker is stopped (SIGSTOP) and
the loop file is copied: a loop device writes to its file only what the file system submitted to it, so the
copy holds what had reached the device and nothing that was only in the page cache above it. The copy is one
moment in time when the device's write counter did not move while it was taken; else it is taken again. The
copy is mounted (the file system replays its own journal), served, and compared with the history.

With --retain segments are small, retention removes them all the time, and log starts are looked at: one that was
seen, and behind which something was acknowledged since, is never taken back, and no log begins later than
retention may make it. Retention is off on the copy, so that what is found there is what the cut left.

With log.durability=fsync nothing acknowledged may be missing: in every round, of which the first cuts right
after the very first start. With log.durability=os at least one round must lose acknowledged records: else
this check would also pass a broker that never syncs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from lib import (
    ROOT,
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
    journal_commits,
    many_dirty_partitions,
    metric,
    run,
    wait_until,
)
from wire import connect, list_offsets_answer, list_offsets_request, read_frame

IMAGE_BYTES = 1 << 30
COPIES_MAX = 20
TOPIC = "power"
PARTITIONS = 4
UMOUNT_TIMEOUT_S = 30.0
LOAD_S_MIN = 0.2
LOAD_S_MAX = 3.0
RETENTION_BYTES = 1 << 20
# Segments come and go all the time.
SMALL_SEGMENTS = {"log.segment_bytes": "1MiB"}
RETAINING = {"log.retention_bytes": str(RETENTION_BYTES), "log.retention_check_ms": "100ms"}
RECYCLING = {"storage.recycle_max": "32MiB"}
RETAINED_WITHIN_S = 60.0
# A record of a history takes no more of the log, with its share of its batch.
RECORD_BYTES_MAX = 1_500


def must(*command: str) -> str:
    result = run(list(command))
    if result.returncode != 0:
        raise CheckFailed(f"{' '.join(command)}: exit {result.returncode}: {result.stderr.decode()}")
    return result.stdout.decode().strip()


class Volume:
    """A loop file, mounted."""

    def __init__(self, image: pathlib.Path, mount_point: pathlib.Path, options: str) -> None:
        self.image = image
        self.mount_point = mount_point
        mount_point.mkdir(exist_ok=True)
        self.device = must("losetup", "--find", "--show", str(image))
        try:
            must("mount", "-o", options, self.device, str(mount_point))
        except CheckFailed:
            must("losetup", "--detach", self.device)
            raise

    def writes(self) -> tuple[str, ...]:
        """Writes, sectors written, requests in flight and flushes of the device."""
        fields = pathlib.Path(f"/sys/block/{pathlib.Path(self.device).name}/stat").read_text().split()
        return (fields[4], fields[6], fields[8], *fields[15:16])

    def close(self) -> None:
        # The kernel closes the files of a killed process's rings a moment after the process is gone.
        wait_until(
            lambda: run(["umount", str(self.mount_point)]).returncode == 0, UMOUNT_TIMEOUT_S, f"umount {self.mount_point}"
        )
        must("losetup", "--detach", self.device)


def copy_at_one_moment(volume: Volume, cut: pathlib.Path) -> None:
    for _ in range(COPIES_MAX):
        before = volume.writes()
        if before[2] == "0":
            must("cp", "--sparse=always", str(volume.image), str(cut))
            if volume.writes() == before:
                return
        time.sleep(0.05)
    raise CheckFailed(f"the device was never quiet during {COPIES_MAX} copies")


def mount_options(filesystem: str, copy: bool) -> str:
    if filesystem == "xfs":
        # The copy carries the same UUID as the volume it was taken from.
        return "nouuid" if copy else "defaults"
    # A long commit interval: what nobody synced stays off the device.
    return "commit=300"


def make_image(path: pathlib.Path, filesystem: str) -> None:
    with open(path, "wb") as image:
        image.truncate(IMAGE_BYTES)
    force = "-f" if filesystem == "xfs" else "-F"
    must(f"mkfs.{filesystem}", "-q", force, str(path))


@dataclasses.dataclass(frozen=True)
class Load:
    """What the broker is busy with when the power is cut."""

    by_journal: bool = False
    retains: bool = False
    recycles: bool = False

    def settings(self) -> dict[str, str]:
        settings = {}
        if self.by_journal:
            settings["journal.max_bytes"] = "32MiB"
        if self.retains:
            settings |= SMALL_SEGMENTS
        if self.recycles:
            settings |= RECYCLING
        return settings


def offsets_at(broker: Broker, timestamp: int) -> list[int]:
    """Log starts (-2) or log ends (-1) of all partitions."""
    with contextlib.closing(connect(broker.port)) as connection:
        connection.sendall(list_offsets_request(1, TOPIC.encode(), PARTITIONS, timestamp))
        answers = list_offsets_answer(read_frame(connection))
    expect_equal([answers[number][0] for number in range(PARTITIONS)], [0] * PARTITIONS, "errors of ListOffsets")
    return [answers[number][1] for number in range(PARTITIONS)]


def events(history: pathlib.Path) -> list[dict]:
    """Of whole lines; the last one may be cut."""
    lines = history.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def last_sequences(history: pathlib.Path, kind: str) -> list[int]:
    """The highest sequence sent or acknowledged, by partition."""
    last = [-1] * PARTITIONS
    for event in events(history):
        if kind in event:
            last[event[kind]["partition"]] = max(last[event[kind]["partition"]], event[kind]["sequence"])
    return last


def durable_starts(broker: Broker, history: pathlib.Path) -> list[int]:
    """Log starts that retention moved in every partition, and that cannot be taken back: in each log something
    that was sent after they were seen is acknowledged."""
    wait_until(lambda: min(offsets_at(broker, -2)) > 0, RETAINED_WITHIN_S, "a log start above 0 in every partition")
    starts = offsets_at(broker, -2)
    sent = last_sequences(history, "sent")

    def is_acked() -> bool:
        acked = last_sequences(history, "acked")
        return all(acked[number] > sent[number] for number in range(PARTITIONS))

    wait_until(is_acked, 30, "an acknowledgement of something sent later in every partition")
    return starts


def wrong_starts(found: list[int], durable: list[int], history: pathlib.Path) -> list[str]:
    """What is wrong with the log starts after a cut."""
    ends = [0] * PARTITIONS
    for event in events(history):
        if "acked" in event:
            acked = event["acked"]
            ends[acked["partition"]] = max(ends[acked["partition"]], acked["offset"] + 1)
    wrong = []
    for number in range(PARTITIONS):
        if found[number] < durable[number]:
            wrong.append(f"partition {number} starts at {found[number]}, it had started at {durable[number]}")
        kept_bytes = (ends[number] - found[number]) * RECORD_BYTES_MAX
        if kept_bytes < RETENTION_BYTES:
            wrong.append(
                f"partition {number} keeps at most {kept_bytes} bytes, from {found[number]} to {ends[number]}; "
                f"retention leaves {RETENTION_BYTES}"
            )
    return wrong


def check_starts(found: list[int], durable: list[int], history: pathlib.Path) -> None:
    expect_equal(wrong_starts(found, durable, history), [], "log starts")
    print(f"     log starts {found}, not below {durable}", flush=True)
    # The check must be able to fail: a removal undone, and a segment of the front lost.
    undone = [start - 1 for start in durable]
    expect_equal(len(wrong_starts(undone, durable, history)), PARTITIONS, "starts that were taken back and are told")
    segment_records = RETENTION_BYTES // RECORD_BYTES_MAX
    lost = [max(last, start) for last, start in zip(last_offsets(history, segment_records), found, strict=True)]
    expect_equal(len(wrong_starts(lost, durable, history)), PARTITIONS, "starts that are too high and are told")


def last_offsets(history: pathlib.Path, records: int) -> list[int]:
    """Fewer than so many records before what was acknowledged last, by partition."""
    last = [0] * PARTITIONS
    for event in events(history):
        if "acked" in event:
            last[event["acked"]["partition"]] = max(last[event["acked"]["partition"]], event["acked"]["offset"])
    return [offset - records + 2 for offset in last]


def cut_once(
    work: pathlib.Path, filesystem: str, durability: str, first: bool, chance: random.Random, load: Load = Load()
):
    """One cut on a fresh file system; returns the result of the history check on the copy."""
    image, cut, history = work / "disk.img", work / "cut.img", work / "client.history"
    for path in (image, cut, history):
        path.unlink(missing_ok=True)
    make_image(image, filesystem)
    volume = Volume(image, work / "mounted", mount_options(filesystem, copy=False))
    settings = {"log.durability": durability} | load.settings()
    broker, dirtying, starts = None, None, None
    try:
        retaining = RETAINING if load.retains else {}
        broker = Broker(volume.mount_point / "data", settings=settings | retaining)
        if not first:
            # Two starts and a drain in between: recovery points and checkpoints exist.
            broker.start()
            create_topic(broker, TOPIC, PARTITIONS)
            writer = history_write(broker, history, TOPIC, "all")
            wait_until(lambda: acked_count(history) > 500, 30, "acknowledgements of the first start")
            history_stop(writer)
            expect_equal(broker.stop(), 0, "exit code of serve")
        broker.start()
        if first:
            create_topic(broker, TOPIC, PARTITIONS)
        before = acked_count(history)
        writer = history_write(broker, history, TOPIC, "all")
        try:
            if load.by_journal:
                dirtying = many_dirty_partitions(broker)
                wait_until(lambda: journal_commits(broker) > 0, 30, "a commit through the journal")
            wait_until(lambda: acked_count(history) > before, 30, "an acknowledgement")
            if load.recycles and not first:
                wait_until(lambda: metric(broker, "storage_segments_recycled_total") > 0, 60, "a segment of a file that was one")
            if load.retains and not first:
                starts = durable_starts(broker, history)
            if not first:
                time.sleep(chance.uniform(LOAD_S_MIN, LOAD_S_MAX))
            else:
                time.sleep(chance.uniform(0.0, LOAD_S_MIN))
            broker.process.send_signal(signal.SIGSTOP)
            copy_at_one_moment(volume, cut)
        finally:
            broker.kill9()
            if dirtying is not None:
                dirtying.kill()
                dirtying.wait()
            history_stop(writer)
    finally:
        if broker is not None:
            broker.close()
        volume.close()

    copy = Volume(cut, work / "mounted", mount_options(filesystem, copy=True))
    broker = None
    try:
        broker = Broker(copy.mount_point / "data", settings=settings)
        try:
            broker.start()
        except CheckFailed as error:
            return subprocess.CompletedProcess([], 1, b"", f"not served after the cut: {error}".encode())
        if starts is not None:
            check_starts(offsets_at(broker, -2), starts, history)
        return history_check(broker, history, *(["--retention"] if load.retains else []))
    finally:
        if broker is not None:
            broker.close()
        copy.close()


def acked_in(octets: bytes) -> int:
    """Of the checker's line of figures."""
    found = re.search(rb"^acked (\d+) ", octets, re.MULTILINE)
    return int(found.group(1)) if found else 0


def last_line(octets: bytes) -> str:
    lines = octets.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(said nothing)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("filesystem", choices=("ext4", "xfs"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--journal", action="store_true", help="the commit journal on, and many partitions dirty")
    parser.add_argument("--retain", action="store_true", help="small segments and retention, and log starts are looked at")
    parser.add_argument("--recycle", action="store_true", help="as --retain, and files are used again")
    arguments = parser.parse_args()
    load = Load(arguments.journal, arguments.retain or arguments.recycle, arguments.recycle)
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    parent = pathlib.Path(os.environ.get("TIDELOG_POWERCUT_DIR", ROOT / "target"))
    parent.mkdir(exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="powercut-", dir=parent))
    checks = Checks(f"powercut-{arguments.filesystem}")
    acked, cuts = 0, 0
    try:
        for number in range(1, arguments.rounds + 1):
            with checks.check(f"fsync, round {number} of {arguments.rounds}"):
                result = cut_once(work, arguments.filesystem, "fsync", number == 1, chance, load)
                print(f"     {last_line(result.stdout)}", flush=True)
                cuts += 1
                acked += acked_in(result.stdout)
                expect_equal(
                    result.returncode, 0, f"lost: {result.stdout[-2000:]!r} {result.stderr[-2000:]!r}"
                )
        with checks.check("the control: with log.durability=os acknowledged records are lost"):
            lost = 0
            for number in range(1, 4):
                result = cut_once(work, arguments.filesystem, "os", number == 1, chance)
                print(f"     os: exit {result.returncode}: {last_line(result.stdout + result.stderr)}", flush=True)
                lost += result.returncode != 0
            expect(lost > 0, "nothing was lost in 3 cuts, so the rounds above prove nothing")
    finally:
        if not os.environ.get("TIDELOG_E2E_KEEP"):
            shutil.rmtree(work, ignore_errors=True)
    print(
        f"summary: {cuts} cuts of power on {arguments.filesystem} with log.durability=fsync, {acked} acknowledged records "
        f"compared, {checks.failed} failed checks, seed {arguments.seed}",
        flush=True,
    )
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
