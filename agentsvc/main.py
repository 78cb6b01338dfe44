"""The command line. Each command composes what it needs from the settings; what it does lives in the rooms below.

Heavy imports stay inside the commands, so that `agentsvc --help` answers at once.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentsvc import operators, process
from agentsvc.command import CommandError, dev_tools, one_line_errors, run, settings_of

if TYPE_CHECKING:
    from agentsvc.settings import Settings

# Read by gRPC when it is loaded, which is later. Its own log repeats what peers send, line ends included: anybody could
# write lines into ours. Who looks for a fault in gRPC itself sets the variable.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Its older way to listen: the thread that hands us what is done also reads the sockets. In the newer one these are two
# threads, and between them lies 5 % of the time to a first token and as much of the CPU of a token or a request.
GRPC_LISTENER: Final = "event_engine_listener"
os.environ.setdefault("GRPC_EXPERIMENTS", f"-{GRPC_LISTENER}")

cli = typer.Typer(
    name="agentsvc",
    help="A multi-provider LLM agent service whose native tongue is gRPC streaming.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, and keys with them
)
cli.add_typer(operators.token, name="token")
cli.add_typer(operators.agent, name="agent")
cli.command()(operators.providers)


@cli.command()
def serve(
    dev: Annotated[
        bool, typer.Option("--dev", help="On loopback, with an own SQLite file, an agent `demo` and an admin token.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
) -> None:
    """Run the service until SIGTERM or SIGINT."""
    with one_line_errors():
        if workers > 1:
            raise CommandError("--workers needs Redis, which replicas on one machine share; that is not built yet")
        settings = settings_of(dev=dev)
        from agentsvc.telemetry.log import logging_to

        with logging_to(sys.stderr, settings.log):
            run(_serve(settings, dev=dev))


@cli.command()
def demo() -> None:
    """The main job in one command: the real service, one streamed answer with a tool call, and where the time went."""
    with one_line_errors(), tempfile.TemporaryDirectory() as directory:
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
            run(_demo(settings))


@cli.command()
def chat(
    message: Annotated[str, typer.Argument(help="The question; without one, a conversation begins.")] = "",
    target: Annotated[str, typer.Option(envvar="AGENTSVC_TARGET", help="host:port")] = "127.0.0.1:50051",
    bearer: Annotated[str, typer.Option("--token", envvar="AGENTSVC_TOKEN", help="A bearer token.")] = "",
    agent_id: Annotated[str, typer.Option("--agent")] = "demo",
    session_id: Annotated[str, typer.Option("--session", help="Go on in this session.")] = "",
) -> None:
    """Ask a running service, and see where the time to the first token went."""
    with one_line_errors():
        if not bearer:
            raise CommandError("no token: give --token or set AGENTSVC_TOKEN (`serve --dev` prints one)")
        if message:
            run(_chat(target, bearer, message, agent_id=agent_id, session_id=session_id))
            return
        # One event loop per question: while a person types, Ctrl-C is nobody's but the prompt's.
        while message := _question():
            session_id = run(_chat(target, bearer, message, agent_id=agent_id, session_id=session_id))


@cli.command()
def migrate() -> None:
    """Bring the configured database to this version's tables."""
    with one_line_errors():
        settings = settings_of()
        from agentsvc.storage import migrate as upgrade

        run(upgrade(settings.storage.url))
        typer.echo("the database is up to date")


@cli.command()
def health(
    target: Annotated[str, typer.Option(envvar="AGENTSVC_GRPC_ADDRESS", help="host:port")] = "127.0.0.1:50051",
    tls_certificate: Annotated[
        str, typer.Option(envvar="AGENTSVC_TLS__CERTIFICATE", help="If set, ask only whether the port listens.")
    ] = "",
) -> None:
    """Ask whether the service is ready: exit code 0 means yes, 1 no. For a container's health check."""
    from agentsvc.transport.probe import is_serving

    if not run(is_serving(target, tls=bool(tls_certificate))):
        typer.echo(f"agentsvc: {target} is not serving", err=True)
        raise typer.Exit(1)


@cli.command()
def bench() -> None:
    """Say how to measure."""
    typer.echo("The benchmark lives in the repository, with its own load: run `make bench` there.")


async def _serve(settings: Settings, *, dev: bool) -> None:
    from agentsvc.local import furnish
    from agentsvc.service import Service

    stop = asyncio.Event()
    service = Service(settings, tools=dev_tools(dev=dev))

    def leave() -> None:
        """The first signal asks to go, the second to go at once."""
        if stop.is_set():
            service.hurry()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leave)
    async with service:
        bearer = await furnish(service, settings.dev_token) if dev else ""
        await asyncio.to_thread(process.settle)
        address = f"{settings.server.address.rpartition(':')[0]}:{service.port}"
        typer.echo(f"agentsvc is ready: gRPC on {address}")
        if dev:
            _welcome(address, bearer)
        if settings.admin is not None:
            operators_door = f"{settings.admin.address.rpartition(':')[0]}:{service.admin_port}"
            typer.echo(f"for operators: http://{operators_door}/metrics, /healthz and /readyz")
        await stop.wait()


def _welcome(address: str, bearer: str) -> None:
    from agentsvc.local import AGENT, ORGANISATION, QUESTION

    typer.echo(
        f"organisation {ORGANISATION}, agent {AGENT}, admin token {bearer}\n"
        f"grpcurl -plaintext -H {shlex.quote(f'authorization: Bearer {bearer}')} "
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


async def _chat(target: str, bearer: str, message: str, *, agent_id: str, session_id: str) -> str:
    """Asks; returns the session."""
    from rich.console import Console

    from agentsvc.client import AgentClient
    from agentsvc.console import ask

    async with AgentClient(target, bearer) as client:
        return await ask(client, Console(), message, agent_id=agent_id, session_id=session_id)


def _question() -> str:
    """The next question; empty at the end of the input or for an empty line."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    cli()
