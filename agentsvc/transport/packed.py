"""The events that a run usually has, packed by hand: run_started, deltas, timings, step_completed, generation_completed,
run_finished.

Through protobuf's Python objects one of them costs 4 us, here 1 us, and timings, with ten stages, 15 us; that the bytes
are the same is a property test. What is rare (errors, texts too long to send) goes the usual way: a packer that cannot
pack says so with None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from agentsvc import v1
from agentsvc.domain import events as ev
from agentsvc.domain.messages import Cost, Usage
from agentsvc.domain.timeline import Stage, StageTiming
from agentsvc.transport import codec_values as values

Packer = Callable[[Any], bytes | None]

MOST_CHARACTERS: Final = 1_000_000
"""Of a text in one event. A default gRPC client receives 4 MiB, and so many characters are at most 4 MB of UTF-8."""

_BYTES = 2  # the wire type of what has a length
_FEW: Final = 1 << 14
_SOME: Final = 1 << 13  # bytes of a text whose envelope is written in one go: its own bytes come on top
_SHORT: Final = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_FEW)]


def varint(number: int) -> bytes:
    """A number as protobuf writes it; ValueError for a negative one, of which we have none."""
    if 0 <= number < _FEW:
        return _SHORT[number]
    if number < 0:
        raise ValueError("a negative number")
    if number < 1 << 21:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    if number < 1 << 28:  # four and a half minutes in microseconds
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14 & 127 | 128, number >> 21))
    return bytes((number & 127 | 128, number >> 7 & 127 | 128)) + varint(number >> 14)


def envelope(sequence: int, elapsed_us: int, step: int, field: int, content: bytes) -> bytes:
    """A StreamChatResponse with one event. Zeroes are not written, and negative numbers never come here."""
    event = b"%b%b%b%b%b%b" % (
        _number(1, sequence),
        _number(2, elapsed_us),
        _number(3, step),
        varint(field << 3 | _BYTES),
        varint(len(content)),
        content,
    )
    return b"\n%b%b" % (varint(len(event)), event)


def delta(sequence: int, elapsed_us: int, step: int, field: int, text: str) -> bytes:
    """The same in one go for what most events are: a delta, with all four above zero."""
    raw = text.encode()
    if not 0 < len(raw) < _SOME or sequence >= _FEW or step >= _FEW:
        return envelope(sequence, elapsed_us, step, field, _text(1, text))
    event = b"\x08%b\x10%b\x18%b%c%b\n%b%b" % (
        _SHORT[sequence],
        varint(elapsed_us),
        _SHORT[step],
        field << 3 | _BYTES,
        _SHORT[1 + len(_SHORT[len(raw)]) + len(raw)],
        _SHORT[len(raw)],
        raw,
    )
    return b"\n%b%b" % (_SHORT[len(event)], event)


def _delta(e: ev.TextDelta | ev.ReasoningDelta) -> bytes:
    return _text(1, e.text)


def _run_started(e: ev.RunStarted) -> bytes:
    return b"".join(
        (
            _text(1, e.run_id),
            _text(2, e.session_id),
            _text(3, e.agent_id),
            _text(4, e.provider),
            _text(5, e.model),
            _number(6, values.streaming_modes.wire[e.mode]),
            _number(7, e.resumable),
        )
    )


def _step_completed(e: ev.StepCompleted) -> bytes:
    reason = _number(2, values.finish_reasons.wire[e.finish_reason])
    return _number(1, e.step) + reason + _message(3, _usage(e.usage))


def _generation_completed(e: ev.GenerationCompleted) -> bytes | None:
    if len(e.text) > MOST_CHARACTERS:
        return None
    reason = _number(2, values.finish_reasons.wire[e.finish_reason])
    return b"%b%b%b%b%b" % (
        _text(1, e.text),
        reason,
        _number(3, e.total_steps),
        _message(4, _usage(e.usage)),
        _stages(5, e.timings),
    )


def _timings(e: ev.Timings) -> bytes:
    return _stages(1, e.stages)


def _stages(field: int, stages: Iterable[StageTiming]) -> bytes:
    return b"".join([_message(field, _stage(stage)) for stage in stages])


def _stage(stage: StageTiming) -> bytes:
    name = _STAGES.get(stage.stage) or _text(1, stage.stage)
    critical = _number(4, stage.critical)
    return b"%b%b%b%b" % (name, _number(2, stage.start_us), _number(3, stage.duration_us), critical)


def _run_finished(e: ev.RunFinished) -> bytes | None:
    if e.error is not None or len(e.partial_text) > MOST_CHARACTERS:
        return None
    return b"".join(
        (
            _number(1, values.run_states.wire[e.state]),
            _text(3, e.partial_text),
            _number(4, values.budget_kinds.wire[e.budget_kind]),
            _message(5, _usage(e.usage)),
            b"" if e.cost is None else _message(6, _cost(e.cost)),
            _number(7, e.persisted),
            _number(8, e.framework_overhead_us),
            _number(9, e.event_loop_lag_us),
        )
    )


def _usage(usage: Usage) -> bytes:
    return b"".join(
        (
            _number(1, usage.input_tokens),
            _number(2, usage.output_tokens),
            _number(3, usage.cached_input_tokens),
            _number(4, usage.cache_write_tokens),
            _number(5, usage.reasoning_tokens),
            _number(6, usage.estimated),
        )
    )


def _cost(cost: Cost) -> bytes:
    return _number(1, cost.micros) + _text(2, cost.currency_code) + _number(3, cost.estimated)


# The fields of an event's own messages, all of them below 16: their tags are one byte.
def _number(field: int, number: int) -> bytes:
    if 0 < number < _FEW:
        return _SHORT[field << 3] + _SHORT[number]
    return _SHORT[field << 3] + varint(number) if number else b""


def _text(field: int, text: str) -> bytes:
    if not text:
        return b""
    raw = text.encode()
    return b"%c%b%b" % (field << 3 | _BYTES, varint(len(raw)), raw)


_STAGES: Final = {stage.value: _text(1, stage.value) for stage in Stage}


def _message(field: int, content: bytes) -> bytes:
    return b"%c%b%b" % (field << 3 | _BYTES, varint(len(content)), content)


DELTAS: Final[Mapping[type[ev.Event], int]] = {
    ev.TextDelta: v1.ChatEvent.TEXT_DELTA_FIELD_NUMBER,
    ev.ReasoningDelta: v1.ChatEvent.REASONING_DELTA_FIELD_NUMBER,
}
PACKERS: Final[Mapping[type[ev.Event], tuple[int, Packer]]] = {
    ev.TextDelta: (v1.ChatEvent.TEXT_DELTA_FIELD_NUMBER, _delta),
    ev.ReasoningDelta: (v1.ChatEvent.REASONING_DELTA_FIELD_NUMBER, _delta),
    ev.RunStarted: (v1.ChatEvent.RUN_STARTED_FIELD_NUMBER, _run_started),
    ev.Timings: (v1.ChatEvent.TIMINGS_FIELD_NUMBER, _timings),
    ev.StepCompleted: (v1.ChatEvent.STEP_COMPLETED_FIELD_NUMBER, _step_completed),
    ev.GenerationCompleted: (v1.ChatEvent.GENERATION_COMPLETED_FIELD_NUMBER, _generation_completed),
    ev.RunFinished: (v1.ChatEvent.RUN_FINISHED_FIELD_NUMBER, _run_finished),
}
