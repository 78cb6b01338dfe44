"""Sessions: who may speak next in a conversation, and what was said in it so far.

A session takes one run at a time. What the last runs said is kept here, so that a warm request reads no database.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from agentsvc.domain.agents import Session
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Message
from agentsvc.domain.ports import Filter, Page, PageRequest, SessionStore
from agentsvc.domain.runs import Principal
from agentsvc.engine.ids import new_id

_KEPT_SESSIONS = 10_000
_KEPT_MESSAGES = 200


class Conversation:
    """One session in this process: its recent messages and whose turn it is."""

    __slots__ = ("_queue", "fresh", "messages", "run_id", "session")

    def __init__(self, session: Session, messages: Sequence[Message], *, fresh: bool) -> None:
        self.session = session
        self.messages = list(messages)
        self.fresh = fresh  # not stored yet: the first run's row brings it along
        self.run_id = ""
        self._queue: dict[str, asyncio.Future[None]] = {}

    def take(self, run_id: str) -> None:
        """Gives the turn to a run.

        Raises:
            AgentsvcError: SESSION_BUSY with the ``run_id`` that has it.
        """
        if self.run_id:
            raise self.busy()
        self.run_id = run_id

    def busy(
        self, advice: str = "Wait for its end, cancel it, or set options.on_session_busy to QUEUE or INTERRUPT."
    ) -> AgentsvcError:
        """SESSION_BUSY, naming the run that has the turn."""
        return AgentsvcError(
            Reason.SESSION_BUSY,
            f"Session {self.session.session_id!r} is answering run {self.run_id!r}. {advice}",
            metadata={"run_id": self.run_id},
        )

    @property
    def lined_up(self) -> tuple[str, ...]:
        """The run that has the turn and those that wait for it."""
        return (self.run_id, *self._queue) if self.run_id else ()

    def line_up(self, run_id: str) -> None:
        """The turn at once or, when another run has it, later: first come, first served. ``turn`` waits for it."""
        if self.run_id:
            self._queue[run_id] = asyncio.get_running_loop().create_future()
        else:
            self.run_id = run_id

    async def turn(self, run_id: str) -> None:
        """Returns when a run that lined up has the turn."""
        if (future := self._queue.get(run_id)) is not None:
            await future

    def release(self, run_id: str, messages: Sequence[Message]) -> None:
        """A run is over: what was said stays, the turn passes on. A run that never had the turn leaves the queue."""
        if self.run_id != run_id:
            self._queue.pop(run_id, None)
            return
        self.messages.extend(messages)
        del self.messages[:-_KEPT_MESSAGES]
        self.run_id = next(iter(self._queue), "")
        # One whose wait was cancelled gets the turn as well: on its way out it passes it on.
        if self.run_id and not (future := self._queue.pop(self.run_id)).done():
            future.set_result(None)


class Sessions:
    """The sessions of all tenants, as far as this process has met them."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._open: OrderedDict[tuple[str, str], Conversation] = OrderedDict()

    def begin(self, tenant_id: str, agent_id: str, user_id: str, *, keep: bool = True) -> Conversation:
        """A new session. ``keep`` False: for this run only, nobody can come back to it."""
        session = Session(new_id("session"), agent_id, user_id, create_time=datetime.now(UTC))
        conversation = Conversation(session, (), fresh=True)
        if keep:
            self._remember(tenant_id, conversation)
        return conversation

    def cached(self, tenant_id: str, session_id: str) -> Conversation | None:
        """The session if it is at hand: no I/O, no await."""
        if (conversation := self._open.get((tenant_id, session_id))) is not None:
            self._open.move_to_end((tenant_id, session_id))
        return conversation

    async def load(self, tenant_id: str, session_id: str) -> Conversation | None:
        """The session from the store."""
        session = await self._store.get(tenant_id, session_id)
        if session is None:
            return None
        messages = await self._store.history(tenant_id, session_id, _KEPT_MESSAGES)
        # Somebody else may have loaded it meanwhile, and may be speaking.
        return self.cached(tenant_id, session_id) or self._remember(
            tenant_id, Conversation(session, messages, fresh=False)
        )

    async def get(self, principal: Principal, session_id: str) -> Session:
        """SESSION_NOT_FOUND for unknown ids."""
        if session := await self._store.get(principal.tenant_id, session_id):
            return session
        raise not_found(session_id)

    async def list(self, principal: Principal, page: PageRequest, where: Filter) -> Page[Session]:
        """The tenant's sessions, newest first."""
        return await self._store.list(principal.tenant_id, page, where)

    async def create(self, principal: Principal, session: Session) -> Session:
        """A new session; an empty id is made."""
        if not session.session_id:
            session = replace(session, session_id=new_id("session"))
        return await self._store.create(principal.tenant_id, session)

    async def delete(self, principal: Principal, session_id: str) -> None:
        """Removes a session and its messages for good. SESSION_NOT_FOUND; SESSION_BUSY while a run speaks in it."""
        conversation = self.cached(principal.tenant_id, session_id)
        if conversation is not None and conversation.run_id:
            raise conversation.busy()
        self._open.pop((principal.tenant_id, session_id), None)
        if not await self._store.delete(principal.tenant_id, session_id):
            raise not_found(session_id)

    async def messages(self, principal: Principal, session_id: str, page: PageRequest) -> Page[Message]:
        """A session's messages, oldest first. SESSION_NOT_FOUND."""
        await self.get(principal, session_id)
        return await self._store.messages(principal.tenant_id, session_id, page)

    def _remember(self, tenant_id: str, conversation: Conversation) -> Conversation:
        self._open[tenant_id, conversation.session.session_id] = conversation
        while len(self._open) > _KEPT_SESSIONS:
            # Least recently used first, but never one that somebody is speaking in.
            idle = next(
                (key for key, other in self._open.items() if not other.run_id and other is not conversation), None
            )
            if idle is None:
                break
            del self._open[idle]
        return conversation


def not_found(session_id: str) -> AgentsvcError:
    """SESSION_NOT_FOUND: unknown, another tenant's, another agent's or another user's; all the same to the caller."""
    return AgentsvcError(
        Reason.SESSION_NOT_FOUND,
        f"There is no session {session_id!r} for this agent and user. Leave session_id empty to begin a new one.",
    )
