"""What some vendors want to read again of their model's reasoning: kept while it arrives, sent back with the history.

``reasoning_content`` is one text. DeepSeek and Moonshot answer 400 when a turn that called tools comes back without it
(empty is fine), and have no use for it in other turns.

``reasoning_details`` is a list of blocks, which streams cut into pieces. OpenRouter passes their signatures on to the
vendor that made them, who checks each against the whole text of its block.
"""

from __future__ import annotations

from typing import Any, Literal

from agentsvc.domain.messages import Message, ProviderState

Returns = Literal["", "reasoning_content", "reasoning_details"]  # empty: the vendor wants nothing back

_GROWING = {"reasoning.text": "text", "reasoning.summary": "summary"}
_IDENTITY = ("type", "index")


class Thoughts:
    """The reasoning of one answer, in the form in which it goes back."""

    __slots__ = ("_blocks", "_pieces", "_returns")

    def __init__(self, returns: Returns) -> None:
        self._returns = returns
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # of the text, or of the last block's

    def add(self, text: str | None, details: Any) -> None:
        """What one chunk brings: more text, and entries of ``reasoning_details`` or anything in their place."""
        if self._returns == "reasoning_content":
            if text:
                self._pieces.append(text)
        elif isinstance(details, list):
            for piece in details:
                if isinstance(piece, dict):
                    self._piece(piece)

    def state(self, vendor: str) -> ProviderState | None:
        """What to keep with the message, None when there is nothing."""
        self._seal()
        kept = self._blocks or "".join(self._pieces)
        return ProviderState(vendor, {self._returns: kept}) if kept else None

    def _piece(self, piece: dict[str, Any]) -> None:
        growing = _GROWING.get(str(piece.get("type")))
        last = self._blocks[-1] if self._blocks else {}
        # A signature closes its block: what comes after it without an index belongs to the next one.
        if growing and not last.get("signature") and all(piece.get(name) == last.get(name) for name in _IDENTITY):
            last.update({name: value for name, value in piece.items() if value is not None and name != growing})
        else:
            self._seal()
            self._blocks.append(dict(piece))
        if growing and isinstance(text := piece.get(growing), str):
            self._pieces.append(text)

    def _seal(self) -> None:
        """The last block is complete."""
        if self._blocks and self._pieces:
            self._blocks[-1][_GROWING[self._blocks[-1]["type"]]] = "".join(self._pieces)
            self._pieces.clear()


def returned(message: Message, returns: Returns, vendor: str, *, called: bool) -> dict[str, Any]:
    """What an assistant message of the history carries back to ``vendor``. ``called``: its turn has called a tool by then."""
    match message.provider_state:
        case ProviderState(vendor=owner, payload={**payload}) if owner == vendor:
            kept = payload.get(returns)
        case _:
            kept = None
    if returns == "reasoning_content":
        return {returns: kept or ""} if called else {}
    return {returns: kept} if returns and kept else {}
