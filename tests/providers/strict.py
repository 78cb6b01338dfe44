"""What the vendors refuse, for fakes that refuse it too: the error body of a 400, or None.

``check_anthropic`` knows thinking signatures made by ``sign``: a fake that signs its thinking with it finds out whether
agentsvc lost or changed a block on the way back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentsvc.providers.strictness import check_openai_chat
from tests.providers.signatures import SIGNED, sign
from tests.providers.strict_native import (
    check_cohere,
    check_dashscope,
    check_gemini,
    check_ollama,
    check_qianfan_v1,
    check_responses,
    sign_call,
)

__all__ = [
    "check_anthropic",
    "check_cohere",
    "check_dashscope",
    "check_gemini",
    "check_ollama",
    "check_openai_chat",
    "check_qianfan_v1",
    "check_responses",
    "sign",
    "sign_call",
]

_ID = re.compile(r"[a-zA-Z0-9_-]+")


def check_anthropic(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The vendor's error body for a request it would answer with 400; None when there is nothing to refuse."""
    for message in _faults(body):
        return {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": message},
            "request_id": "req_own",
        }
    return None


def _faults(body: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "model: Field required"
    limit = body.get("max_tokens")
    if not isinstance(limit, int) or limit < 1:
        yield "max_tokens: Field required"
        return
    system = body.get("system", "instructions")
    if not isinstance(system, str | list) or not system:
        yield "system: text content blocks must be non-empty"
    yield from _thinking_option_faults(body, limit)
    for number, tool in enumerate(body.get("tools") or ()):
        if not _ID.fullmatch(str(tool.get("name", ""))):
            yield f"tools.{number}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        if "type" not in tool and tool.get("input_schema", {}).get("type") != "object":
            yield f"tools.{number}.input_schema.type: Field required"
    if "tool_choice" in body and not body.get("tools"):
        yield "tool_choice may only be specified while providing tools"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages: at least one message is required"
        return
    yield from _message_faults(messages, thinks=_budget(body) > 0)


def _budget(body: Mapping[str, Any]) -> int:
    match body.get("thinking"):
        case {"type": "enabled", "budget_tokens": int() as budget}:
            return budget
        case _:
            return 0


def _thinking_option_faults(body: Mapping[str, Any], limit: int) -> Iterator[str]:
    if not (budget := _budget(body)):
        return
    if budget >= limit:
        yield "`max_tokens` must be greater than `thinking.budget_tokens`."
    if body.get("temperature", 1) != 1:
        yield "`temperature` may only be set to 1 when thinking is enabled."
    if body.get("tool_choice", {}).get("type") in {"any", "tool"}:
        yield "Thinking may not be enabled when tool_choice forces tool use."


def _message_faults(messages: list[Any], *, thinks: bool) -> Iterator[str]:
    waiting: list[str] = []  # tool_use ids of the message before
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in {"user", "assistant"}:
            yield f'messages: Unexpected role "{role}". The Messages API accepts a top-level `system` parameter.'
            return
        if number == 0 and role != "user":
            yield "messages: first message must use the user role"
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list) or not blocks:
            yield f"messages.{number}: all messages must have non-empty content"
            return
        yield from _result_faults(role, blocks, waiting, number)
        for position, block in enumerate(blocks):
            yield from _block_faults(block, role, f"messages.{number}.content.{position}")
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(set(waiting)) != len(waiting):
            yield "messages: `tool_use` ids must be unique"
        last = all(other.get("role") == "user" for other in messages[number + 1 :])
        if thinks and last and waiting and blocks[0]["type"] not in {"thinking", "redacted_thinking"}:
            yield f"messages.{number}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{blocks[0]['type']}`."
    if waiting:
        yield _unanswered(len(messages) - 1, waiting)


def _unanswered(number: int, ids: list[str]) -> str:
    return (
        f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(ids)}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def _result_faults(role: str, blocks: list[dict[str, Any]], waiting: list[str], number: int) -> Iterator[str]:
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    if role == "assistant" and results:
        yield f"messages.{number}: `tool_result` blocks can only be in `user` messages"
    if missing := [call_id for call_id in waiting if call_id not in results]:
        yield _unanswered(number - 1, missing)
    if strays := [call_id for call_id in results if call_id not in waiting]:
        yield f"messages.{number}: unexpected `tool_use_id` found in `tool_result` blocks: {', '.join(strays)}."
    if len(set(results)) != len(results):
        yield f"messages.{number}: each tool_use must have a single result."
    if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
        yield f"messages.{number}: `tool_result` blocks must come before any other content"


def _block_faults(block: dict[str, Any], role: str, where: str) -> Iterator[str]:
    match block:
        case {"type": "text", "text": str() as text}:
            if not text:
                yield "messages: text content blocks must be non-empty"
        case {"type": "thinking", "thinking": str() as thinking}:
            signature = block.get("signature")
            if not signature:
                yield f"{where}.thinking.signature: Field required"
            elif signature.startswith(SIGNED) and signature != sign(thinking):
                yield f"{where}: Invalid `signature` in `thinking` block"
        case {"type": "redacted_thinking"}:
            if not block.get("data"):
                yield f"{where}.redacted_thinking.data: Field required"
        case {"type": "tool_use" | "server_tool_use", "id": str() as call_id, "input": dict()} if block.get("name"):
            if not _ID.fullmatch(call_id):
                yield f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            if role != "assistant":
                yield f"{where}: `tool_use` blocks can only be in `assistant` messages"
        case {"type": "tool_use" | "server_tool_use" | "text" | "thinking"}:
            yield f"{where}: Field required"
        case {"type": str()}:
            return
        case _:
            yield f"{where}.type: Field required"
