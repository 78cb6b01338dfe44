"""`agentsvc token` and `agentsvc agent`: an operator's commands on the configured database."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from agentsvc.command import CommandError, dev_tools, one_line_errors, run, settings_of
from agentsvc.domain.runs import TokenRole

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

token = typer.Typer(help="Bearer tokens, straight in the configured database.", no_args_is_help=True)
agent = typer.Typer(help="Agents, straight in the configured database.", no_args_is_help=True)
Dev = Annotated[bool, typer.Option("--dev", help="The database, organisation and tools of `serve --dev`.")]
Organisation = Annotated[str, typer.Option("--org", help="The organisation (tenant); with --dev it is `dev`.")]


def _lifetime(text: str) -> timedelta:
    """``90m``, ``12h``, ``30d`` as a time span."""
    match = re.fullmatch(r"([1-9]\d{0,4})([smhdw])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is no time span: write a number and s, m, h, d or w, for example 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@token.command("create")
def token_create(
    org: Organisation = "",
    role: Annotated[TokenRole, typer.Option(help="What it may do.")] = TokenRole.CALLER,
    expires_in: Annotated[
        timedelta | None, typer.Option(parser=_lifetime, metavar="SPAN", help="90m, 12h, 30d ...; else for ever.")
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    dev: Dev = False,
) -> None:
    """Make a token and print it, this once."""
    with one_line_errors():
        settings = settings_of(dev=dev)
        from agentsvc import administration

        organisation = _organisation(org, dev=dev)
        made = run(administration.create_token(settings, organisation, role, name, expires_in))
        typer.echo(made.text)
        typer.echo(f"token {made.record.token_id}, role {role.value}: keep it, it is not shown again", err=True)


@token.command("list")
def token_list(org: Organisation = "", dev: Dev = False) -> None:
    """Show an organisation's tokens, never their secrets."""
    with one_line_errors():
        settings = settings_of(dev=dev)
        from agentsvc import administration

        administration.show(run(administration.list_tokens(settings, _organisation(org, dev=dev))))


@token.command("revoke")
def token_revoke(token_id: str, org: Organisation = "", dev: Dev = False) -> None:
    """Refuse a token from now on: everywhere, within a second."""
    with one_line_errors():
        settings = settings_of(dev=dev)
        from agentsvc import administration

        organisation = _organisation(org, dev=dev)
        if not run(administration.revoke_token(settings, organisation, token_id)):
            raise CommandError(f"organisation {organisation!r} has no such token; see `agentsvc token list`")
        typer.echo("revoked")


@agent.command("create")
def agent_create(
    agent_id: str,
    provider: Annotated[str, typer.Option(help="See `agentsvc providers`.")],
    org: Organisation = "",
    model: Annotated[str, typer.Option(help="The provider's default if left out.")] = "",
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    instructions: Annotated[str, typer.Option(help="The system prompt; @file reads it from a file.")] = "",
    tools: Annotated[list[str] | None, typer.Option("--tool", help="One of AGENTSVC_TOOLS; may be repeated.")] = None,
    dev: Dev = False,
) -> None:
    """Make an agent."""
    with one_line_errors():
        settings = settings_of(dev=dev)
        from agentsvc import administration
        from agentsvc.domain.agents import Agent, LLMConfig

        if instructions.startswith("@"):
            instructions = Path(instructions[1:]).read_text()
        wanted = Agent(agent_id, LLMConfig(provider, model), name, instructions, tuple(tools or ()))
        run(administration.create_agent(settings, _organisation(org, dev=dev), wanted, dev_tools(dev=dev)))
        typer.echo(f"agent {agent_id} created")


@agent.command("list")
def agent_list(org: Organisation = "", dev: Dev = False) -> None:
    """Show an organisation's agents."""
    with one_line_errors():
        settings = settings_of(dev=dev)
        from agentsvc import administration

        administration.show(run(administration.list_agents(settings, _organisation(org, dev=dev))))


@agent.command("set-model")
def agent_set_model(
    agent_id: str,
    model: str,
    provider: Annotated[str, typer.Option(help="Another provider; left out, the agent's own.")] = "",
    org: Organisation = "",
    dev: Dev = False,
) -> None:
    """Switch an agent's model at run time; running answers end with the old one."""
    with one_line_errors():
        settings = settings_of(dev=dev)
        from agentsvc import administration

        updated = run(
            administration.set_model(
                settings, _organisation(org, dev=dev), agent_id, provider, model, dev_tools(dev=dev)
            )
        )
        typer.echo(f"agent {agent_id} answers with {updated.llm_config.provider}/{updated.llm_config.model}")


def _organisation(named: str, *, dev: bool) -> str:
    from agentsvc.local import ORGANISATION

    if not named and not dev:
        raise CommandError("which organisation? give --org")
    return named or ORGANISATION
