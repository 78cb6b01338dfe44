"""Recorded answers, ours and those beside the project, and what a decoder makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsvc.domain.events import (
    Annotation,
    ModelEvent,
    ModelFailed,
    ModelFinished,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
)
from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.cohere import Cohere
from agentsvc.providers.dashscope import DashScope
from agentsvc.providers.dialect import Decoder, Dialect
from agentsvc.providers.errors import Vendor
from agentsvc.providers.gemini import Gemini
from agentsvc.providers.ollama import Ollama
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_responses import OpenAIResponses
from agentsvc.providers.qianfan_v1 import QianfanV1

ACME = Vendor("acme", "Acme", "ACME_API_KEY", "ACME_BASE_URL")
DIALECTS: dict[str, Dialect] = {
    "openai-chat": OpenAIChat(ACME),
    "openai-responses": OpenAIResponses(ACME),
    "anthropic": Anthropic(ACME),
    "gemini": Gemini(ACME),
    "cohere-v2": Cohere(ACME),
    "ollama": Ollama(ACME),
    "dashscope": DashScope(ACME),
    "qianfan-v1": QianfanV1(ACME),
}

OWN = Path(__file__).parent.parent / "streams"


@dataclass(frozen=True)
class Recording:
    name: str
    dialect: Dialect
    status: int
    headers: dict[str, str]
    body: bytes
    expect: dict[str, Any]
    provider: str = ""  # as the recording names it

    def decoder(self) -> Decoder:
        whole = self.headers.get("content-type", "").startswith("application/json")
        return self.dialect.body_decoder() if whole else self.dialect.decoder()


def load() -> list[Recording]:
    """Ours, and those in AGENTSVC_RECORDINGS, of the dialects there are."""
    beside = os.environ.get("AGENTSVC_RECORDINGS")
    paths = sorted(OWN.glob("*/*.json")) + (sorted(Path(beside).glob("*.json")) if beside else [])
    return [recording for path in paths if (recording := _load(path)) is not None]


def _load(path: Path) -> Recording | None:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["dialect"] not in DIALECTS:
        return None
    response = content["response"]
    headers = {name.lower(): value for name, value in response["headers"].items()}
    name = f"{path.parent.name}/{path.stem}" if path.is_relative_to(OWN) else path.stem
    body = response["body"].encode()
    expect = content["expect"]
    # What vendors bill apart from what they count has no word here, and nothing counted is nothing reported.
    expect["usage"] = {key: n for key, n in (expect["usage"] or {}).items() if not key.startswith("billed_")} or None
    dialect = DIALECTS[content["dialect"]]
    return Recording(name, dialect, response["status"], headers, body, expect, content["provider"])


RECORDINGS = load()
STREAMS = [recording for recording in RECORDINGS if recording.status == 200]


def slices(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def decode(decoder: Decoder, chunks: Iterable[bytes]) -> list[ModelEvent]:
    """All events, adjacent deltas of one kind joined: that much may depend on the chunks."""
    events: list[ModelEvent] = []
    for chunk in chunks:
        events += decoder.feed(chunk)
    return joined([*events, *decoder.close()])


def joined(events: Sequence[ModelEvent]) -> list[ModelEvent]:
    whole: list[ModelEvent] = []
    for event in events:
        match (whole[-1] if whole else None, event):
            case (TextDelta(before), TextDelta(after)):
                whole[-1] = TextDelta(before + after)
            case (ReasoningDelta(before), ReasoningDelta(after)):
                whole[-1] = ReasoningDelta(before + after)
            case (ToolCallArgumentsDelta(call, before), ToolCallArgumentsDelta(same, after)) if call == same:
                whole[-1] = ToolCallArgumentsDelta(call, before + after)
            case _:
                whole.append(event)
    return whole


@dataclass
class Heard:
    """An answer as a caller understands it."""

    text: str = ""
    reasoning: str = ""
    calls: dict[str, list[str]] = field(default_factory=dict)  # id -> [name, arguments]
    annotations: list[tuple[str, str]] = field(default_factory=list)
    end: ModelFinished | ModelFailed | None = None


def hear(events: Iterable[ModelEvent]) -> Heard:
    heard = Heard()
    for event in events:
        assert heard.end is None, f"{event} after the end"
        match event:
            case TextDelta(text):
                assert text
                heard.text += text
            case ReasoningDelta(text):
                assert text
                heard.reasoning += text
            case ToolCallStarted(call_id, name):
                assert call_id not in heard.calls
                heard.calls[call_id] = [name, ""]
            case ToolCallArgumentsDelta(call_id, fragment):
                assert fragment
                heard.calls[call_id][1] += fragment
            case Annotation(key, value):
                heard.annotations.append((key, value))
            case ModelFinished() | ModelFailed():
                heard.end = event
    return heard
