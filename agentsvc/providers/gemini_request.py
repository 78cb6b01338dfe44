"""A request to Gemini: our messages as contents, which are turns of ``user`` and ``model`` made of parts.

Results of tools are the user's, as many in one turn as the turn before had calls, each under the name of its function.
ai.google.dev/api/generate-content
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.messages import Media, Message, Part, ProviderState, Role, Text, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.encoding import arguments_of, refuse_serial_calls, said, schema_of, system_text, tool_mode
from agentsvc.providers.openai_request import provider_options

# From Gemini 3 on a call without a signature is refused. This one, from the vendor's own guide, is for calls that the
# model did not make itself: another vendor's, or those of a turn that was cut. ai.google.dev/gemini-api/docs/thought-signatures
FOREIGN_SIGNATURE = "skip_thought_signature_validator"
_UNSIGNED = re.compile(r"(?:models/)?gemini-[12](?:\D|$)")
_RESERVED = ("model", "contents", "systemInstruction", "system_instruction")
_MODES: Mapping[ToolChoiceMode, str] = {
    ToolChoiceMode.AUTO: "AUTO",
    ToolChoiceMode.NONE: "NONE",
    ToolChoiceMode.REQUIRED: "ANY",
    ToolChoiceMode.TOOL: "ANY",
}


def contents_body(request: ModelRequest, *, vendor: str) -> dict[str, Any]:
    """The JSON of the request. ``vendor`` is whose provider state is sent back.

    The caller's ``generationConfig`` is laid over ours, field by field.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for calls one at a time.
    """
    refuse_serial_calls(request, "Gemini")
    own = provider_options(request.generation, reserved=_RESERVED)
    body: dict[str, Any] = {}
    declared = [{"functionDeclarations": [_declaration(spec) for spec in request.tools]}] if request.tools else []
    if tools := declared + own.pop("tools", []):
        body["tools"] = tools
    if system := system_text(request):
        body["systemInstruction"] = {"parts": [{"text": system}]}
    body["contents"] = _contents(request, vendor)
    theirs = own.pop("generationConfig", None)
    config = _config(request.generation, request.response_schema) | (theirs if isinstance(theirs, dict) else {})
    if config:
        body["generationConfig"] = config
    if calling := _calling(request):
        body["toolConfig"] = {"functionCallingConfig": calling}
    return body | own


def _config(generation: GenerationOptions, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    return said(
        {
            "temperature": generation.temperature,
            "topP": generation.top_p,
            "maxOutputTokens": generation.max_output_tokens,
            "stopSequences": list(generation.stop) if generation.stop else None,
            "responseMimeType": "application/json" if schema else None,
            "responseJsonSchema": dict(schema) if schema else None,
        }
    )


def _calling(request: ModelRequest) -> dict[str, Any] | None:
    mode = tool_mode(request)
    if mode is None or request.tool_choice is None:
        return None
    calling: dict[str, Any] = {"mode": _MODES[mode]}
    if mode is ToolChoiceMode.TOOL:
        calling["allowedFunctionNames"] = [request.tool_choice.name]
    return calling


def _declaration(spec: ToolSpec) -> dict[str, Any]:
    return {"name": spec.name, "description": spec.description, "parametersJsonSchema": schema_of(spec)}


def _contents(request: ModelRequest, vendor: str) -> list[dict[str, Any]]:
    signature = "" if _UNSIGNED.match(request.model) else FOREIGN_SIGNATURE
    turns: list[dict[str, Any]] = []
    called: dict[str, dict[str, Any]] = {}  # tool_call_id -> the call as it stands in the request
    for message in request.messages:
        if message.role is Role.ASSISTANT:
            role, parts = "model", _kept_turn(message, vendor) or list(_plain_turn(message, signature))
            calls = (part["functionCall"] for part in parts if "functionCall" in part)
            called |= zip((call.tool_call_id for call in message.tool_calls), calls, strict=True)
        else:
            role, parts = "user", list(_user_parts(message, called))
        if not parts:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    for turn in turns:
        if turn["role"] == "user":
            turn["parts"].sort(key=lambda part: "functionResponse" not in part)
    return turns


def _kept_turn(message: Message, vendor: str) -> list[dict[str, Any]]:
    """The turn as the model made it, signatures included. Empty when it is not this vendor's, or not whole any more."""
    match message.provider_state:
        case ProviderState(vendor=author, payload=list() as parts) if author == vendor:
            calls = sum("functionCall" in part for part in parts)
            return list(parts) if calls == len(message.tool_calls) else []
        case _:
            return []


def _plain_turn(message: Message, signature: str) -> Iterator[dict[str, Any]]:
    yield from _parts(message.parts)
    for number, call in enumerate(message.tool_calls):
        part = {"functionCall": {"name": call.name, "args": arguments_of(call)}}
        # Of parallel calls only the first is signed.
        yield part | {"thoughtSignature": signature} if signature and number == 0 else part


def _user_parts(message: Message, called: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    if message.role is Role.USER:
        yield from _parts(message.parts)
    elif message.role is Role.TOOL:
        call = called.get(message.tool_call_id, {"name": message.tool_call_id})
        answer: dict[str, Any] = {"id": call["id"]} if call.get("id") else {}
        answer |= {"name": call["name"], "response": {"error" if message.is_error else "output": message.text}}
        yield {"functionResponse": answer}
        yield from _parts(tuple(part for part in message.parts if isinstance(part, Media)))


def _parts(parts: tuple[Part, ...]) -> Iterator[dict[str, Any]]:
    for part in parts:
        match part:
            case Text(text):
                if text:  # an empty one is refused
                    yield {"text": text}
            case Media(uri=uri, media_type=media_type) if uri:
                yield {"fileData": ({"mimeType": media_type} if media_type else {}) | {"fileUri": uri}}
            case Media(media_type=media_type, data=data):
                yield {"inlineData": {"mimeType": media_type, "data": b64encode(data).decode()}}
