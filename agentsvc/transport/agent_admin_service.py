"""agentsvc.v1.AgentAdminService: agents, written by admins, seen in part by callers. The gate knows who may write."""

from __future__ import annotations

from agentsvc import v1
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.engine.catalog import Catalog
from agentsvc.transport import codec_agents as agents
from agentsvc.transport import codec_requests as requests
from agentsvc.transport.interceptors import Call


class AgentAdminService:
    """Keeps agents."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def create_agent(self, request: v1.CreateAgentRequest, call: Call) -> v1.CreateAgentResponse:
        """A new agent; an empty agent_id is chosen by the service."""
        agent = await self._catalog.create(call.principal, agents.from_agent(request.agent))
        return v1.CreateAgentResponse(agent=agents.to_agent(agent, admin=True))

    async def get_agent(self, request: v1.GetAgentRequest, call: Call) -> v1.GetAgentResponse:
        """An agent."""
        agent = await self._catalog.get(call.principal, request.agent_id)
        return v1.GetAgentResponse(agent=agents.to_agent(agent, admin=call.principal.is_admin))

    async def list_agents(self, request: v1.ListAgentsRequest, call: Call) -> v1.ListAgentsResponse:
        """Agents, newest first, without instructions."""
        requests.refuse_unbuilt(request, requests.UNBUILT_LIST_AGENTS)
        page = await self._catalog.list(call.principal, requests.page(request), requests.filter_of(request))
        admin = call.principal.is_admin
        return v1.ListAgentsResponse(
            agents=[agents.to_agent(agent, admin=admin, instructions=False) for agent in page.items],
            next_page_token=page.next_token,
        )

    async def update_agent(self, request: v1.UpdateAgentRequest, call: Call) -> v1.UpdateAgentResponse:
        """Reads, changes, writes; without the caller's etag, until nobody has written in between."""
        change = request.agent
        while True:
            stored = await self._catalog.get(call.principal, change.agent_id)
            changed = agents.updated_agent(stored, change, request.update_mask)
            try:
                agent = await self._catalog.update(call.principal, changed, change.etag or stored.etag)
            except AgentsvcError as error:
                if change.etag or error.reason is not Reason.ETAG_MISMATCH:
                    raise
            else:
                return v1.UpdateAgentResponse(agent=agents.to_agent(agent, admin=True))

    async def delete_agent(self, request: v1.DeleteAgentRequest, call: Call) -> v1.DeleteAgentResponse:
        """Removes an agent for good."""
        await self._catalog.delete(call.principal, request.agent_id, request.etag)
        return v1.DeleteAgentResponse()
