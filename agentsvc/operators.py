"""An operator's commands: `agentsvc token` and `agentsvc agent` on the configured database, `agentsvc providers` on the service."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentsvc.command import CommandError, dev_tools, one_line_errors, run, settings_of
from agentsvc.domain.providers import ProviderStatus, TimeToFirstToken
from agentsvc.domain.runs import TokenRole

if TYPE_CHECKING:
    from rich.table import Table

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


def providers(
    target: Annotated[str, typer.Option(envvar="AGENTSVC_TARGET", help="host:port")] = "127.0.0.1:50051",
    bearer: Annotated[
        str, typer.Option("--token", envvar="AGENTSVC_TOKEN", help="An admin's; without one, only settings are shown.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As ListProviders answers, for scripts.")] = False,
) -> None:
    """Show how the providers are doing, in the running service; without one, which are configured here."""
    with one_line_errors():
        from agentsvc.transport import inquiry

        seen = run(inquiry.providers_of(target, bearer)) if bearer else None
        if seen is None:
            why = f"no service answers on {target}" if bearer else "no token"
            typer.echo(f"{why}: this is what is configured here", err=True)
        found = _configured() if seen is None else seen
        if as_json:
            typer.echo(inquiry.json_of(found))
            return
        from agentsvc import administration

        administration.show(_table(found, live=seen is not None))


def _configured() -> Sequence[ProviderStatus]:
    """The providers as the settings alone make them."""
    settings = settings_of()
    from agentsvc.providers.models import Providers
    from agentsvc.providers.registry import installed

    return Providers(installed(), settings.endpoints, settings.pool, settings.routing).providers()


def _table(statuses: Iterable[ProviderStatus], *, live: bool) -> Table:
    """A line for each, and one for each address where there are several. Not ``live``: nothing was asked of any yet."""
    from rich.table import Table

    columns = ("breaker", "first token p50 / p99", "warm") if live else ()
    table = Table("provider", "default model", "configured", *columns, "can", box=None, pad_edge=False)
    for status in statuses:
        configured = "yes" if status.configured else f"no: set {' and '.join(status.missing_settings)}"
        state = (_words(status.breaker or "-"), _times(status.ttft), str(status.warm_connections)) if live else ()
        can = ", ".join(_words(name) for name, has in asdict(status.capabilities).items() if has)
        table.add_row(status.provider, status.default_model, configured, *state, can)
        for row in _addresses(status, live=live):
            table.add_row(*row)
    return table


def _addresses(status: ProviderStatus, *, live: bool) -> Iterator[tuple[str, ...]]:
    if len(status.endpoints) > 1:
        for endpoint in status.endpoints:
            state = (_words(endpoint.breaker), "", str(endpoint.warm_connections)) if live else ()
            yield f"  {endpoint.region or endpoint.host}", "", endpoint.host, *state


def _times(ttft: TimeToFirstToken | None) -> str:
    return f"{ttft.p50 * 1e3:.0f} / {ttft.p99 * 1e3:.0f} ms, of {ttft.samples}" if ttft else "-"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _organisation(named: str, *, dev: bool) -> str:
    from agentsvc.local import ORGANISATION

    if not named and not dev:
        raise CommandError("which organisation? give --org")
    return named or ORGANISATION
