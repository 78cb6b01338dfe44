"""The load client reads what grpc.aio writes, and the bare pipeline writes what the contract says."""

import json

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc import v1
from bench import http2
from bench.bare import METHOD
from bench.http2 import Call, CallFailedError
from bench.upstream import TEXT, WORD_BYTES


@pytest.fixture
def port(bare):
    return bare.target("idle").port


@pytest.fixture
async def connection(port):
    connection = await http2.connect(port)
    yield connection
    await connection.close()


def body(model):
    return json.dumps({"model": model}).encode()


@pytest.mark.parametrize("model", ["flood-16", "flood-60000", "paced-16-1-1"])
async def test_it_reads_every_character(connection, model):
    call = Call([])
    connection.call(http2.headers(METHOD), body(model), call)
    await call.done
    text = b"".join(text for _, text in call.arrivals).decode()
    assert text == TEXT.decode() * (int(model.split("-")[1]) // 16)
    assert call.text_bytes == len(text)
    assert call.first_text_ns == call.arrivals[0][0]


async def test_many_calls_share_a_connection(connection):
    calls = [Call() for _ in range(50)]
    for call in calls:
        connection.call(http2.headers(METHOD), body("paced-5-1-1"), call)
    for call in calls:
        await call.done
    assert {call.text_bytes for call in calls} == {5 * WORD_BYTES}


async def test_a_call_that_fails_says_so(connection):
    call = Call()
    connection.call(http2.headers("/bench.Bare/Missing"), b"", call)
    with pytest.raises(CallFailedError, match="12"):  # UNIMPLEMENTED
        await call.done


async def test_a_connection_that_is_closed_ends_its_calls(connection):
    call = Call()
    connection.call(http2.headers(METHOD), body("idle"), call)
    await connection.close()
    with pytest.raises(CallFailedError, match="closed"):
        await call.done


async def test_the_bare_pipeline_speaks_the_contract(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = channel.unary_stream(METHOD)
        messages = [v1.StreamChatResponse.FromString(data) async for data in stream(body("flood-16"))]
    assert "".join(message.event.text_delta.text for message in messages) == TEXT.decode()


KINDS = st.one_of(
    st.builds(lambda text: {"text_delta": v1.TextDelta(text=text)}, st.text(min_size=1)),
    st.builds(lambda run_id: {"run_started": v1.RunStarted(run_id=run_id)}, st.text()),
    st.just({"timings": v1.Timings()}),
)
EVENTS = st.builds(
    lambda sequence, elapsed_us, step, kind: v1.ChatEvent(sequence=sequence, elapsed_us=elapsed_us, step=step, **kind),
    st.integers(0, 1 << 63),
    st.integers(0, 1 << 62),
    st.integers(0, 1 << 31),
    KINDS,
)


@given(st.lists(EVENTS), st.data())
async def test_it_finds_the_text_deltas_among_all_events_however_the_bytes_are_cut(events, data):
    messages = [v1.StreamChatResponse(event=event).SerializeToString() for event in events]
    wire = b"".join(b"\0" + len(message).to_bytes(4) + message for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)))))
    call = Call([])
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        call.feed(wire[start:end], 1)
    assert [text.decode() for _, text in call.arrivals] == [
        event.text_delta.text for event in events if event.WhichOneof("kind") == "text_delta"
    ]
    assert call.messages == len(events)
