"""What is measured, started as it is run: the upstream, the bare pipeline, and the service as an operator starts it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

import grpc

from agentsvc import v1
from bench import bare
from bench.jobs import Target, Upstream
from bench.processes import ROOT, BenchError, Cores, free_port, ready_port, running

QUESTION: Final = "What is the least that can stand between a model and those who ask it?"
START_SECONDS: Final = 30.0

_CLI: Final = ("-c", "from agentsvc.main import cli; cli()")
_TOKEN = re.compile(r"agentsvc_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")


class Way(Protocol):
    """A gRPC way to the upstream."""

    name: str

    def target(self, model: str, sessions: int = 0) -> Target:
        """Calls whose answer comes as ``model`` says, in as many stored conversations in turn; 0: each in a new one."""
        ...


def openai_body(model: str) -> bytes:
    """The request that the service's dialect would send as well."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body, separators=(",", ":")).encode()


@contextmanager
def upstream(cores: Cores) -> Iterator[Upstream]:
    """The upstream's process. ``body`` is still empty: it depends on the job."""
    with running(("-m", "bench.upstream"), cores.load) as process:
        yield Upstream(ready_port(process), process.pid, b"")


class Bare:
    """The yardstick's process."""

    name = "bare"

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._pid = pid

    def target(self, model: str, sessions: int = 0) -> Target:  # noqa: ARG002 - it knows no sessions
        return Target(self.name, self._port, self._pid, bare.METHOD, [], [openai_body(model)])


@contextmanager
def bare_pipeline(cores: Cores, upstream: Upstream) -> Iterator[Bare]:
    with running(("-m", "bench.bare", str(upstream.port)), cores.tested) as process:
        yield Bare(ready_port(process), process.pid)


class Service:
    """The service's process, and an agent in it for every model."""

    name = "service"

    def __init__(self, port: int, pid: int, token: str) -> None:
        self._port = port
        self._pid = pid
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._agents: dict[str, str] = {}

    def target(self, model: str, sessions: int = 0) -> Target:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            if model not in self._agents:
                self._agents[model] = self._create_agent(channel, model)
            agent = self._agents[model]
            ids = [self._create_session(channel, agent) for _ in range(sessions)] or [""]
        requests = [v1.StreamChatRequest(agent_id=agent, message=QUESTION, session_id=each) for each in ids]
        return Target(
            self.name,
            self._port,
            self._pid,
            "/agentsvc.v1.AgentService/StreamChat",
            list(self._metadata),
            [request.SerializeToString() for request in requests],
        )

    def _create_agent(self, channel: grpc.Channel, model: str) -> str:
        agent = v1.Agent(
            agent_id=f"bench-{model}",
            llm_config=v1.LlmConfig(provider="openai", model=model),
            streaming=v1.StreamingOptions(emit_timings=True),  # every microsecond explained, also to those who measure
        )
        stub = v1.AgentAdminServiceStub(channel)
        response = stub.CreateAgent(v1.CreateAgentRequest(agent=agent), metadata=self._metadata, timeout=START_SECONDS)
        return response.agent.agent_id

    def _create_session(self, channel: grpc.Channel, agent: str) -> str:
        request = v1.CreateSessionRequest(session=v1.Session(agent_id=agent))
        stub = v1.SessionServiceStub(channel)
        response = stub.CreateSession(request, metadata=self._metadata, timeout=START_SECONDS)
        return response.session.session_id


def service_exists() -> bool:
    """Whether there is a service to start."""
    return importlib.util.find_spec("agentsvc.main") is not None


@contextmanager
def service(cores: Cores, upstream: Upstream) -> Iterator[Service]:
    """``agentsvc serve`` with a token, a SQLite file of its own, and the upstream as its OpenAI."""
    port = free_port()
    with TemporaryDirectory(prefix="agentsvc-bench-") as folder:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTSVC_", "OPENAI_"))}
        environ |= {
            "AGENTSVC_DATABASE_URL": f"sqlite:///{folder}/bench.sqlite3",
            "AGENTSVC_GRPC_ADDRESS": f"127.0.0.1:{port}",
            "AGENTSVC_ADMIN_ADDRESS": "127.0.0.1:0",
            "AGENTSVC_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
            "AGENTSVC_DRAIN__SETTLE": "0.1",
            "OPENAI_API_KEY": "bench",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
        }
        token = _token(environ)
        log = Path(folder) / "service.log"
        with running((*_CLI, "serve"), cores.tested, environ=environ, log=log) as process:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                try:
                    grpc.channel_ready_future(channel).result(START_SECONDS)
                except grpc.FutureTimeoutError:
                    raise BenchError(f"the service did not start:\n{log.read_text()}") from None
            yield Service(port, process.pid, token)


def _token(environ: dict[str, str]) -> str:
    """An admin token, made as an operator makes one."""
    command = [sys.executable, *_CLI, "token", "create", "--org", "bench", "--role", "admin"]
    made = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    found = _TOKEN.search(made.stdout)
    if found is None:
        raise BenchError(f"no token was made:\n{made.stdout}{made.stderr}")
    return found[0]
