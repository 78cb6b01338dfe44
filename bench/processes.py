"""Processes on cores: who runs where, what CPU time each has used, who else was there.

The one under test has a core of its own; the upstream, the load client and the orchestrator share the other one.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 20.0

_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The bench could not do its work; nothing it measured counts."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the process under test and the core of everything that feeds and reads it."""

    tested: int
    load: int

    @classmethod
    def available(cls) -> Cores:
        """The first two cores this process may use."""
        match sorted(os.sched_getaffinity(0)):
            case [tested, load, *_]:
                return cls(tested, load)
            case _:
                raise BenchError("the bench needs two cores: on one, the load client would be measured as well")


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes and threads begun inside stay on ``core`` from their first instruction."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stop_in_order() -> None:
    """SIGTERM leaves the blocks that are open, as an interrupt does, so that no process of ours outlives this one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: terminated"))


def raise_file_limit() -> None:
    """As many open files as the system allows: a thousand streams are two thousand sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def running(
    command: Sequence[str], core: int, *, environ: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A Python process (``command`` follows the interpreter) on ``core``, ended when the block is left.

    What it says goes to ``log``, or can be read from its ``stdout``.
    """
    with ExitStack() as stack:
        out = stack.enter_context(log.open("a")) if log else subprocess.PIPE
        stack.enter_context(pinned(core))
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if log else None,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def ready_port(process: subprocess.Popen[str]) -> int:
    """The port from the process' line ``ready <port>``."""
    line = process.stdout.readline() if process.stdout is not None else ""
    match line.split():
        case ["ready", port]:
            return int(port)
        case _:
            raise BenchError(f"{process.args!r} did not start: {line!r}")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cpu_ns(pid: int) -> int:
    """CPU time that all threads of a process have used, those that ended included."""
    return time.clock_gettime_ns(~pid << 3 | 2)  # the kernel's clock id of another process, clock_getcpuclockid(3)


def anonymous_kb(pid: int) -> int:
    """Memory of a process that is its own: without the code and the libraries it has mapped."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise BenchError(f"process {pid} is gone")


def _busy_seconds() -> dict[int, float]:
    """Per core: the time it was not idle, whoever used it; the hypervisor counts."""
    busy = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *rest = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, rest)
            busy[int(name[3:])] = (user + nice + system + irq + softirq + steal) / _TICKS
    return busy


class Usage(msgspec.Struct):
    """What happened on both cores over a time. ``idle``: share of the time in which neither upstream nor load client
    used the CPU, exact to the microsecond. ``foreign``: share in which somebody else did, on the worse of the two cores
    (to a hundredth of a second).
    """

    seconds: float
    tested_cpu: float
    idle: float
    foreign: float


class Meter:
    """Adds up over one or several stretches, each between ``start`` and ``stop``; ``foreign`` is over all since it was made.

    ``tested`` None: nothing is under test, the upstream is asked directly.
    """

    def __init__(self, cores: Cores, *, tested: int | None, upstream: int) -> None:
        self._cores = cores
        self._pids = (tested, upstream, os.getpid())
        self._since, self._used = self._now()
        self._busy = _busy_seconds()
        self._began, self._before = self._since, self._used
        self._seconds = 0.0
        self._cpu = (0.0, 0.0, 0.0)

    def _now(self) -> tuple[float, tuple[float, ...]]:
        return time.monotonic(), tuple(cpu_ns(pid) / 1e9 if pid else 0.0 for pid in self._pids)

    def start(self) -> None:
        self._began, self._before = self._now()

    def stop(self) -> None:
        now, used = self._now()
        self._seconds += now - self._began
        tested, upstream, load = (sum_ + b - a for sum_, a, b in zip(self._cpu, self._before, used, strict=True))
        self._cpu = (tested, upstream, load)

    def usage(self) -> Usage:
        now, used = self._now()
        busy = _busy_seconds()
        ours = [b - a for a, b in zip(self._used, used, strict=True)]
        cores = ((self._cores.tested, ours[0]), (self._cores.load, ours[1] + ours[2]))
        foreign = max(0.0, *(busy[core] - self._busy[core] - seconds for core, seconds in cores)) / (now - self._since)
        tested, upstream, load = self._cpu
        return Usage(self._seconds, tested, 1 - (upstream + load) / self._seconds, foreign)
