"""kill -9 at random moments under load, again and again on one data directory: everything that was
acknowledged, with acks=1 and acks=all, is there at its offset after each restart.

    check_kill9.py [--rounds N] [--seed S]     default: 5 rounds

What a power cut may take is another question: the page cache survives a kill. See powercut.sh.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import urllib.request

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

FIRST_ACK_TIMEOUT_S = 60.0
LOAD_S_MIN = 0.0
LOAD_S_MAX = 3.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    checks = Checks("kill9")
    # Small segments and a small journal, so that kills also fall into rolls and trims.
    settings = {"log.segment_bytes": "1MiB", "journal.max_bytes": "64MiB"}
    broker = Broker(shards=2, settings=settings)
    try:
        histories = [
            (acks, broker.scratch / f"acks-{acks}.history", f"kill9-{acks}") for acks in ("all", "1")
        ]
        broker.start()
        # So many on one shard that commits go through its journal, and one topic whose commits do not.
        for (_, _, topic), partitions in zip(histories, (16, 1)):
            create_topic(broker, topic, partitions)
        for number in range(1, arguments.rounds + 1):
            with checks.check(f"round {number} of {arguments.rounds}"):
                one_round(broker, histories, chance)
    finally:
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()
    return checks.finish()


def one_round(broker: Broker, histories, chance: random.Random) -> None:
    if not broker.alive():
        # A round that failed half-way must not fail the ones after it.
        broker.start()
    before = {acks: acked_count(path) for acks, path, _ in histories}
    writers = [history_write(broker, path, topic, acks) for acks, path, topic in histories]
    try:
        for acks, path, _ in histories:
            wait_until(
                lambda: acked_count(path) > before[acks], FIRST_ACK_TIMEOUT_S, f"a first record acknowledged with acks={acks}"
            )
        # In every other round the journal is surely in use; in the others it may be in the making.
        if chance.random() < 0.5:
            wait_until(lambda: journal_commits(broker) > 0, FIRST_ACK_TIMEOUT_S, "a commit through the journal")
        # The random moment itself, not a wait for something.
        time.sleep(chance.uniform(LOAD_S_MIN, LOAD_S_MAX))
        expect(broker.alive(), "the broker died before it was killed")
        broker.kill9()
    finally:
        said = [history_stop(writer) for writer in writers]
    for (acks, path, _), words in zip(histories, said):
        expect(acked_count(path) > before[acks], f"nothing was acknowledged with acks={acks}: {words}")
    broker.start()
    for acks, path, _ in histories:
        result = history_check(broker, path)
        print(f"     acks={acks}: {last_line(result.stdout)}", flush=True)
        expect_equal(
            result.returncode, 0, f"history with acks={acks}: {result.stdout[-2000:]!r} {result.stderr[-2000:]!r}"
        )


def journal_commits(broker: Broker) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.admin_port}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return sum(
        int(float(line.split()[-1]))
        for line in page.splitlines()
        if line.startswith("tidelog_journal_commits_total")
    )


def last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(said nothing)"


if __name__ == "__main__":
    sys.exit(main())
