"""The README keeps its word: its Python runs as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, Parse

from agentsvc import v1
from agentsvc.local import TOOLS, furnish
from agentsvc.service import Service
from agentsvc.settings import Settings
from agentsvc.storage import StorageConfig
from agentsvc.transport.server import ServerConfig

README = Path(__file__).parent.parent / "README.md"
PATIENCE = 30.0  # seconds for an interpreter to start and ask one question


def block(heading: str) -> str:
    """The only fenced Python below a heading of the README."""
    section = re.split(r"^## ", README.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading))
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(code)


async def run(code: str, **environ: str) -> str:
    """What it prints, in an interpreter of its own and with warnings as errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", code),
        env=os.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_library_answers_without_any_server() -> None:
    assert "4 degrees and rain in" in await run(block("As a library"))


def test_the_library_takes_less_than_fifteen_lines() -> None:
    assert len([line for line in block("As a library").splitlines() if line]) < 15


async def test_the_client_streams_from_a_running_service(tmp_path: Path) -> None:
    settings = Settings(
        server=ServerConfig("127.0.0.1:0"),
        storage=StorageConfig(f"sqlite:///{tmp_path / 'agentsvc.sqlite3'}"),
        shutdown_grace=0.0,
    )
    async with Service(settings, tools=TOOLS) as service:
        token = await furnish(service)
        said = await run(block("Calling it"), AGENTSVC_TARGET=f"127.0.0.1:{service.port}", AGENTSVC_TOKEN=token)
    assert "4 °C" in said


async def test_the_session_with_grpcurl_shows_what_comes(tmp_path: Path) -> None:
    """Its command is asked through reflection's own JSON form; ids and times differ, fields and words do not."""
    (session,) = re.findall(r"^```console\n\$ grpcurl(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    command, shown = session.split("AgentService/StreamChat\n")
    (question,) = re.findall(r"-d '(.*?)'", command)
    events = [json.loads(text) for text in re.findall(r"^\{.*?^\}", shown, re.MULTILINE | re.DOTALL)]
    settings = Settings(
        server=ServerConfig("127.0.0.1:0"), storage=StorageConfig(f"sqlite:///{tmp_path / 'agentsvc.sqlite3'}")
    )
    async with Service(settings, tools=TOOLS) as service:
        token = await furnish(service)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            call = v1.AgentServiceStub(channel).StreamChat(
                Parse(question, v1.StreamChatRequest()), metadata=(("authorization", f"Bearer {token}"),)
            )
            came = [MessageToDict(response) async for response in call]
    assert [shape(event) for event in events] == [shape(came[0]), shape(came[-1])]


def shape(event: Any) -> Any:
    """Everything but ids, numbers and what only happens under load."""
    if isinstance(event, dict):
        return {key: shape(value) for key, value in event.items() if key != "eventLoopLagUs"}
    return event if isinstance(event, str) and event.isupper() else type(event).__name__
