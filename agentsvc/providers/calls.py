"""Assembles the tool calls of a chat-completions answer from their pieces.

By the book, the first piece of a call has its index, id and name, and later ones have the index and more arguments.
Vendors leave out, repeat, blank or delay every one of these. What holds for all of them: a known id or name is never
overwritten by an empty one; an index says which call is meant, never where it stands; arguments are read at the end.

Calls start in order of appearance, each as soon as its id and name are known and the ones before it have started. What
never gets an id gets ours when the answer ends; ids are unique within the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agentsvc.domain.events import ToolCallStarted
from agentsvc.providers.deltas import Deltas
from agentsvc.providers.errors import MalformedStreamError


class FunctionPiece(msgspec.Struct, gc=False):
    """``arguments`` is a piece of JSON text; some vendors send the object itself."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallPiece(msgspec.Struct, gc=False):
    """One entry of ``delta.tool_calls``."""

    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class _Call:
    """A call in the making. ``vendor_id`` and ``name`` are empty until known, ``tool_call_id`` until it has started."""

    __slots__ = ("arguments", "name", "told", "tool_call_id", "vendor_id")

    def __init__(self) -> None:
        self.vendor_id = ""
        self.name = ""
        self.tool_call_id = ""
        self.arguments: list[str] = []
        self.told = 0  # how many of ``arguments`` have left as deltas


class CallAssembly:
    """The tool calls of one answer."""

    __slots__ = ("_by_index", "_calls", "_ids", "_started")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._ids: set[str] = set()
        self._started = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, pieces: Sequence[CallPiece], out: Deltas) -> None:
        """The entries of one chunk."""
        for position, piece in enumerate(pieces):
            function = piece.function or FunctionPiece()
            arguments = _text(function.arguments)
            if not (piece.id or function.name or arguments):
                continue
            call = self._find(piece, function.name or "", arguments, position if len(pieces) > 1 else -1)
            call.vendor_id = call.vendor_id or piece.id or ""
            call.name = call.name or function.name or ""
            if arguments:
                call.arguments.append(arguments)
            if call.tool_call_id:
                _tell(call, out)
        self._start(out)

    def finish(self, out: Deltas) -> None:
        """The answer ended: tells what waited for ids that never came.

        Raises:
            MalformedStreamError: a call has no name, or its arguments are no JSON object. What could be told was told.
        """
        for number, call in enumerate(self._calls):
            if not call.name:
                raise MalformedStreamError("a tool call has no name")
            if not call.tool_call_id:
                self._begin(call, call.vendor_id or f"call_{number}", out)
            text = "".join(call.arguments).strip()
            if text in {"", "null"}:
                call.arguments = ["{}"]
                call.told = 0
            _tell(call, out, last=True)
            if not is_object("".join(call.arguments)):
                raise MalformedStreamError("the arguments of a tool call are not a JSON object")

    def _find(self, piece: CallPiece, name: str, arguments: str, position: int) -> _Call:
        """The call this piece belongs to, a new one where it is the head of one. ``position`` -1: alone in its chunk."""
        if piece.index is not None:
            call = self._by_index.get(piece.index)
            if call is None or _heads_another(call, piece.id or "", name, arguments):
                call = self._by_index[piece.index] = self._open()
            return call
        if piece.id:
            call = next((known for known in reversed(self._calls) if known.vendor_id == piece.id), None)
            if call is not None and not _repeats(call, name, arguments):
                return call
        latest = self._calls[position if 0 <= position < len(self._calls) else -1] if self._calls else None
        if latest is None or (piece.id and latest.vendor_id) or (name and latest.name):
            return self._open()
        return latest

    def _open(self) -> _Call:
        call = _Call()
        self._calls.append(call)
        return call

    def _start(self, out: Deltas) -> None:
        while self._started < len(self._calls):
            call = self._calls[self._started]
            if not call.tool_call_id:
                if not (call.vendor_id and call.name):
                    return
                self._begin(call, call.vendor_id, out)
            self._started += 1

    def _begin(self, call: _Call, wanted: str, out: Deltas) -> None:
        call.tool_call_id = unique(wanted, self._ids)
        out.event(ToolCallStarted(call.tool_call_id, call.name))
        _tell(call, out)


def unique(wanted: str, taken: set[str]) -> str:
    """``wanted``, or with a number behind it where it is taken; then taken itself."""
    found, number = wanted, 2
    while found in taken:
        found, number = f"{wanted}-{number}", number + 1
    taken.add(found)
    return found


def is_object(text: str) -> bool:
    """Whether ``text`` is a complete JSON object."""
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _text(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or ""


def _heads_another(call: _Call, vendor_id: str, name: str, arguments: str) -> bool:
    """Whether a piece with the index of ``call`` begins another call all the same."""
    if vendor_id and call.vendor_id and vendor_id != call.vendor_id:
        return bool(name)
    return not vendor_id and _repeats(call, name, arguments)


def _repeats(call: _Call, name: str, arguments: str) -> bool:
    """Whether a named piece cannot be more of ``call``, whose arguments are complete: another name, or arguments anew."""
    return bool(name and call.name and (name != call.name or arguments)) and is_object("".join(call.arguments))


def _tell(call: _Call, out: Deltas, *, last: bool = False) -> None:
    """What has not left yet. Blank and ``null`` arguments wait: in the end they mean ``{}``."""
    if not last and not call.told and "null".startswith("".join(call.arguments).strip()):
        return
    for fragment in call.arguments[call.told :]:
        out.arguments(call.tool_call_id, fragment)
    call.told = len(call.arguments)
