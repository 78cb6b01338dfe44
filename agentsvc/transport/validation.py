"""Bytes of a request -> a message that keeps the contract's rules, or INVALID_FIELD naming what breaks them.

The rules stand in the protos (protovalidate); here they are only run and their findings put into our words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message
from protovalidate import FieldPathElementPb, Validator
from protovalidate import Violation as Finding

from agentsvc import v1
from agentsvc.domain.errors import AgentsvcError, Reason, Violation

M = TypeVar("M", bound=Message)

_validator = Validator()
_QUESTIONS = (v1.StreamChatRequest, v1.ChatRequest)
PLAIN: Final = {"agent_id": 128, "message": 1 << 18, "session_id": 128, "user_id": 128, "request_id": 128}
"""The fields of a plain question and the characters each may have: a message, in the worst case, four bytes each."""


def warm(requests: Iterable[type[Message]]) -> None:
    """Compiles the rules of these request types now: a first call would pay about 4 ms each."""
    for request in requests:
        _validator.collect_violations(request())


def parse(kind: type[M], raw: bytes) -> M:
    """The request in ``raw``.

    Raises:
        AgentsvcError: INVALID_FIELD with one violation per broken rule, or for bytes that are no such message at all
            (also a string that is not UTF-8).
    """
    try:
        request = kind.FromString(raw)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise AgentsvcError(Reason.INVALID_FIELD, f"The {len(raw)} bytes received are no {name}.") from None
    validate(request)
    return request


def is_plain(request: v1.StreamChatRequest | v1.ChatRequest) -> bool:
    """Whether this is a question of the usual kind: an agent, a text, perhaps ids, all short enough. It breaks no rule.

    The rules' engine would say the same, at the price of a message to the caller; that both agree is a property test.
    """
    if not request.agent_id or not request.message:
        return False
    for field, value in request.ListFields():
        limit = PLAIN.get(field.name)
        if limit is None or len(value) > limit:
            return False
    return True


def validate(request: Message) -> None:
    """Raises AgentsvcError INVALID_FIELD, with one violation per broken rule of the contract."""
    if isinstance(request, _QUESTIONS) and is_plain(request):
        return
    findings = _validator.collect_violations(request)
    if findings:
        violations = tuple(_violation(finding) for finding in findings)
        summary = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations)
        raise AgentsvcError(Reason.INVALID_FIELD, summary, violations=violations)


def _violation(finding: Finding) -> Violation:
    proto = finding.proto
    path = "".join(_element(element) for element in (proto.field.elements if proto.field else ()))
    return Violation(path.removeprefix("."), proto.message or proto.rule_id)


def _element(element: FieldPathElementPb) -> str:
    """``.name``, ``.name[3]`` or ``.name["key"]``: the paths of google.rpc.BadRequest."""
    subscript = element.subscript
    if subscript is None:
        return f".{element.field_name}"
    key = f'"{subscript.value}"' if subscript.field == "string_key" else str(subscript.value)
    return f".{element.field_name}[{key}]"
