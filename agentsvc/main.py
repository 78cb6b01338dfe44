"""The command line. Each command composes what it needs from the settings; what it does lives in the rooms below.

Heavy imports stay inside the commands, so that `agentsvc --help` answers at once.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agentsvc.domain.errors import AgentsvcError
from agentsvc.domain.runs import TokenRole

if TYPE_CHECKING:
    from agentsvc.engine.tools import Tool
    from agentsvc.settings import Settings

T = TypeVar("T")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class CommandError(Exception):
    """What a person can mend: told in a line, without a traceback."""


def _lifetime(text: str) -> timedelta:
    """``90m``, ``12h``, ``30d`` as a time span."""
    match = re.fullmatch(r"([1-9]\d{0,5})([smhdw])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is no time span: write a number and s, m, h, d or w, for example 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


cli = typer.Typer(
    name="agentsvc",
    help="A multi-provider LLM agent service whose native tongue is gRPC streaming.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, and keys with them
)
token = typer.Typer(help="Bearer tokens, straight in the configured database.", no_args_is_help=True)
agent = typer.Typer(help="Agents, straight in the configured database.", no_args_is_help=True)
cli.add_typer(token, name="token")
cli.add_typer(agent, name="agent")

Dev = Annotated[bool, typer.Option("--dev", help="The database, organisation and tools of `serve --dev`.")]
Organisation = Annotated[str, typer.Option("--org", help="The organisation (tenant); with --dev it is `dev`.")]


@cli.command()
def serve(
    dev: Annotated[
        bool, typer.Option("--dev", help="On loopback, with an own SQLite file, an agent `demo` and an admin token.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
) -> None:
    """Run the service until SIGTERM or SIGINT."""
    with _one_line_errors():
        if workers > 1:
            raise CommandError("--workers needs Redis, which replicas on one machine share; that is not built yet")
        settings = _settings(dev=dev)
        from agentsvc.telemetry.log import logging_to

        with logging_to(sys.stderr, settings.log):
            _run(_serve(settings, dev=dev))


@cli.command()
def demo() -> None:
    """The main job in one command: the real service, one streamed answer with a tool call, and where the time went."""
    with _one_line_errors(), tempfile.TemporaryDirectory() as directory:
        from agentsvc.settings import Settings
        from agentsvc.storage import StorageConfig
        from agentsvc.telemetry.log import LogConfig, LogLevel, logging_to
        from agentsvc.transport.server import ServerConfig

        settings = Settings(
            server=ServerConfig("127.0.0.1:0"),
            storage=StorageConfig(f"sqlite:///{Path(directory, 'demo.sqlite3')}"),
            shutdown_grace=0.0,
        )
        with logging_to(sys.stderr, LogConfig(LogLevel.WARNING)):
            _run(_demo(settings))


@cli.command()
def chat(
    message: Annotated[str, typer.Argument(help="The question; without one, a conversation begins.")] = "",
    target: Annotated[str, typer.Option(envvar="AGENTSVC_TARGET", help="host:port")] = "127.0.0.1:50051",
    bearer: Annotated[str, typer.Option("--token", envvar="AGENTSVC_TOKEN", help="A bearer token.")] = "",
    agent_id: Annotated[str, typer.Option("--agent")] = "demo",
    session_id: Annotated[str, typer.Option("--session", help="Go on in this session.")] = "",
) -> None:
    """Ask a running service, and see where the time to the first token went."""
    with _one_line_errors():
        if not bearer:
            raise CommandError("no token: give --token or set AGENTSVC_TOKEN (`serve --dev` prints one)")
        _run(_chat(target, bearer, agent_id, session_id, message))


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
    with _one_line_errors():
        settings = _settings(dev=dev)
        from agentsvc import administration

        organisation = _organisation(org, dev=dev)
        made = _run(administration.create_token(settings, organisation, role, name, expires_in))
        typer.echo(made.text)
        typer.echo(f"token {made.record.token_id}, role {role.value}: keep it, it is not shown again", err=True)


@token.command("list")
def token_list(org: Organisation = "", dev: Dev = False) -> None:
    """Show an organisation's tokens, never their secrets."""
    with _one_line_errors():
        settings = _settings(dev=dev)
        from agentsvc import administration

        administration.show(_run(administration.list_tokens(settings, _organisation(org, dev=dev))))


@token.command("revoke")
def token_revoke(token_id: str, org: Organisation = "", dev: Dev = False) -> None:
    """Refuse a token from now on: everywhere, within a second."""
    with _one_line_errors():
        settings = _settings(dev=dev)
        from agentsvc import administration

        organisation = _organisation(org, dev=dev)
        if not _run(administration.revoke_token(settings, organisation, token_id)):
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
    with _one_line_errors():
        settings = _settings(dev=dev)
        from agentsvc import administration
        from agentsvc.domain.agents import Agent, LLMConfig

        if instructions.startswith("@"):
            instructions = Path(instructions[1:]).read_text()
        wanted = Agent(agent_id, LLMConfig(provider, model), name, instructions, tuple(tools or ()))
        _run(administration.create_agent(settings, _organisation(org, dev=dev), wanted, _tools(dev=dev)))
        typer.echo(f"agent {agent_id} created")


@agent.command("list")
def agent_list(org: Organisation = "", dev: Dev = False) -> None:
    """Show an organisation's agents."""
    with _one_line_errors():
        settings = _settings(dev=dev)
        from agentsvc import administration

        administration.show(_run(administration.list_agents(settings, _organisation(org, dev=dev))))


@agent.command("set-model")
def agent_set_model(
    agent_id: str,
    model: str,
    provider: Annotated[str, typer.Option(help="Another provider; left out, the agent's own.")] = "",
    org: Organisation = "",
    dev: Dev = False,
) -> None:
    """Switch an agent's model at run time; running answers end with the old one."""
    with _one_line_errors():
        settings = _settings(dev=dev)
        from agentsvc import administration

        updated = _run(
            administration.set_model(settings, _organisation(org, dev=dev), agent_id, provider, model, _tools(dev=dev))
        )
        typer.echo(f"agent {agent_id} answers with {updated.llm_config.provider}/{updated.llm_config.model}")


@cli.command()
def providers() -> None:
    """Show which providers are configured, and what the others are missing."""
    with _one_line_errors():
        settings = _settings()
        from agentsvc import administration

        administration.show(administration.configured_providers(settings))


@cli.command()
def migrate() -> None:
    """Bring the configured database to this version's tables."""
    with _one_line_errors():
        settings = _settings()
        from agentsvc.storage import migrate as upgrade

        _run(upgrade(settings.storage.url))
        typer.echo("the database is up to date")


@cli.command()
def health(
    target: Annotated[str, typer.Option(help="host:port; left out, AGENTSVC_GRPC_ADDRESS.")] = "",
) -> None:
    """Ask a running service whether it is ready; exit code 0 means yes. For container health checks."""
    with _one_line_errors():
        server = _settings().server
        from agentsvc.transport.probe import is_serving

        if not _run(is_serving(target or server.address, tls=bool(server.tls and not target))):
            raise CommandError("not serving")


@cli.command()
def bench() -> None:
    """Say how to measure."""
    typer.echo("The benchmark lives in the repository, with its own load: run `make bench` there.")


async def _serve(settings: Settings, *, dev: bool) -> None:
    from agentsvc.local import furnish
    from agentsvc.service import Service

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Service(settings, tools=_tools(dev=dev)) as service:
        host = settings.server.address.rpartition(":")[0]
        address = f"{host}:{service.port}"
        typer.echo(f"agentsvc is ready: gRPC on {address}")
        if dev:
            _welcome(address, await furnish(service, settings.dev_token))
        await stop.wait()


def _welcome(address: str, bearer: str) -> None:
    from agentsvc.local import AGENT, ORGANISATION, QUESTION

    typer.echo(
        f"organisation {ORGANISATION}, agent {AGENT}, admin token {bearer}\n"
        f"grpcurl -plaintext -H 'authorization: Bearer {bearer}' "
        f"""-d '{{"agent_id":"{AGENT}","message":"{QUESTION}"}}' {address} agentsvc.v1.AgentService/StreamChat"""
    )


async def _demo(settings: Settings) -> None:
    from rich.console import Console

    from agentsvc.client import AgentClient
    from agentsvc.console import ask
    from agentsvc.local import AGENT, QUESTION, TOOLS, furnish
    from agentsvc.service import Service

    async with Service(settings, tools=TOOLS) as service:
        bearer = await furnish(service)
        console = Console()
        console.print(f"[bold]{QUESTION}[/bold]")
        async with AgentClient(f"127.0.0.1:{service.port}", bearer) as client:
            await ask(client, console, QUESTION, agent_id=AGENT)


async def _chat(target: str, bearer: str, agent_id: str, session_id: str, message: str) -> None:
    from rich.console import Console

    from agentsvc.client import AgentClient, AgentError
    from agentsvc.console import ask

    console = Console()
    async with AgentClient(target, bearer) as client:
        if message:
            await ask(client, console, message, agent_id=agent_id, session_id=session_id)
            return
        while question := await asyncio.to_thread(_question):
            try:
                session_id = await ask(client, console, question, agent_id=agent_id, session_id=session_id)
            except AgentError as error:
                console.print(str(error), style="red", markup=False)


def _question() -> str:
    """The next question; empty at the end of the input or for an empty line."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _settings(*, dev: bool = False) -> Settings:
    from agentsvc.settings import Settings

    return Settings.load(dev=dev)


def _organisation(named: str, *, dev: bool) -> str:
    from agentsvc.local import ORGANISATION

    if not named and not dev:
        raise CommandError("which organisation? give --org")
    return named or ORGANISATION


def _tools(*, dev: bool) -> tuple[Tool, ...]:
    from agentsvc.local import TOOLS

    return TOOLS if dev else ()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it on uvloop where that exists: 10-20 % less CPU."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What a person can mend is told in a line on stderr, with exit code 2. A bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except _mendable() as error:
        text = error.error.message if isinstance(error, AgentsvcError) else str(error)
        for line in text.splitlines():
            typer.echo(f"agentsvc: {line}", err=True)
        raise typer.Exit(2) from None


def _mendable() -> tuple[type[Exception], ...]:
    """Asked only when something was raised, by a command that has imported these anyway."""
    from agentsvc.client import AgentError
    from agentsvc.settings import SettingsError

    return CommandError, SettingsError, AgentsvcError, AgentError, OSError


if __name__ == "__main__":
    cli()
