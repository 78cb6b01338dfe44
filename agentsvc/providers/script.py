"""What the scripted provider does: steps as values, and as JSON for ``provider_options["script"]``.

A script is a list of steps, each an object with ``do`` and the fields of that step; ``{"do": "turn"}`` begins what is
played when the model is asked again in the same run, after tool results:

    [{"do": "reasoning", "text": "Let me look."},
     {"do": "call", "name": "get_weather", "arguments": {"city": "Paris"}, "fragment": 4},
     {"do": "turn"},
     {"do": "text", "text": "It is 18 degrees in Paris.", "delay": 0.02},
     {"do": "reset"}]

Delays are seconds before each piece. A turn that ends without a fault ends well, with a finish reason and usage.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class _Step(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    pass


class Say(_Step, frozen=True, tag="text"):
    """Text, ``chunk`` characters at a time; 0: word by word."""

    text: str
    chunk: int = 0
    delay: float = 0.0


class Reason(_Step, frozen=True, tag="reasoning"):
    """Reasoning, cut as text is."""

    text: str
    chunk: int = 0
    delay: float = 0.0


class Call(_Step, frozen=True, tag="call"):
    """A tool call. ``arguments`` as text may be wrong JSON; ``fragment`` characters at a time, 0: whole.

    Calls of one turn are parallel. An empty ``id`` becomes one of the mock's.
    """

    name: str
    arguments: dict[str, Any] | str = {}
    fragment: int = 0
    delay: float = 0.0
    id: str = ""


class Flood(_Step, frozen=True, tag="flood"):
    """``tokens`` times the same token, ``batch`` of them in one write, as fast as the reader can take it."""

    tokens: int
    text: str = " token"
    batch: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 16
    delay: float = 0.0


class Pause(_Step, frozen=True, tag="pause"):
    """Silence for ``seconds``, broken by ``pings`` comments and role-only deltas, which say nothing."""

    seconds: float
    pings: int = 0


class Repeat(_Step, frozen=True, tag="repeat"):
    """``steps``, ``times`` over."""

    times: int
    steps: tuple[Step, ...]


class Raw(_Step, frozen=True, tag="raw"):
    """Bytes as they are: half a frame, a comment, broken JSON."""

    data: str
    delay: float = 0.0


class Finish(_Step, frozen=True, tag="finish"):
    """Another finish reason than the usual one; ``usage`` False: the vendor does not say what it cost."""

    reason: str = ""
    usage: bool = True


class Refuse(_Step, frozen=True, tag="status"):
    """An HTTP status instead of an answer. First in its turn or never."""

    status: int
    code: str = ""
    message: str = "The mock was told to refuse."
    headers: dict[str, str] = {}


class ErrorFrame(_Step, frozen=True, tag="error"):
    """An error inside the stream, which ends there."""

    code: str = "server_error"
    status: int = 500


class Malformed(_Step, frozen=True, tag="malformed"):
    """A frame cut in the middle, with the next one right behind it."""


class Truncate(_Step, frozen=True, tag="truncate"):
    """The connection closes cleanly before the answer has ended."""


class Reset(_Step, frozen=True, tag="reset"):
    """The connection breaks."""


class Stall(_Step, frozen=True, tag="stall"):
    """Nothing more comes and the connection stays open."""


class Turn(_Step, frozen=True, tag="turn"):
    """What follows is played when the model is asked again."""


Step = (
    Say
    | Reason
    | Call
    | Flood
    | Pause
    | Repeat
    | Raw
    | Finish
    | Refuse
    | ErrorFrame
    | Malformed
    | Truncate
    | Reset
    | Stall
    | Turn
)
Script = tuple[Step, ...]


def read(value: Any) -> Script:
    """A script from its JSON form.

    Raises:
        msgspec.ValidationError: says which step is wrong and why.
    """
    return msgspec.convert(value, Script)


def write(script: Script) -> list[dict[str, Any]]:
    """A script in its JSON form, for ``provider_options["script"]``."""
    written: list[dict[str, Any]] = msgspec.to_builtins(list(script))
    return written


def turn(script: Script, number: int) -> Script:
    """The steps of one turn, from 0. Past the last one the mock has nothing left to do but to say so."""
    turns: list[list[Step]] = [[]]
    for step in script:
        if isinstance(step, Turn):
            turns.append([])
        else:
            turns[-1].append(step)
    return tuple(turns[number]) if number < len(turns) else (Say("Done."),)
