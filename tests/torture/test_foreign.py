"""Callers that share nothing with us but the contract: a full stream, a cancel, a deadline and a rich error each."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.providers.script import Say, Stall, write
from tests.e2e.house import question
from tests.e2e.process import ROOT
from tests.torture.station import TOKEN, Station, open_station, soon

BUF = Path(sys.executable).with_name("buf")
CALLER = Path(__file__).with_name("caller.mjs")
WORDS = "It is 18 degrees in Paris."
ENDLESS = (Say("Once"), Stall())


# --- a synchronous Python stub ----------------------------------------------------------------------------------------
def reason_of(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    (found,) = [detail for detail in rpc_status.from_call(error).details if detail.Is(info.DESCRIPTOR)]
    found.Unpack(info)
    return str(info.reason)


def talk(target: str, agent: str, metadata: Any) -> None:
    """In a thread of its own, as such callers do."""
    with grpc.insecure_channel(target) as channel:
        stub = v1.AgentServiceStub(channel)

        def ask(*steps: Any, agent_id: str = agent, timeout: float = 20) -> Any:
            return stub.StreamChat(question(agent_id, *steps), metadata=metadata, timeout=timeout)

        events = [response.event for response in ask(Say(WORDS))]
        assert "".join(event.text_delta.text for event in events) == WORDS
        assert events[-1].run_finished.state == v1.RUN_STATE_COMPLETED

        call = ask(*ENDLESS)
        for response in call:
            if response.event.HasField("text_delta"):
                break
        assert call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED

        with pytest.raises(grpc.RpcError) as late:
            list(ask(*ENDLESS, timeout=0.5))
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        with pytest.raises(grpc.RpcError) as refused:
            list(ask(Say("Never."), agent_id="nobody"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert reason_of(refused.value) == "AGENT_NOT_FOUND"


async def test_a_synchronous_python_stub(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        await asyncio.to_thread(talk, station.target, agent, station.metadata)
        await soon(lambda: not station.answering(), "the vendor is left alone")


# --- buf curl ---------------------------------------------------------------------------------------------------------
async def curl(
    station: Station, agent: str, *steps: Any, version: str = "v1", token: str = TOKEN
) -> asyncio.subprocess.Process:
    body = {"agentId": agent, "message": "hi", "options": {"providerOptions": {"script": write(steps)}}}
    return await asyncio.create_subprocess_exec(
        BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", f"grpc-{version}",
        "-H", f"authorization: Bearer {token}", "-d", json.dumps(body),
        f"http://{station.target}/agentsvc.v1.AgentService/StreamChat",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def objects(printed: str) -> list[dict[str, Any]]:
    """JSON objects, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while printed := printed.strip():
        value, end = decoder.raw_decode(printed)
        found.append(value)
        printed = printed[end:]
    return found


async def test_buf_curl_through_both_versions_of_reflection(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        for version in ("v1", "v1alpha"):
            process = await curl(station, agent, Say(WORDS), version=version)
            printed, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            events = [response["event"] for response in objects(printed.decode())]
            assert "".join(event.get("textDelta", {}).get("text", "") for event in events) == WORDS
            assert events[-1]["runFinished"]["state"] == "RUN_STATE_COMPLETED"

        process = await curl(station, "nobody", Say("Never."))
        _, errors = await process.communicate()
        assert process.returncode
        (refused,) = objects(errors.decode())
        assert refused["code"] == "not_found"
        (info,) = [detail["value"] for detail in refused["details"] if detail["type"] == "google.rpc.ErrorInfo"]
        assert error_details_pb2.ErrorInfo.FromString(base64.b64decode(f"{info}==")).reason == "AGENT_NOT_FOUND"

        process = await curl(station, agent, *ENDLESS)
        await soon(station.answering, "the vendor is asked")
        process.send_signal(signal.SIGINT)
        await soon(lambda: not station.answering(), "the vendor is left alone")
        await process.communicate()


# --- Node -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow  # needs Node 18+ and npm, which `make test` does not
@pytest.mark.timeout(240)
async def test_node(tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm, "this test needs npm: install Node 18 or newer"
    assert node
    shutil.copy(CALLER, tmp_path)
    install = await asyncio.create_subprocess_exec(
        npm, "install", "--no-fund", "--no-audit", "--no-save", "--no-package-lock", "@grpc/grpc-js@1", "@grpc/proto-loader@0.8",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await install.communicate()
    assert install.returncode == 0, told.decode()
    async with open_station(tmp_path) as station:
        agent = await station.agent()
        process = await asyncio.create_subprocess_exec(
            node, CALLER.name, ROOT / "protos", ROOT / "protos/vendor", station.target, TOKEN, agent,
            cwd=tmp_path, env=os.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        printed, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        seen = json.loads(printed)
        assert (seen["full"]["code"], seen["full"]["text"]) == ("OK", WORDS)
        assert seen["full"]["events"][-1] == "run_finished"
        assert seen["cancelled"]["code"] == "CANCELLED"
        assert (seen["late"]["code"], seen["late"]["text"]) == ("DEADLINE_EXCEEDED", "Once")
        assert seen["refused"]["code"] == "NOT_FOUND"
        assert "AGENT_NOT_FOUND" in seen["refused"]["details"]
        assert seen["unknown"]["code"] == "UNAUTHENTICATED"
        assert "UNAUTHENTICATED" in seen["unknown"]["details"]
        await soon(lambda: not station.answering(), "the vendor is left alone")
