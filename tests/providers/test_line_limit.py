"""The limit of one event of a stream: an operator's to set, and what a stream that keeps to none can cost."""

from __future__ import annotations

import asyncio
import tracemalloc
from itertools import cycle

import pytest

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelFailed
from agentsvc.providers import PROVIDERS
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Decoder, Endpoint
from agentsvc.providers.pool import PoolConfig
from agentsvc.settings import Settings, SettingsError
from tests.providers.recorded import DIALECTS
from tests.providers.talk import answer
from tests.upstream import Call, Upstream

MIB = 1 << 20
READ = 64 * 1024
# Streams that go on for ever without an event's, or a line's, end.
ENDLESS = {
    "one line": b"x" * READ,
    "one data line": b"data: " + b"x" * (READ - 6),
    "lines of one event": b"data: {}\n" * (READ // 9),
    "lines of one event, with CR": b"data: {}\r\n" * (READ // 10),
    "lines that are no fields": b"<p>\n\n" * (READ // 5),
}
NDJSON = {"ollama"}


def fed_until_it_fails(decoder: Decoder, read: bytes, most: int) -> tuple[ModelFailed, int]:
    """How the answer ended, and after how many bytes."""
    fed = 0
    while fed <= most:
        fed += len(read)
        match decoder.feed(read):
            case [ModelFailed() as failed]:
                return failed, fed
    raise AssertionError(f"{fed} bytes were taken")


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [(dialect, "one line") for dialect in DIALECTS] + [("openai-chat", stream) for stream in ENDLESS],
)
def test_a_stream_without_an_end_of_line_is_refused_at_the_limit_and_held_no_further(dialect: str, stream: str) -> None:
    read, limit = ENDLESS[stream], MIB // 2
    decoder = DIALECTS[dialect].decoder(limit)
    tracemalloc.start()
    try:
        failed, fed = fed_until_it_fails(decoder, read, 2 * limit)
        for _ in range(10 * limit // READ):
            assert not decoder.feed(read)
        assert not decoder.close()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert failed.error.reason is Reason.MALFORMED_STREAM
    assert f"{limit} bytes" in failed.error.message
    assert fed > limit / 2
    assert peak < 3 * limit
    assert held < READ


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_limit_is_eight_mebibytes_where_nobody_sets_one(dialect: str) -> None:
    _, fed = fed_until_it_fails(DIALECTS[dialect].decoder(), ENDLESS["one line"], 9 * MIB)
    assert 8 * MIB < fed <= 8 * MIB + 2 * READ
    assert PoolConfig().line_limit == 8 * MIB


def test_an_operator_sets_the_limit() -> None:
    assert Settings.load({"AGENTSVC_POOL__LINE_LIMIT": "1048576"}).pool.line_limit == MIB
    with pytest.raises(SettingsError, match="AGENTSVC_POOL__LINE_LIMIT is 0"):
        Settings.load({"AGENTSVC_POOL__LINE_LIMIT": "0"})


@pytest.mark.parametrize("provider", ["openai", "ollama"])
@pytest.mark.parametrize("limit", [32 * 1024, 512 * 1024])
async def test_a_vendor_that_never_ends_a_line_is_hung_up_on(provider: str, limit: int) -> None:
    async def handler(call: Call) -> None:
        await call.start(content_type="application/x-ndjson" if provider in NDJSON else "text/event-stream")
        for piece in cycle([b"x" * 8192]):
            await call.send(piece)
            await asyncio.sleep(0)

    async with Upstream(handler) as upstream, ProviderClient(PoolConfig(line_limit=limit)) as client:
        model = BoundModel(PROVIDERS[provider], Endpoint(upstream.url, "k"), client, setting="X")
        (failed,) = await answer(model)
        assert isinstance(failed, ModelFailed)
        assert failed.error.reason is Reason.MALFORMED_STREAM
        assert f"{limit} bytes" in failed.error.message
        await upstream.connections[0].closed.wait()
        assert client.stats().open_connections == 0
