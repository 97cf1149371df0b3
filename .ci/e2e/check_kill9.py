"""kill -9 at random moments under load, again and again on one data directory, while segments roll, retention removes
them and their files become segments again: everything that was acknowledged, with acks=1 and acks=all, is there at
its offset after each restart, or lies below the log start.

    check_kill9.py [--rounds N] [--seed S] [--journal]     default: 5 rounds

Each topic keeps two megabytes in segments of one, so kills fall into rolls and removals; after some rounds there are
new topics with new histories, since a check reads all of one. What a power cut may take is another question: the page
cache survives a kill. See powercut.sh.

With --journal the commit journal is small and a second load keeps many partitions dirty, so that commits go through it
and its files are let go.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time

from lib import (
    Broker,
    Checks,
    acked_count,
    expect,
    expect_equal,
    history_check,
    history_stop,
    history_write,
    journal_commits,
    many_dirty_partitions,
    metric,
    tidelog,
    wait_until,
)

FIRST_ACK_TIMEOUT_S = 60.0
LOAD_S_MIN = 0.0
LOAD_S_MAX = 3.0
ROUNDS_PER_HISTORY = 20
RETENTION_BYTES = 2 << 20
# By then some partition holds more than that.
ROUNDS_FOR_RETENTION = 5
PARTITIONS = {"all": 4, "1": 1}


class Load:
    """A topic and a history for each acks, for some rounds."""

    def __init__(self, broker: Broker, number: int) -> None:
        self.histories = {acks: broker.scratch / f"acks-{acks}-{number}.history" for acks in PARTITIONS}
        self.topics = {acks: f"kill9-{acks}-{number}" for acks in PARTITIONS}
        self.retired = 0
        self.recycled = 0
        for acks, partitions in PARTITIONS.items():
            result = tidelog(
                "topic", "create", self.topics[acks], "-b", broker.bootstrap, "--partitions", str(partitions),
                "-c", f"retention.bytes={RETENTION_BYTES}", "-c", "segment.bytes=1048576",
            )  # fmt: skip
            expect_equal(result.returncode, 0, f"topic create: {result.stderr.decode(errors='replace')}")

    def delete(self, broker: Broker) -> None:
        for acks, topic in self.topics.items():
            result = tidelog("topic", "delete", topic, "--yes", "-b", broker.bootstrap)
            expect_equal(result.returncode, 0, f"topic delete: {result.stderr.decode(errors='replace')}")
            self.histories[acks].unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--journal", action="store_true")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    checks = Checks("kill9")
    # Small segments, so that kills also fall into rolls.
    settings = {"log.segment_bytes": "1MiB", "log.retention_check_ms": "200ms"}
    if arguments.journal:
        settings["journal.max_bytes"] = "64MiB"
    broker = Broker(shards=2, settings=settings)
    retired, recycled = 0, 0
    try:
        broker.start()
        load = None
        for number in range(1, arguments.rounds + 1):
            with checks.check(f"round {number} of {arguments.rounds}"):
                if not broker.alive():
                    # A round that failed half-way must not fail the ones after it.
                    broker.start()
                if load is None or number % ROUNDS_PER_HISTORY == 1:
                    if load is not None:
                        retired, recycled = retired + load.retired, recycled + load.recycled
                        load.delete(broker)
                    load = Load(broker, number)
                one_round(broker, load, chance, arguments.journal)
        if load is not None:
            retired, recycled = retired + load.retired, recycled + load.recycled
        if arguments.rounds >= ROUNDS_FOR_RETENTION:
            with checks.check("retention removed segments meanwhile"):
                print(f"     acknowledged records below a log start: {retired}", flush=True)
                expect(retired > 0, "nothing was removed, so no kill can have come between")
            with checks.check("and their files became segments again"):
                print(f"     segments made of files of removed ones: {recycled}", flush=True)
                expect(recycled > 0, "no file was recycled, so no kill can have come between")
    finally:
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()
    return checks.finish()


def one_round(broker: Broker, load: Load, chance: random.Random, by_journal: bool) -> None:
    before = {acks: acked_count(path) for acks, path in load.histories.items()}
    writers = {
        acks: history_write(broker, path, load.topics[acks], acks) for acks, path in load.histories.items()
    }
    dirtying = many_dirty_partitions(broker) if by_journal else None
    try:
        if by_journal:
            wait_until(lambda: journal_commits(broker) > 0, FIRST_ACK_TIMEOUT_S, "a commit through the journal")
        for acks, path in load.histories.items():
            wait_until(
                lambda: acked_count(path) > before[acks], FIRST_ACK_TIMEOUT_S, f"a first record acknowledged with acks={acks}"
            )
        # The random moment itself, not a wait for something.
        time.sleep(chance.uniform(LOAD_S_MIN, LOAD_S_MAX))
        expect(broker.alive(), "the broker died before it was killed")
        load.recycled += metric(broker, "storage_segments_recycled_total")
        broker.kill9()
    finally:
        if dirtying is not None:
            dirtying.kill()
            dirtying.wait()
        said = {acks: history_stop(writer) for acks, writer in writers.items()}
    for acks, path in load.histories.items():
        expect(acked_count(path) > before[acks], f"nothing was acknowledged with acks={acks}: {said[acks]}")
    broker.start()
    load.retired = sum(check(broker, acks, path) for acks, path in load.histories.items())


def check(broker: Broker, acks: str, path) -> int:
    """How many acknowledged records lie below the log start; everything else must be there."""
    result = history_check(broker, path, "--retention")
    line = next(iter(result.stdout.decode(errors="replace").strip().splitlines()), "(said nothing)")
    print(f"     acks={acks}: {line}", flush=True)
    expect_equal(
        result.returncode, 0, f"history with acks={acks}: {result.stdout[-2000:]!r} {result.stderr[-2000:]!r}"
    )
    acked, found, retired = (int(re.search(rf"{name} (\d+)", line).group(1)) for name in ("acked", "found", "retired"))
    # Retention keeps what it is told to keep, and never the last segment's records.
    expect(found > 0, f"all {acked} acknowledged records are gone")
    return retired


if __name__ == "__main__":
    sys.exit(main())
