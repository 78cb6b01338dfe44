"""Something done again and again beside everything else, that survives the database's absence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.storage.failures import cause_of

_log = logging.getLogger(__name__)


class Periodic:
    """Calls ``action`` every ``interval`` seconds in a task of its own. An outage is logged when it begins and ends."""

    def __init__(self, name: str, interval: float, action: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._interval = interval
        self._action = action
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Begins, once; the first call is an interval away."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"storage-{self._name}")

    async def close(self) -> None:
        """Ends the task and waits for it."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._action()
            except AgentsvcError as error:
                self._failed(error)
            except Exception:  # the edge: nobody awaits this task, and a listener's bug must not stop it for good
                _log.exception("%s failed", self._name)
            else:
                self._worked()

    def _failed(self, error: AgentsvcError) -> None:
        if not self._failing or error.reason is not Reason.STORAGE_UNAVAILABLE:
            _log.warning("%s fails and is repeated (%s)", self._name, cause_of(error))
        self._failing = True

    def _worked(self) -> None:
        if self._failing:
            _log.info("%s works again", self._name)
        self._failing = False
