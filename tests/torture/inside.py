"""Tools that an operator could give a service: ways to hold a run up, to break it, and to look into its process.

The service under torture runs as ``agentsvc serve`` and nothing in it is prepared for tests; what must be seen from
inside is asked through a tool, which runs there.
"""

from __future__ import annotations

import _sqlite3
import asyncio
import ctypes
import gc
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentsvc.engine.live import Live
from agentsvc.engine.tools import tool


class _Mallinfo2(ctypes.Structure):
    """malloc.h, struct mallinfo2: what glibc's allocator holds, over all arenas."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


_mallinfo2 = ctypes.CDLL(None).mallinfo2
_mallinfo2.restype = _Mallinfo2


_sqlite = ctypes.CDLL(_sqlite3.__file__)  # a symbol is looked for in what a library depends on, too
_sqlite.sqlite3_memory_used.restype = ctypes.c_int64


def native_bytes() -> int:
    """Bytes that malloc has given out and not got back, without SQLite's page cache, which fills and empties by megabytes.
    Python's small objects come from arenas of its own.
    """
    told = _mallinfo2()
    return int(told.uordblks + told.hblkhd - _sqlite.sqlite3_memory_used())


def sockets() -> int:
    """Open sockets of this process."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that listed the others
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def resident_bytes() -> int:
    """Memory of this process that is in use or kept for use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@tool(idempotent=True)
async def look_inside() -> dict[str, Any]:
    """What this process holds, its garbage swept out before."""
    gc.collect()
    runs = [thing for thing in gc.get_objects() if type(thing) is Live]
    return {
        "tasks": len(asyncio.all_tasks()),
        "sockets": sockets(),
        "threads": threading.active_count(),
        "runs": sum(not run.state.ended for run in runs),
        "kept": len(runs),
        "native": native_bytes(),
        "resident": resident_bytes(),
    }


@tool(idempotent=True)
async def look() -> str:
    """Looks."""
    return "seen"


@tool(timeout=600.0)
async def hold(port: int) -> str:
    """Holds a connection to ``port`` until somebody ends the tool: from outside one sees when."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /held HTTP/1.1\r\n\r\n")
    try:
        await asyncio.Event().wait()
    finally:
        writer.transport.abort()
    return "never"


@tool(timeout=600.0)
async def wait(seconds: float) -> str:
    """Says nothing for a while."""
    await asyncio.sleep(seconds)
    return "waited"


@tool
def block(seconds: float) -> str:
    """Holds a thread, which nothing can end, for a while."""
    time.sleep(seconds)
    return "blocked"


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


class Unprintable(Exception):  # noqa: N818 - what is wrong with it is not its name
    """Fails again when it is told."""

    def __str__(self) -> str:
        raise RuntimeError("cannot even be told")


EXCEPTIONS: dict[str, BaseException] = {
    failure.__class__.__name__: failure
    for failure in (
        Exception("secret-of-the-tool"),
        ValueError("secret-of-the-tool"),
        KeyError("secret-of-the-tool"),
        TypeError("secret-of-the-tool"),
        AttributeError("secret-of-the-tool"),
        AssertionError("secret-of-the-tool"),
        RuntimeError("secret-of-the-tool"),
        OSError(5, "secret-of-the-tool"),
        TimeoutError("secret-of-the-tool"),
        MemoryError("secret-of-the-tool"),
        RecursionError("secret-of-the-tool"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret-of-the-tool"),
        ZeroDivisionError("secret-of-the-tool"),
        StopIteration("secret-of-the-tool"),
        StopAsyncIteration("secret-of-the-tool"),
        ExceptionGroup("secret-of-the-tool", [ValueError("inner")]),
        Unprintable(),
        asyncio.CancelledError("secret-of-the-tool"),
        GeneratorExit("secret-of-the-tool"),
        SystemExit("secret-of-the-tool"),
        KeyboardInterrupt("secret-of-the-tool"),
        BaseExceptionGroup("secret-of-the-tool", [SystemExit(3)]),
        Odd("secret-of-the-tool"),
    )
}


@tool(idempotent=True)
async def fail(with_: str) -> str:
    """Raises what it is told to, on the event loop."""
    raise EXCEPTIONS[with_]


@tool(idempotent=True)
def fail_in_thread(with_: str) -> str:
    """Raises what it is told to, in a thread."""
    raise EXCEPTIONS[with_]


TOOLS = (look_inside, look, hold, wait, block, fail, fail_in_thread)
