"""Clients that other people wrote in other languages: Java, franz-go, kafka-python, KafkaJS.

Each creates a topic by its admin, produces 10,000 records with keys, headers and its own timestamps, reads
them back without a group, and asks for the offsets of the start, the end and a time; `clients/README.md` says
it exactly. What comes back must be what went in, byte for byte, by the client and by `tidelog consume`.

It installs the clients by their own package files (into target/), and needs a JDK with Maven, Go and Node.
"""

from __future__ import annotations

import base64
import os
import pathlib
import shutil
import sys
import time

from lib import ROOT, Broker, Checks, expect, expect_equal, run, text_lines, tidelog

CLIENTS = pathlib.Path(__file__).resolve().parent / "clients"
TARGET = ROOT / "target" / "clients"
RECORDS = 10_000
TIMED_RECORD = 5000
# Of this hour: what is older than retention.ms may be removed at any moment.
FIRST_TIMESTAMP_MS = int(time.time()) // 3_600 * 3_600_000
INSTALL_S_MAX = 600
ALL_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

NOT_RUN = {
    "consumers of KafkaJS": "a KafkaJS consumer always joins a group, and groups are not served; "
    "tidelog reads what KafkaJS produced",
    "snappy, lz4, zstd of KafkaJS": "KafkaJS itself has gzip only",
    "groups of Java, franz-go, kafka-python": "groups are not served",
}


def text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def write_input(path: pathlib.Path) -> list[str]:
    lines = []
    for number, value in enumerate(text_lines(RECORDS)):
        key = "-" if number % 10 == 0 else text(b"key-%d" % (number % 100))
        held = text(b"%d" % number) if number % 3 else text(bytes([number % 256, 0, 255]))
        headers = "" if number % 4 == 0 else f"{text(b'number')}:{held},{text(b'source')}:{text(b'e2e')}"
        lines.append(f"{FIRST_TIMESTAMP_MS + number} {key} {text(value)} {headers}")
    path.write_text("".join(line + "\n" for line in lines))
    return lines


def install(what: list, cwd: pathlib.Path | None = None) -> None:
    command = what if cwd is None else ["env", "-C", cwd, *what]
    result = run(command, timeout_s=INSTALL_S_MAX)
    said = (result.stdout + result.stderr).decode(errors="replace")[-2000:]
    expect_equal(result.returncode, 0, f"{' '.join(map(str, what))}: {said}")


def java() -> list:
    jars = ROOT / "target" / "kafka-clients"
    pom = CLIENTS / "java" / "pom.xml"
    install(["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={jars}"])
    classes = TARGET / "java"
    install(["javac", "-cp", f"{jars}/*", "-d", classes, CLIENTS / "java" / "Client.java"])
    return ["java", "-cp", f"{jars}/*:{classes}", "Client"]


def franz_go() -> list:
    program = TARGET / "franz-go"
    install(["go", "build", "-mod=readonly", "-o", program, "."], CLIENTS / "go")
    return [program]


def kafka_python() -> list:
    venv = TARGET / "venv"
    python = venv / "bin" / "python"
    if not python.exists():
        install([sys.executable, "-m", "venv", venv])
    requirements = CLIENTS / "python" / "requirements.txt"
    install([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements])
    return [python, CLIENTS / "python" / "client.py"]


def kafkajs() -> list:
    folder = TARGET / "kafkajs"
    shutil.copytree(CLIENTS / "kafkajs", folder, dirs_exist_ok=True)
    install(["npm", "ci", "--no-audit", "--no-fund"], folder)
    return ["node", folder / "client.js"]


def use(broker: Broker, name: str, command: list, codec: str, source: pathlib.Path, lines: list[str]) -> None:
    topic = f"{name}-{codec}"
    output = broker.scratch / f"{topic}.out"
    result = run([*command, broker.bootstrap, topic, source, output, codec], timeout_s=180)
    said = (result.stdout + result.stderr).decode(errors="replace")
    expect_equal(result.returncode, 0, f"{name}: {said[-3000:]}")
    wanted = f"offsets 0 {RECORDS} {TIMED_RECORD}"
    expect(wanted in said.splitlines(), f"{wanted!r} is not in {said[-1000:]!r}")
    if name != "kafkajs":
        compare(output.read_text().splitlines(), lines)
    arguments = [topic, "-b", broker.bootstrap, "-o", "start", "-e", "-f", "%T|%K|%k|%h|%s\\n"]
    got = tidelog("consume", *arguments)
    expect_equal(got.returncode, 0, f"tidelog consume: {got.stderr!r}")
    # Not by lines: the headers hold line ends too.
    expect(got.stdout == b"".join(map(as_tidelog_prints, lines)), f"tidelog consume {topic} has other bytes")


def as_tidelog_prints(line: str) -> bytes:
    timestamp, key, value, headers = line.split(" ")
    held = None if key == "-" else base64.b64decode(key)
    pairs = [header.split(":") for header in headers.split(",") if header]
    named = b",".join(base64.b64decode(name) + b"=" + base64.b64decode(octets) for name, octets in pairs)
    length = -1 if held is None else len(held)
    return b"%s|%d|%s|%s|%s\n" % (timestamp.encode(), length, held or b"", named, base64.b64decode(value))


def compare(got: list, wanted: list) -> None:
    for position, (one, other) in enumerate(zip(got, wanted)):
        expect_equal(one, other, f"record {position}")
    expect_equal(len(got), len(wanted), "records")


def main() -> int:
    checks = Checks("more clients")
    os.makedirs(TARGET / "java", exist_ok=True)
    clients = {
        "java": (java, ALL_CODECS),
        "franz-go": (franz_go, ALL_CODECS),
        "kafka-python": (kafka_python, ALL_CODECS),
        "kafkajs": (kafkajs, ("none", "gzip")),
    }
    with Broker(shards=2) as broker:
        source = broker.scratch / "records"
        lines = write_input(source)
        for name, (prepare, codecs) in clients.items():
            command = []
            with checks.check(f"{name}: installed by its own files"):
                command = prepare()
            for codec in codecs if command else ():
                with checks.check(f"{name}: {RECORDS} records, {codec}"):
                    use(broker, name, command, codec, source, lines)
        with checks.check("the broker lives, and its log has no error"):
            expect(broker.alive(), "the broker died")
            expect("ERROR" not in broker.log(), broker.log_tail())
    for what, reason in NOT_RUN.items():
        print(f"NOT RUN {what}: {reason}", flush=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
