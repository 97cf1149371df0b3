"""What goes wrong at start, and what people press: one clear sentence and the right exit code.

0 done; 1 failed (locked, in use, read-only); 2 usage or configuration; 3 damage found; 4 unreachable;
130 and 143 for a client command ended by SIGINT and SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from lib import (
    TIDELOG,
    Broker,
    CheckFailed,
    Checks,
    expect,
    expect_equal,
    free_port,
    kcat,
    run,
    tidelog,
    wait_until,
)

NOBODY = 65534
# A failure to start is said in one sentence; a hint may stand on the lines after it.
LINES_MAX = 6


def expect_refusal(result, code: int, *words: str) -> None:
    said = result.stderr.decode(errors="replace")
    expect_equal(result.returncode, code, f"exit code, with standard error {said!r}")
    for word in words:
        expect(word.lower() in said.lower(), f"{word!r} is not in {said!r}")
    expect("panicked" not in said and "RUST_BACKTRACE" not in said, f"a panic: {said!r}")
    lines = [line for line in said.splitlines() if line.strip()]
    expect(0 < len(lines) <= LINES_MAX, f"{len(lines)} lines instead of one sentence: {said!r}")


def serve(data_dir, port: int | None = None, *more: str, listen: str | None = None, user: int | None = None):
    """Runs `serve`, which is expected to refuse."""
    command = [
        str(TIDELOG), "serve", "--data-dir", str(data_dir),
        "--listen", listen or f"localhost:{port or free_port()}",
        "--admin", f"127.0.0.1:{free_port()}", "--shards", "1", *more,
    ]  # fmt: skip
    if user is not None:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    try:
        return run(command, timeout_s=30)
    except subprocess.TimeoutExpired:
        raise CheckFailed("serve went on instead of refusing") from None


def refusals(checks: Checks, broker: Broker, scratch: pathlib.Path) -> None:
    with checks.check("a second broker on one directory"):
        expect_refusal(serve(broker.data_dir), 1, str(broker.data_dir))
        expect(broker.alive(), "the first one died of it")

    with checks.check("a port in use by another program"):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            expect_refusal(serve(scratch / "a", port, listen=f"127.0.0.1:{port}"), 1, str(port))

    with checks.check("a port in use by another broker"):
        expect_refusal(serve(scratch / "b", broker.port), 1, str(broker.port))
        kcat(broker, "-L")

    with checks.check("a directory that cannot be written"):
        read_only = scratch / "read-only"
        read_only.mkdir()
        # An ordinary user must reach the binary, which may lie below root's home.
        binary = scratch / "tidelog"
        shutil.copy2(TIDELOG, binary)
        scratch.chmod(0o755)
        read_only.chmod(0o555)
        command = [
            str(binary), "serve", "--data-dir", str(read_only), "--listen", f"localhost:{free_port()}",
            "--admin", f"127.0.0.1:{free_port()}", "--shards", "1",
        ]  # fmt: skip
        if os.geteuid() == 0:
            # Root may write anywhere, so root becomes nobody.
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
        expect_refusal(run(command, timeout_s=30), 1, str(read_only))

    with checks.check("a directory that cannot be made"):
        expect_refusal(serve("/proc/tidelog-data"), 1, "/proc/tidelog-data")

    with checks.check("a data directory that is a file"):
        plain = scratch / "plain-file"
        plain.write_text("not a directory")
        expect_refusal(serve(plain), 1, str(plain))
        expect_equal(plain.read_text(), "not a directory", "the file")

    with checks.check("too little memory"):
        expect_refusal(serve(scratch / "c", None, "--memory", "1K"), 2, "memory")

    with checks.check("a wildcard listener without an advertised address names the line to add"):
        expect_refusal(serve(scratch / "d", listen=f"0.0.0.0:{free_port()}"), 2, "--advertise")

    with checks.check("an unknown setting and a bad value"):
        expect_refusal(serve(scratch / "e", None, "--set", "no.such.setting=1"), 2, "no.such.setting")
        expect_refusal(serve(scratch / "e", None, "--set", "log.durability=maybe"), 2, "log.durability")

    with checks.check("an unknown key in the configuration file"):
        config = scratch / "broker.toml"
        config.write_text("no_such_key = 1\n")
        expect_refusal(serve(scratch / "f", None, "--config", str(config)), 2, "no_such_key")

    with checks.check("a configuration file that is not there"):
        expect_refusal(serve(scratch / "g", None, "--config", str(scratch / "absent.toml")), 2, "absent.toml")

    with checks.check("an unknown flag and an unknown command"):
        expect_refusal(tidelog("serve", "--no-such-flag"), 2, "--no-such-flag")
        expect_refusal(tidelog("no-such-command"), 2, "no-such-command")

    with checks.check("refused starts leave nothing behind"):
        left = [name for name in "abcdefg" if (scratch / name).exists() and any((scratch / name).rglob("*.log"))]
        expect_equal(left, [], "directories with segments in them")


def pipes_and_signals(checks: Checks, broker: Broker) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(50_000))
    kcat(broker, "-P", "-t", "lines", "-p", "0", stdin=lines)

    with checks.check("consume | head ends quietly"):
        pipe = f'"{TIDELOG}" consume lines -b {broker.bootstrap} -o start | head -n 1; echo "${{PIPESTATUS[0]}}"'
        result = run(["bash", "-c", pipe], timeout_s=30)
        out = result.stdout.splitlines()
        expect_equal(out[-1:], [b"0"], f"exit code of consume (standard error {result.stderr!r})")
        expect(b"line 0" in out[0], f"first line {out[0]!r}")
        expect(b"panicked" not in result.stderr and b"roken pipe" not in result.stderr, f"said {result.stderr!r}")

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with checks.check(f"consume ended by {number.name}"):
            with consuming(broker) as process:
                process.send_signal(number)
                expect_equal(process.wait(20), code, "exit code")
                expect(b"panicked" not in process.stderr.read(), "a panic")

    with checks.check("a broker that cannot be reached"):
        result = tidelog("consume", "lines", "-b", f"localhost:{free_port()}", "--timeout", "2s", "-e")
        expect_refusal(result, 4, "localhost")


@contextlib.contextmanager
def consuming(broker: Broker):
    """A `consume` without an end that has printed its first line."""
    process = subprocess.Popen(
        [str(TIDELOG), "consume", "lines", "-b", broker.bootstrap, "-o", "start"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    drain = None
    try:
        expect(process.stdout.readline(), "nothing was consumed")
        # A full pipe would keep it from waiting for more: read on in the background.
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        process.stdout.close()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if drain is not None:
            drain.wait()
        process.stderr.close()


def shutdown(checks: Checks, broker: Broker) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with checks.check(f"serve drains on {number.name} and finds everything again"):
            before = kcat(broker, "-C", "-t", "lines", "-p", "0", "-o", "beginning", "-e", "-q")
            expect_equal(broker.stop(number), 0, "exit code of serve")
            broker.start()
            after = kcat(broker, "-C", "-t", "lines", "-p", "0", "-o", "beginning", "-e", "-q")
            expect(before and before == after, f"{len(before)} bytes before, {len(after)} after")

    with checks.check("Ctrl-C in the middle of a load"):
        load = subprocess.Popen(
            ["kcat", "-b", broker.bootstrap, "-P", "-t", "load", "-X", "message.timeout.ms=5000"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        feeder = subprocess.Popen(["yes", "x" * 200], stdout=load.stdin)
        load.stdin.close()
        try:
            # kcat fails as long as the topic is not there.
            first = ["kcat", "-b", broker.bootstrap, "-C", "-t", "load", "-o", "beginning", "-c", "1", "-q", "-e"]
            wait_until(lambda: run(first).stdout, 20, "a record of the load", 0.1)
            expect_equal(broker.stop(signal.SIGINT), 0, "exit code of serve")
        finally:
            for process in (feeder, load):
                process.kill()
                process.wait()

    with checks.check("the log names what was served"):
        log = broker.log()
        for word in (str(broker.data_dir), str(broker.port), str(broker.admin_port)):
            expect(word in log, f"{word} is not in the ready line:\n{broker.log_tail()}")


def offline_tools(checks: Checks, broker: Broker) -> None:
    """The broker is down by now."""
    expect(not broker.alive(), "the broker still runs")
    marker = b"line 25000"
    segment = next(
        (path for path in sorted(broker.data_dir.rglob("*.log")) if marker in path.read_bytes()), None
    )
    with checks.check("segment verify finds nothing wrong with a sound segment"):
        expect(segment is not None, "no segment holds the produced lines")
        result = tidelog("segment", "verify", str(segment))
        expect_equal(result.returncode, 0, f"exit code, with {result.stderr!r}")
    with checks.check("segment inspect reads it"):
        result = tidelog("segment", "inspect", str(segment))
        expect_equal(result.returncode, 0, f"exit code, with {result.stderr!r}")
        expect(result.stdout.strip(), "nothing was printed")
    with checks.check("segment verify says damage for one flipped bit, and leaves the file as it is"):
        copy = broker.scratch / segment.name
        octets = bytearray(segment.read_bytes())
        octets[octets.index(marker)] ^= 1
        copy.write_bytes(octets)
        result = tidelog("segment", "verify", str(copy))
        expect_equal(result.returncode, 3, f"exit code, with {result.stdout!r} {result.stderr!r}")
        expect_equal(copy.read_bytes(), bytes(octets), "the file")


def main() -> int:
    checks = Checks("startup")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="tidelog-e2e-startup-"))
    broker = Broker(shards=2)
    try:
        broker.start()
        refusals(checks, broker, scratch)
        pipes_and_signals(checks, broker)
        shutdown(checks, broker)
        offline_tools(checks, broker)
    finally:
        if checks.failed:
            print(broker.log_tail(), flush=True)
        broker.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
