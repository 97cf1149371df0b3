"""Two named listeners with different advertised addresses: a client is told only the address of the listener
that it came by, and reaches the broker by it. And many shards start as an ordinary user with little memory
to lock, also straight after a kill -9.

Two network namespaces of this check's own, joined by a pair of virtual devices:

    namespace "broker"   127.0.0.1 (listener INSIDE)      10.199.77.1 (listener OUTSIDE)
    namespace "client"                                     10.199.77.2

Both have no other network. Making them needs root; without it this check fails and says so.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

from lib import (
    READY_TIMEOUT_S,
    TIDELOG,
    Broker,
    CheckFailed,
    Checks,
    expect,
    expect_equal,
    run,
    text_lines,
    wait_until,
)

NOBODY = 65534
OUTSIDE_BROKER, OUTSIDE_CLIENT, PREFIX = "10.199.77.1", "10.199.77.2", "/30"
INSIDE_PORT, OUTSIDE_PORT, ADMIN_PORT = 19092, 19093, 19640
LINES = 2_000
SHARDS = 16
MEMLOCK_BYTES = 8192 * 1024
STARTS_AFTER_KILL = 10


# ---------------------------------------------------------------- what a listener tells, run in a namespace


class Answer:
    """Reads an answer from its front."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    def take(self, form: str):
        size = struct.calcsize(form)
        value = struct.unpack(form, self.octets[:size])[0]
        self.octets = self.octets[size:]
        return value

    def text(self, compact: bool = False) -> str | None:
        # None of these texts has 127 bytes or more, so a compact length is one byte.
        length = self.take("B") - 1 if compact else self.take(">h")
        if length < 0:
            return None
        value, self.octets = self.octets[:length], self.octets[length:]
        return value.decode()


def ask(address: tuple[str, int], key: int, version: int, body: bytes, flexible: bool = False) -> Answer:
    header = struct.pack(">hhih", key, version, 1, -1) + (b"\0" if flexible else b"")
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(header + body)) + header + body)
        stream = connection.makefile("rb")
        (size,) = struct.unpack(">i", stream.read(4))
        return Answer(stream.read(size)[5 if flexible else 4 :])


def addresses_told(host: str, port: int) -> dict[str, list]:
    """Every address in the answers that have one."""
    told = {}
    answer = ask((host, port), 3, 1, struct.pack(">i", 0))  # Metadata of no topic
    told["Metadata"] = []
    for _ in range(answer.take(">i")):
        answer.take(">i")
        told["Metadata"].append(f"{answer.text()}:{answer.take('>i')}")
        answer.text()
    answer = ask((host, port), 10, 1, struct.pack(">h", 1) + b"g" + b"\0")  # FindCoordinator of a group
    answer.take(">i")
    error = answer.take(">h")
    answer.text()
    answer.take(">i")
    coordinator = f"{answer.text()}:{answer.take('>i')}"
    # An error has no address.
    told["FindCoordinator"] = [coordinator] if error == 0 else []
    told["FindCoordinator without an error"] = [] if error == 0 else [coordinator]
    answer = ask((host, port), 60, 0, b"\0\0", flexible=True)  # DescribeCluster
    answer.take(">i")
    expect_equal(answer.take(">h"), 0, "the error of DescribeCluster")
    answer.text(compact=True)
    answer.text(compact=True)
    answer.take(">i")
    told["DescribeCluster"] = []
    for _ in range(answer.take("B") - 1):
        answer.take(">i")
        told["DescribeCluster"].append(f"{answer.text(compact=True)}:{answer.take('>i')}")
        answer.text(compact=True)
        answer.take("B")
    return told


# ---------------------------------------------------------------- namespaces


class Namespaces:
    """The two namespaces; they and what is in them end with the `with` block."""

    def __init__(self) -> None:
        self.broker = f"tidelog-b{os.getpid()}"
        self.client = f"tidelog-c{os.getpid()}"

    def __enter__(self) -> "Namespaces":
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in (self.broker, self.client):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.broker, "link", "add", "outside", "type", "veth", "peer", "name", "outside",
           "netns", self.client)  # fmt: skip
        for name, address in ((self.broker, OUTSIDE_BROKER), (self.client, OUTSIDE_CLIENT)):
            ip("-n", name, "address", "add", address + PREFIX, "dev", "outside")
            ip("-n", name, "link", "set", "outside", "up")

    def __exit__(self, *_) -> None:
        for name in (self.broker, self.client):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    result = run(["ip", *arguments])
    expect_equal(result.returncode, 0, f"ip {' '.join(arguments)}: {result.stderr.decode()}")


def inside(namespace: str, command: list, stdin: bytes | None = None) -> subprocess.CompletedProcess:
    return run(["ip", "netns", "exec", namespace, *command], stdin)


def done(result: subprocess.CompletedProcess, what: str) -> bytes:
    expect_equal(result.returncode, 0, f"{what}: {result.stderr.decode(errors='replace')}")
    return result.stdout


# ---------------------------------------------------------------- listeners


def use_listener(checks: Checks, namespace: str, name: str, bootstrap: str, foreign: str) -> None:
    """Everything that a client does by one listener."""
    own_host, own_port = bootstrap.split(":")
    with checks.check(f"{name}: Metadata, FindCoordinator and DescribeCluster tell only {bootstrap}"):
        program = [sys.executable, __file__, "--told", own_host, own_port]
        told = json.loads(done(inside(namespace, program), "asking"))
        expect_equal(told["Metadata"], [bootstrap], "Metadata")
        expect_equal(told["DescribeCluster"], [bootstrap], "DescribeCluster")
        expect(told["FindCoordinator"] in ([], [bootstrap]), f"FindCoordinator: {told['FindCoordinator']}")
        expect(foreign not in json.dumps(told), f"{foreign} is told to a client of {name}: {told}")
    with checks.check(f"{name}: kcat -L and tidelog cluster info tell only it"):
        listed = done(inside(namespace, ["kcat", "-b", bootstrap, "-L"]), "kcat -L").decode()
        info = done(inside(namespace, [TIDELOG, "cluster", "info", "-b", bootstrap]), "cluster info").decode()
        for said in (listed, info):
            expect(bootstrap in said, f"{bootstrap} is not in {said}")
            expect(foreign not in said, f"{foreign} is in {said}")
    lines = list(text_lines(LINES))
    with checks.check(f"{name}: tidelog creates, produces and consumes"):
        topic = f"tidelog-{name}"
        arguments = ["topic", "create", topic, "-b", bootstrap, "--partitions", "1"]
        done(inside(namespace, [TIDELOG, *arguments]), "topic create")
        done(inside(namespace, [TIDELOG, "produce", topic, "-b", bootstrap], b"\n".join(lines)), "produce")
        command = [TIDELOG, "consume", topic, "-b", bootstrap, "-o", "start", "-e", "-f", "%s\\n"]
        expect_equal(done(inside(namespace, command), "consume").splitlines(), lines, "lines")
    with checks.check(f"{name}: kcat produces and consumes"):
        topic = f"kcat-{name}"
        arguments = ["topic", "create", topic, "-b", bootstrap, "--partitions", "1"]
        done(inside(namespace, [TIDELOG, *arguments]), "topic create")
        produce = ["kcat", "-b", bootstrap, "-P", "-t", topic, "-p", "0"]
        done(inside(namespace, produce, b"\n".join(lines)), "kcat -P")
        consume = ["kcat", "-b", bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q"]
        expect_equal(done(inside(namespace, consume), "kcat -C").splitlines(), lines, "lines")


def listeners(checks: Checks) -> None:
    inside_address, outside_address = f"127.0.0.1:{INSIDE_PORT}", f"{OUTSIDE_BROKER}:{OUTSIDE_PORT}"
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="tidelog-e2e-listeners-"))
    log_path = scratch / "broker.log"
    try:
        with Namespaces() as names, open(log_path, "wb") as log:
            broker = subprocess.Popen(
                [
                    "ip", "netns", "exec", names.broker, str(TIDELOG), "serve",
                    "--data-dir", str(scratch / "data"), "--shards", "2",
                    "--listen", f"INSIDE={inside_address}",
                    "--listen", f"OUTSIDE=0.0.0.0:{OUTSIDE_PORT}", "--advertise", f"OUTSIDE={outside_address}",
                    "--admin", f"127.0.0.1:{ADMIN_PORT}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            try:
                wait_until(lambda: is_ready(broker, names.broker, log_path), READY_TIMEOUT_S, "ready", 0.1)
                use_listener(checks, names.broker, "INSIDE", inside_address, OUTSIDE_BROKER)
                use_listener(checks, names.client, "OUTSIDE", outside_address, "127.0.0.1")
                with checks.check("the other listener cannot be reached from the client's namespace"):
                    for bootstrap in (inside_address, f"{OUTSIDE_BROKER}:{INSIDE_PORT}"):
                        arguments = ["cluster", "info", "-b", bootstrap, "--timeout", "3s"]
                        result = inside(names.client, [TIDELOG, *arguments])
                        expect_equal(result.returncode, 4, f"exit code by {bootstrap}: {result.stdout!r}")
                with checks.check("what one listener took, the other gives"):
                    command = [TIDELOG, "consume", "kcat-INSIDE", "-b", outside_address, "-e", "-f", "%s\\n"]
                    got = done(inside(names.client, command), "consume").splitlines()
                    expect_equal(got, list(text_lines(LINES)), "lines")
            finally:
                broker.terminate()
                try:
                    broker.wait(60)
                except subprocess.TimeoutExpired:
                    broker.kill()
                    broker.wait()
    finally:
        if checks.failed and log_path.exists():
            print(log_path.read_text(errors="replace")[-4000:], flush=True)
        shutil.rmtree(scratch, ignore_errors=True)


def is_ready(broker: subprocess.Popen, namespace: str, log_path: pathlib.Path) -> bool:
    if broker.poll() is not None:
        raise CheckFailed(f"serve ended with {broker.returncode}:\n{log_path.read_text(errors='replace')}")
    url = f"http://127.0.0.1:{ADMIN_PORT}/health/ready"
    program = f"import urllib.request as u; u.urlopen({url!r}, timeout=2)"
    return inside(namespace, [sys.executable, "-c", program]).returncode == 0


# ---------------------------------------------------------------- many shards of an ordinary user


class UserBroker(Broker):
    """A broker of an ordinary user who may lock little memory (what the rings count against)."""

    def command(self) -> list[str]:
        command = super().command()
        return [
            "prlimit", f"--memlock={MEMLOCK_BYTES}:{MEMLOCK_BYTES}", "setpriv", f"--reuid={NOBODY}",
            f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", str(self.scratch / "tidelog"), *command[1:],
        ]  # fmt: skip


def many_shards(checks: Checks) -> None:
    broker = UserBroker(shards=SHARDS)
    # The user must reach the binary, which may lie below root's home, and own the directory.
    shutil.copy2(TIDELOG, broker.scratch / "tidelog")
    os.chown(broker.scratch, NOBODY, NOBODY)
    try:
        with checks.check(f"{SHARDS} shards start as user {NOBODY} with {MEMLOCK_BYTES >> 10} KiB to lock"):
            broker.start()
            status = pathlib.Path(f"/proc/{broker.process.pid}/status").read_text()
            expect(f"Uid:\t{NOBODY}\t{NOBODY}" in status, f"the broker runs as another user: {status}")
            limits = pathlib.Path(f"/proc/{broker.process.pid}/limits").read_text()
            locked = next(line for line in limits.splitlines() if line.startswith("Max locked memory"))
            expect(str(MEMLOCK_BYTES) in locked, locked)
        with checks.check(f"and {STARTS_AFTER_KILL} times straight after a kill -9"):
            for _ in range(STARTS_AFTER_KILL):
                broker.kill9()
                broker.start()
            expect_equal(run(["kcat", "-b", broker.bootstrap, "-L"]).returncode, 0, "kcat -L")
        with checks.check("and it drains"):
            expect_equal(broker.stop(), 0, "exit code")
    finally:
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()


def main() -> int:
    checks = Checks("listeners")
    if os.geteuid() != 0:
        with checks.check("network namespaces"):
            raise CheckFailed("this check makes network namespaces and changes users: run it as root")
        return checks.finish()
    with checks.check("all of the listeners"):
        listeners(checks)
    many_shards(checks)
    return checks.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--told"]:
        print(json.dumps(addresses_told(sys.argv[2], int(sys.argv[3]))))
        sys.exit(0)
    sys.exit(main())
