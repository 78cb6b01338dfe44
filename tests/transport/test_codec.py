from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsvc import v1
from agentsvc.domain import events as ev
from agentsvc.domain.agents import StreamingMode
from agentsvc.domain.errors import Error, Reason
from agentsvc.domain.messages import Cost, FinishReason, Media, Text, Usage
from agentsvc.domain.timeline import StageTiming
from agentsvc.transport.codec import decode_event, encode_event
from agentsvc.transport.codec_events import BY_TYPE, KINDS
from agentsvc.transport.packed import PACKERS

text = st.text(st.characters(codec="utf-8"), max_size=40)
count = st.integers(0, 2**31 - 1)
big = st.integers(0, 2**62)
seconds = st.integers(0, 10**9).map(lambda micros: micros / 1_000_000)
usage = st.builds(Usage, big, big, big, big, big, st.booleans())
part = st.one_of(
    st.builds(Text, text),
    st.builds(Media, st.sampled_from(["image", "file"]), text, data=st.binary(min_size=1, max_size=9)),
    st.builds(Media, st.sampled_from(["image", "file"]), text, uri=st.text("abc", min_size=1)),
)
stages = st.lists(st.builds(StageTiming, text, big, big, st.booleans()), max_size=3).map(tuple)
error = st.builds(Error, st.sampled_from(Reason), text, text, st.booleans(), st.none() | seconds)
EVENTS = {
    ev.RunStarted: st.builds(
        ev.RunStarted, text, text, text, text, text, st.sampled_from(StreamingMode), st.booleans()
    ),
    ev.MemoryRetrieved: st.builds(ev.MemoryRetrieved, st.sampled_from(ev.MemoryOutcome), count, big),
    ev.TextDelta: st.builds(ev.TextDelta, text),
    ev.ReasoningDelta: st.builds(ev.ReasoningDelta, text),
    ev.ToolCallStarted: st.builds(ev.ToolCallStarted, text, text),
    ev.ToolCallArgumentsDelta: st.builds(ev.ToolCallArgumentsDelta, text, text),
    ev.ToolCallRequested: st.builds(
        ev.ToolCallRequested, text, text, text, st.sampled_from(ev.ToolExecutor), st.booleans()
    ),
    ev.ToolProgress: st.builds(ev.ToolProgress, text, text, st.none() | st.floats(0, 1)),
    ev.ToolResult: st.builds(
        ev.ToolResult, text, st.sampled_from(ev.ToolStatus), st.lists(part, max_size=3).map(tuple), big
    ),
    ev.InputRequired: st.builds(ev.InputRequired, st.lists(text, max_size=3).map(tuple)),
    ev.Timings: st.builds(ev.Timings, stages),
    ev.AttemptChanged: st.builds(ev.AttemptChanged, text, text, text, big),
    ev.ResumabilityChanged: st.builds(ev.ResumabilityChanged, st.booleans()),
    ev.StepCompleted: st.builds(ev.StepCompleted, count, st.sampled_from(FinishReason), usage),
    ev.Annotation: st.builds(ev.Annotation, text, text),
    ev.GenerationCompleted: st.builds(
        ev.GenerationCompleted, text, st.sampled_from(FinishReason), count, usage, stages
    ),
    ev.MemoryUpdated: st.builds(ev.MemoryUpdated, st.sampled_from(["added", "updated", "deleted"]), text, text),
    ev.RunFinished: st.builds(
        ev.RunFinished,
        st.sampled_from(ev.RunState),
        st.none() | error,
        text,
        st.none() | st.sampled_from(ev.BudgetKind),
        usage,
        st.none() | st.builds(Cost, big, text, st.booleans()),
        st.booleans(),
        big,
    ),
    ev.Heartbeat: st.builds(ev.Heartbeat),
    ev.Draining: st.builds(ev.Draining, seconds),
}


def test_the_table_has_a_row_for_every_event_and_every_event_of_the_contract() -> None:
    assert {kind.type for kind in KINDS} == set(get_args(ev.Event)) == set(EVENTS)
    assert {kind.field for kind in KINDS} == {f.name for f in v1.ChatEvent.DESCRIPTOR.oneofs_by_name["kind"].fields}


@given(big, big, count, st.one_of(*EVENTS.values()))
def test_every_event_comes_back_as_it_went(sequence: int, elapsed_us: int, step: int, event: ev.Event) -> None:
    found = decode_event(encode_event(sequence, elapsed_us, step, event))
    assert (found.sequence, found.elapsed_us, found.step, found.event) == (sequence, elapsed_us, step, event)


@given(
    st.integers(0, 2**64 - 1),
    st.integers(-1, 2**63 - 1),
    st.integers(0, 2**32 - 1),
    st.one_of(*(EVENTS[kind] for kind in PACKERS)),
)
def test_an_event_packed_by_hand_is_what_protobuf_makes(
    sequence: int, elapsed_us: int, step: int, event: ev.Event
) -> None:
    kind = BY_TYPE[type(event)]
    content: dict[str, Any] = {kind.field: kind.encode(event)}
    wire = v1.ChatEvent(sequence=sequence, elapsed_us=elapsed_us, step=step, **content)
    assert encode_event(sequence, elapsed_us, step, event) == v1.StreamChatResponse(event=wire).SerializeToString()


@pytest.mark.parametrize(
    "size",
    [0, 1, *range(115, 129), 8_191, 8_192, *range(16_360, 16_386), 32_000, 2_097_152, 3_000_000],
)
@pytest.mark.parametrize("letter", ["e", "é"])
def test_a_delta_of_any_length_is_packed_right(letter: str, size: int) -> None:
    event = v1.ChatEvent(sequence=1, elapsed_us=1, step=1, text_delta=v1.TextDelta(text=letter * size))
    wire = encode_event(1, 1, 1, ev.TextDelta(letter * size))
    assert wire == v1.StreamChatResponse(event=event).SerializeToString()


def test_both_streams_send_the_same_bytes() -> None:
    wire = encode_event(3, 1000, 1, ev.TextDelta("hi"))
    assert v1.SubscribeRunResponse.FromString(wire).SerializeToString() == wire


def test_a_kind_newer_than_this_build_decodes_to_no_event() -> None:
    newer = b"\xfa\x07\x00"  # field 127, length 0
    wire = v1.StreamChatResponse(event=v1.ChatEvent.FromString(b"\x08\x05" + newer)).SerializeToString()
    assert decode_event(wire).sequence == 5
    assert decode_event(wire).event is None
