"""The last seconds of a process: from the first SIGTERM to the closed port.

    at once          readiness goes; new runs are refused with DRAINING; what runs goes on, and SubscribeRun is served
    from settle on   the port closes as soon as every run has ended by itself
    grace - 2 s      the farewell begins: runs that are left end INTERRUPTED. Their readers get ``draining``, then
                     run_finished and UNAVAILABLE (RUN_INTERRUPTED). The port closes, what is to be stored is written

``hurry`` (a second SIGTERM) begins the farewell now, and lets the last writes take a second at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from agentsvc.engine.runs import Runs
from agentsvc.transport.server import Server

FAREWELL: Final = 2.0  # seconds of the grace that are the service's own
RETRY_AFTER: Final = 1.0  # seconds that readers are told to wait: then the ends of interrupted runs are stored

_log = logging.getLogger(__name__)
_ENDS: Final = 1.2  # seconds that interrupted runs take at most: run_finished waits 1 s for its commit
_FLUSH: Final = 0.4  # seconds of a farewell that are kept for the last writes; run_finished has waited for most of them
_HASTE: Final = 1.5  # seconds of a farewell in a hurry


class Drain:
    """How a process ends. ``grace`` and ``settle`` in seconds; ``hurry`` set: no more patience, now or when it comes to it.

    ``flush`` writes what is left, within so many seconds.
    """

    def __init__(
        self,
        server: Server,
        runs: Runs,
        flush: Callable[[float], Awaitable[None]],
        hurry: asyncio.Event,
        *,
        grace: float,
        settle: float,
    ) -> None:
        self._server = server
        self._runs = runs
        self._flush = flush
        self._hurry = hurry
        self._patience = max(0.0, grace - FAREWELL)
        self._settle = settle

    async def run(self) -> None:
        """Returns when the port is closed and all that could be written in time is written."""
        self._runs.close_doors()
        await self._server.set_ready(ready=False)
        await self._wait()
        await self._take_leave()

    async def _wait(self) -> None:
        """Until everything is calm, or patience is over."""
        waits: set[asyncio.Task[Any]] = {asyncio.create_task(self._calm()), asyncio.create_task(self._hurry.wait())}
        await asyncio.wait(waits, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)

    async def _calm(self) -> None:
        """Returns when the settling time is over, and every run."""
        await asyncio.sleep(self._settle)
        await self._runs.all_ended()

    async def _take_leave(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_HASTE if self._hurry.is_set() else FAREWELL)
        # In one breath: whoever hears the one and leaves cannot be mistaken for the cause of the other.
        self._server.announce_drain(RETRY_AFTER)
        if interrupted := self._runs.interrupt():
            _log.warning("%d runs could not end in time and are INTERRUPTED", interrupted)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._runs.all_ended(), _ENDS)
        await self._server.stop(max(0.0, deadline - loop.time() - _FLUSH))
        await self._flush(min(1.0, max(_FLUSH, deadline - loop.time())))
