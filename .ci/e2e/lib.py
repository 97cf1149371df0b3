"""What the end-to-end checks share: one broker process, a list of named checks, the clients' commands.

Invariants: every broker runs in a data directory and on ports of its own; every process that a check starts
is ended by its own process id; nothing waits for a length of time where it can wait for a condition.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
TIDELOG = pathlib.Path(os.environ.get("TIDELOG_BIN", RELEASE / "tidelog"))
LOAD = pathlib.Path(os.environ.get("TIDELOG_LOAD_BIN", RELEASE / "tidelog-load"))
HISTORY = pathlib.Path(os.environ.get("TIDELOG_HISTORY_BIN", RELEASE / "tidelog-history"))

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
CLIENT_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.005
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CheckFailed(AssertionError):
    """A check found something that is not as promised."""


def expect(condition: object, message: str) -> None:
    """Unlike `assert`, also holds under `python -O`."""
    if not condition:
        raise CheckFailed(message)


def expect_equal(actual: object, wanted: object, what: str) -> None:
    if actual != wanted:
        raise CheckFailed(f"{what}: wanted {shorten(wanted)}, got {shorten(actual)}")


def shorten(value: object, limit: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class Checks:
    """Runs named checks, prints one line for each, and the sum that `.ci/run` reads."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.passed = 0
        self.failed = 0

    @contextlib.contextmanager
    def check(self, name: str):
        started = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one failed check must not hide the others
            self.failed += 1
            print(f"FAIL {self.title}: {name}: {error}", flush=True)
            if not isinstance(error, CheckFailed):
                traceback.print_exc(file=sys.stdout)
        else:
            self.passed += 1
            print(f"ok   {self.title}: {name} ({time.monotonic() - started:.2f} s)", flush=True)

    def finish(self) -> int:
        print(f"sum: {self.passed} passed, {self.failed} failed", flush=True)
        if self.passed + self.failed == 0:
            print(f"{self.title}: no check ran", flush=True)
            return 1
        return 1 if self.failed else 0


def wait_until(condition, timeout_s: float, what: str, interval_s: float = POLL_INTERVAL_S):
    """Polls `condition` until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise CheckFailed(f"{what}: not within {timeout_s:g} s")
        time.sleep(interval_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """One `tidelog serve`. Use as a context manager; `start` and `kill9` may be called many times."""

    def __init__(
        self,
        data_dir: pathlib.Path | None = None,
        shards: int = 2,
        settings: dict[str, str] | None = None,
        extra: list[str] | None = None,
    ) -> None:
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="tidelog-e2e-"))
        self.data_dir = data_dir or self.scratch / "data"
        self.port = free_port()
        self.admin_port = free_port()
        self.shards = shards
        self.settings = settings or {}
        self.extra = extra or []
        self.log_path = self.scratch / "broker.log"
        self.process: subprocess.Popen | None = None
        self.ready_after_s = 0.0

    @property
    def bootstrap(self) -> str:
        return f"localhost:{self.port}"

    def command(self) -> list[str]:
        command = [
            str(TIDELOG), "serve",
            "--data-dir", str(self.data_dir),
            "--listen", f"localhost:{self.port}",
            "--admin", f"127.0.0.1:{self.admin_port}",
            "--shards", str(self.shards),
        ]  # fmt: skip
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        return command + self.extra

    def start(self, wait: bool = True) -> "Broker":
        with open(self.log_path, "ab") as log:
            started = time.monotonic()
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.scratch
            )
        if wait:
            wait_until(self._ready_or_dead, READY_TIMEOUT_S, "the broker is ready", 0.002)
            self.ready_after_s = time.monotonic() - started
        return self

    def _ready_or_dead(self) -> bool:
        code = self.process.poll()
        if code is not None:
            raise CheckFailed(f"serve ended with {code} before it was ready:\n{self.log_tail()}")
        return http_status(f"http://127.0.0.1:{self.admin_port}/health/ready") == 200

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill9(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Asks for a drain and returns the exit code."""
        self.process.send_signal(signal_number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise CheckFailed(f"serve did not end within {STOP_TIMEOUT_S:g} s of its signal") from None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def memory_kib(self, field: str) -> int:
        """A field of /proc/PID/status: VmRSS, RssAnon, RssFile."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise CheckFailed(f"/proc/{self.process.pid}/status has no {field}")

    def cpu_s(self) -> float:
        """User and system time of all threads, also of those that ended."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat[stat.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S

    def __enter__(self) -> "Broker":
        return self.start()

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def close(self) -> None:
        if self.alive():
            self.kill9()
        if os.environ.get("TIDELOG_E2E_KEEP"):
            print(f"kept {self.scratch}", flush=True)
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)


def http_status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, urllib.error.URLError):
        return None


def page(broker: Broker, path: str) -> str:
    """A page of the broker's admin address."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.admin_port}{path}", timeout=10) as answer:
        return answer.read().decode()


def metrics(broker: Broker, name: str) -> dict[str, float]:
    """All values of `tidelog_<name>`, by their labels as the page writes them (`pool="fetch"`, or nothing)."""
    found = re.findall(rf"^tidelog_{name}(?:{{([^}}]*)}})? (\S+)$", page(broker, "/metrics"), re.MULTILINE)
    expect(found, f"no metric tidelog_{name}")
    return {labels: float(value) for labels, value in found}


def metric(broker: Broker, name: str, labels: str | None = None) -> int:
    """The value of `tidelog_<name>` with these labels, or the sum of all there are."""
    values = metrics(broker, name)
    if labels is None:
        return int(sum(values.values()))
    expect(labels in values, f"no metric tidelog_{name} with {labels}")
    return int(values[labels])


def run(command: list[str], stdin: bytes | None = None, timeout_s: float = CLIENT_TIMEOUT_S):
    """Runs to the end; the caller looks at the exit code."""
    return subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, timeout=timeout_s, check=False
    )


def tidelog(*arguments: str, stdin: bytes | None = None, timeout_s: float = CLIENT_TIMEOUT_S):
    return run([str(TIDELOG), *arguments], stdin, timeout_s)


def kcat(broker: Broker, *arguments: str, stdin: bytes | None = None) -> bytes:
    """Runs kcat against the broker and returns its standard output; a failure of kcat fails the check."""
    result = run(["kcat", "-b", broker.bootstrap, *arguments], stdin)
    if result.returncode != 0:
        raise CheckFailed(f"kcat {' '.join(arguments)}: exit {result.returncode}: {result.stderr.decode()}")
    return result.stdout


def text_lines(count: int):
    """`count` lines of real text, the same on every run of one Python: its own library, numbered so that
    no two lines are equal and none is empty."""
    library = pathlib.Path(os.__file__).parent
    sources = sorted(path for path in library.glob("*.py"))
    expect(len(sources) > 20, f"{library} has too few sources to take text from")
    number = 0
    while number < count:
        for source in sources:
            for line in source.read_bytes().splitlines():
                if number == count:
                    return
                yield b"%08d %s" % (number, line.replace(b"\0", b""))
                number += 1


# ---------------------------------------------------------------- the history keeper

# The writer goes on through a dead broker; it is ended by `history_stop` long before this.
HISTORY_WRITE_S_MAX = 3600


def create_topic(broker: Broker, name: str, partitions: int) -> None:
    result = tidelog("topic", "create", name, "-b", broker.bootstrap, "--partitions", str(partitions))
    expect_equal(result.returncode, 0, f"topic create {name}: {result.stderr.decode(errors='replace')}")


def history_write(broker: Broker, history: pathlib.Path, topic: str, acks: str) -> subprocess.Popen:
    """Starts the writer: it produces to every partition of the topic until it is ended, and keeps a synced
    history of what was sent and what was acknowledged at which offset."""
    return subprocess.Popen(
        [
            str(HISTORY), "write",
            "--bootstrap", broker.bootstrap,
            "--history", str(history),
            "--topic", topic,
            "--acks", acks,
            "--seconds", str(HISTORY_WRITE_S_MAX),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def many_dirty_partitions(broker: Broker) -> subprocess.Popen:
    """Starts a load on many partitions of a topic of its own, so that commits go through a journal that is on."""
    return subprocess.Popen(
        [
            str(LOAD), "produce", "-b", broker.bootstrap, "--topic", "dirty", "--create", "--partitions", "64",
            "--connections", "4", "--in-flight", "64", "--batch-bytes", "4096", "--seconds", str(HISTORY_WRITE_S_MAX),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def journal_commits(broker: Broker) -> int:
    """Commits that went through a journal since the broker started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.admin_port}/metrics", timeout=10) as response:
        found = re.search(r"^tidelog_journal_commits_total (\d+)$", response.read().decode(), re.MULTILINE)
    expect(found, "no metric tidelog_journal_commits_total")
    return int(found.group(1))


def history_stop(writer: subprocess.Popen) -> str:
    """Ends a writer and returns what it said on standard error. A line of the history that this cuts is
    left out by whoever reads it: what was not noted as acknowledged does not count as such."""
    if writer.poll() is None:
        writer.send_signal(signal.SIGTERM)
    try:
        _, said = writer.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        writer.kill()
        _, said = writer.communicate()
        raise CheckFailed(f"the history writer did not end: {said.decode(errors='replace')}") from None
    return said.decode(errors="replace")


def acked_count(history: pathlib.Path) -> int:
    """Records noted as acknowledged."""
    return history.read_bytes().count(b'{"acked":') if history.exists() else 0


def history_check(broker: Broker, history: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    """Reads everything back and compares: exit code 0 when the broker kept all it acknowledged, 3 when a
    promise is broken."""
    return run([HISTORY, "check", "--bootstrap", broker.bootstrap, "--history", history, *options], timeout_s=300)
