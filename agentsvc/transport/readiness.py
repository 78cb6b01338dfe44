"""Whether new runs should come here. Liveness is another question, and depends on nothing but this process.

Ready while nothing speaks against it. What does is kept cause by cause, so that a database that comes back does not
make a service ready again that is on its way out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agentsvc.domain.errors import AgentsvcError

_log = logging.getLogger(__name__)
_DOUBT = 2  # failures in a row: one lost packet must not turn every replica away at once


class Readiness:
    """``on_change(ready)`` is awaited with every change."""

    def __init__(self) -> None:
        self._against: dict[str, str] = {}
        self.on_change: Callable[[bool], Awaitable[None]] = _nobody

    @property
    def reason(self) -> str:
        """What speaks against it, for a person; empty when ready."""
        return "; ".join(self._against.values())

    async def lost(self, cause: str, reason: str) -> None:
        """``reason`` speaks against it from now on."""
        was_ready = not self._against
        self._against[cause] = reason
        if was_ready:
            await self.on_change(False)

    async def regained(self, cause: str) -> None:
        """``cause`` speaks against it no more."""
        if self._against.pop(cause, None) is not None and not self._against:
            await self.on_change(True)

    async def follow(self, cause: str, reason: str, probe: Callable[[], Awaitable[None]], interval: float) -> None:
        """Asks ``probe`` every ``interval`` seconds, for ever: while it raises AgentsvcError, ``reason`` is against it.

        A change is logged once.
        """
        failures = 0
        while True:
            try:
                await probe()
            except AgentsvcError:
                failures += 1
                if failures == _DOUBT:
                    _log.warning("not ready: %s", reason)
                    await self.lost(cause, reason)
            else:
                if failures >= _DOUBT:
                    _log.info("ready again as far as the %s goes", cause)
                    await self.regained(cause)
                failures = 0
            await asyncio.sleep(interval)


async def _nobody(_: bool) -> None:
    """Nobody wants to know."""
