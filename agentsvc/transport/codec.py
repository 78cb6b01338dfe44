"""Events to wire bytes and back.

An event is encoded once, when the journal takes it; every reader of every door gets the same bytes. They are a
StreamChatResponse and a SubscribeRunResponse alike: both hold one ``ChatEvent event = 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentsvc import v1
from agentsvc.domain.events import Event
from agentsvc.transport.codec_events import BY_FIELD, BY_TYPE
from agentsvc.transport.packed import DELTAS, PACKERS, delta, envelope


@dataclass(frozen=True, slots=True)
class Decoded:
    """One wire event. ``event`` is None for a kind newer than this build."""

    sequence: int
    elapsed_us: int
    step: int
    event: Event | None


def encode_event(sequence: int, elapsed_us: int, step: int, event: Event) -> bytes:
    """The event as a StreamChatResponse. ``elapsed_us``: since the run was admitted; ``step``: 0 outside any step."""
    field = DELTAS.get(type(event))
    if field is not None and sequence and elapsed_us > 0 and step:
        return delta(sequence, elapsed_us, step, field, event.text)  # type: ignore[union-attr]  # the two deltas
    if (packer := PACKERS.get(type(event))) is not None and elapsed_us >= 0:
        field, pack = packer
        if (packed := pack(event)) is not None:
            return envelope(sequence, elapsed_us, step, field, packed)
    kind = BY_TYPE[type(event)]
    content: dict[str, Any] = {kind.field: kind.encode(event)}
    wire = v1.ChatEvent(sequence=sequence, elapsed_us=elapsed_us, step=step, **content)
    return v1.StreamChatResponse(event=wire).SerializeToString()


def decode_event(data: bytes) -> Decoded:
    """What ``encode_event`` made of an event."""
    wire = v1.StreamChatResponse.FromString(data).event
    field = wire.WhichOneof("kind")
    event = None if field is None else BY_FIELD[field].decode(getattr(wire, field))
    return Decoded(wire.sequence, wire.elapsed_us, wire.step, event)
