"""What `serve --dev` and `demo` bring along, so that the first call needs no set-up: organisation, agent, tool, token."""

from __future__ import annotations

import asyncio
import secrets

from agentsvc.domain.agents import Agent, GenerationOptions, LLMConfig
from agentsvc.domain.runs import Principal, TokenRole
from agentsvc.engine.tools import tool
from agentsvc.service import Service

ORGANISATION = "dev"
AGENT = "demo"
QUESTION = "What is the weather in Paris, and do I need a coat?"

_OPERATOR = Principal(ORGANISATION, "dev", TokenRole.ADMIN)


@tool(idempotent=True)
async def get_weather(city: str) -> str:
    """The weather in a city, now."""
    await asyncio.sleep(0.05)  # as long as a real look-up: the demo shows whose time that is
    return f"{city}: 4 °C, light rain, wind from the south-west."


TOOLS = (get_weather,)

_DEMO = Agent(
    agent_id=AGENT,
    display_name="Demo",
    instructions="Answer briefly. Look up the weather with your tool.",
    # The scripted provider, at a pace that eyes can follow.
    llm_config=LLMConfig("mock", parameters=GenerationOptions(provider_options={"delay": 0.02})),
    tools=(get_weather.spec.name,),
)


async def furnish(service: Service, token: str = "") -> str:
    """Makes what is missing and lets ``token`` (empty: a new one) in, with the role admin, until the process ends.

    An agent that is there already is left as its user made it. Returns the token.
    """
    await service.storage.tokens.ensure_organisation(ORGANISATION, "Development")
    if await service.storage.agents.get(ORGANISATION, AGENT) is None:
        await service.catalog.create(_OPERATOR, _DEMO)
    token = token or secrets.token_urlsafe(32)
    service.admit(token, _OPERATOR)
    return token
