"""Power cuts on a loop file: what reached the device is kept, the page cache is not.

The data directory lies on a fresh file system in a loop file. Under load the broker is stopped (SIGSTOP) and
the loop file is copied: a loop device writes to its file only what the file system submitted to it, so the
copy holds what had reached the device and nothing that was only in the page cache above it. The copy is one
moment in time when the device's write counter did not move while it was taken; else it is taken again. The
copy is mounted (the file system replays its own journal), served, and compared with the history.

With log.durability=fsync nothing acknowledged may be missing: in every round, of which the first cuts right
after the very first start. With log.durability=os at least one round must lose acknowledged records: else
this check would also pass a broker that never syncs.
"""

from __future__ import annotations

import argparse
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

IMAGE_BYTES = 1 << 30
COPIES_MAX = 20
TOPIC = "power"
PARTITIONS = 4
UMOUNT_TIMEOUT_S = 30.0
LOAD_S_MIN = 0.2
LOAD_S_MAX = 3.0
# Segments come and go all the time.
RECYCLING = {
    "log.segment_bytes": "1MiB",
    "log.retention_bytes": "1MiB",
    "log.retention_check_ms": "100ms",
    "storage.recycle_max": "32MiB",
}


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


def cut_once(
    work: pathlib.Path,
    filesystem: str,
    durability: str,
    first: bool,
    chance: random.Random,
    by_journal: bool = False,
    recycles: bool = False,
):
    """One cut on a fresh file system; returns the result of the history check on the copy."""
    image, cut, history = work / "disk.img", work / "cut.img", work / "client.history"
    for path in (image, cut, history):
        path.unlink(missing_ok=True)
    make_image(image, filesystem)
    volume = Volume(image, work / "mounted", mount_options(filesystem, copy=False))
    settings = {"log.durability": durability}
    if by_journal:
        settings["journal.max_bytes"] = "32MiB"
    if recycles:
        settings |= RECYCLING
    broker, dirtying = None, None
    try:
        broker = Broker(volume.mount_point / "data", settings=settings)
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
            if by_journal:
                dirtying = many_dirty_partitions(broker)
                wait_until(lambda: journal_commits(broker) > 0, 30, "a commit through the journal")
            wait_until(lambda: acked_count(history) > before, 30, "an acknowledgement")
            if recycles and not first:
                wait_until(lambda: metric(broker, "storage_segments_recycled_total") > 0, 60, "a segment of a file that was one")
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
        return history_check(broker, history, *(["--retention"] if recycles else []))
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
    parser.add_argument("--recycle", action="store_true", help="small segments and retention, so that files are used again")
    arguments = parser.parse_args()
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
                result = cut_once(
                    work, arguments.filesystem, "fsync", number == 1, chance, arguments.journal, arguments.recycle
                )
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
