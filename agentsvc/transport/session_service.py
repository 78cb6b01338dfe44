"""agentsvc.v1.SessionService: conversations made beforehand, looked at, removed."""

from __future__ import annotations

from agentsvc import v1
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.runs import Runs
from agentsvc.engine.sessions import Sessions
from agentsvc.transport import codec_requests as requests
from agentsvc.transport import codec_resources as resources
from agentsvc.transport.interceptors import Call


class SessionService:
    """Keeps conversations."""

    def __init__(self, sessions: Sessions, runs: Runs, catalog: Catalog) -> None:
        self._sessions = sessions
        self._runs = runs
        self._catalog = catalog

    async def create_session(self, request: v1.CreateSessionRequest, call: Call) -> v1.CreateSessionResponse:
        """An empty session of an agent that exists."""
        await self._catalog.get(call.principal, request.session.agent_id)
        session = await self._sessions.create(call.principal, resources.from_session(request.session))
        return v1.CreateSessionResponse(session=resources.to_session(session))

    async def get_session(self, request: v1.GetSessionRequest, call: Call) -> v1.GetSessionResponse:
        """A session."""
        session = await self._sessions.get(call.principal, request.session_id)
        return v1.GetSessionResponse(session=resources.to_session(session))

    async def list_sessions(self, request: v1.ListSessionsRequest, call: Call) -> v1.ListSessionsResponse:
        """Sessions, newest first."""
        page = await self._sessions.list(call.principal, requests.page(request), requests.filter_of(request))
        return v1.ListSessionsResponse(
            sessions=[resources.to_session(session) for session in page.items], next_page_token=page.next_token
        )

    async def delete_session(self, request: v1.DeleteSessionRequest, call: Call) -> v1.DeleteSessionResponse:
        """Removes a session and its messages for good; a run that speaks in it is cancelled first."""
        await self._runs.silence(call.principal, request.session_id)
        await self._sessions.delete(call.principal, request.session_id)
        return v1.DeleteSessionResponse()

    async def list_messages(self, request: v1.ListMessagesRequest, call: Call) -> v1.ListMessagesResponse:
        """A session's messages, oldest first."""
        page = await self._sessions.messages(call.principal, request.session_id, requests.page(request))
        return v1.ListMessagesResponse(
            messages=[resources.to_message(message) for message in page.items], next_page_token=page.next_token
        )
