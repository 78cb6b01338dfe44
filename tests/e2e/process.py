"""The service in a process of its own: where memory is measured, and what a command line does to it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without its settings, and these instead."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"AGENTSVC_|OPENAI_|ANTHROPIC_", name)}
    return {**kept, "PYTHONPATH": str(ROOT), **settings}


async def agentsvc(*arguments: str, **settings: str) -> str:
    """Runs one command to its end; what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentsvc.main", *arguments,
        env=environment(**settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


class Running:
    """A service that listens on ``port``."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port

    def resident(self) -> int:
        """Bytes in memory now."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) << 10


@asynccontextmanager
async def serving(**settings: str) -> AsyncIterator[Running]:
    """``agentsvc serve`` on a free port; at the end it is asked to go and must do so cleanly."""
    ports = {"AGENTSVC_GRPC_ADDRESS": "127.0.0.1:0", "AGENTSVC_ADMIN_ADDRESS": "127.0.0.1:0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentsvc.main", "serve",
        env=environment(**{**ports, "AGENTSVC_DRAIN__SETTLE": "0", **settings}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = re.search(rb"gRPC on .*:(\d+)", await process.stdout.readline())
        assert port
        yield Running(process.pid, int(port[1]))
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
