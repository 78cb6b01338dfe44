"""An upstream in the shape of OpenAI's chat completions, so light that what it feeds is what is measured.

    POST /v1/chat/completions    the request's model says how the answer comes
      paced-<tokens>-<interval_ms>-<first_ms>     one token per interval, the first after first_ms
      stamped-<tokens>-<interval_ms>-<first_ms>   the same; each token is "@" and the time it left: monotonic ns, 19 digits
      thinking-<tokens>-<interval_ms>-<first_ms>  silence for first_ms exactly, then headers and the first token in one packet
      flood-<tokens>                              as fast as the connection takes them
      idle                                        headers at once, one token after 120 s
    GET /stats                   {"cpu_ns", "open", "requests"}; open = answers being sent

One HTTP chunk of about 290 bytes per token, frames made before the first request, keep-alive.

Run as ``python -m bench.upstream [port]``; prints ``ready <port>``.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final, cast

import msgspec
import uvloop

TEXT: Final = b" the  and  for  you  not  are  all  can  one  was  out  use  new  now  way  may "  # over and over
WORD_BYTES: Final = 5  # of TEXT make a token, about the mean of English
STAMP_BYTES: Final = 20
IDLE_SECONDS: Final = 120.0

_AWAKE: Final = 0.002  # seconds
_FLOOD_BLOCK_TOKENS: Final = 224  # 64 KiB, uvloop's high-water mark: one write, one pause, one resume
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model" *: *"([a-z]+)((?:-\d+)*)"')

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n"
)


def _chunk(choices: bytes, usage: bytes = b"null") -> bytes:
    data = (
        b'data: {"id":"chatcmpl-BnchmrkUpstream0000000001","object":"chat.completion.chunk","created":1760000000,'
        b'"model":"bench-1","service_tier":"default","system_fingerprint":"fp_0123456789",'
        b'"choices":[%b],"usage":%b}\n\n' % (choices, usage)
    )
    return b"%x\r\n%b\r\n" % (len(data), data)


def _token(text: bytes) -> bytes:
    return _chunk(b'{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null}' % text)


_ROLE: Final = _chunk(
    b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}'
)
_STOP: Final = _chunk(b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}')
_DONE: Final = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_TOKENS: Final = tuple(_token(TEXT[i : i + WORD_BYTES]) for i in range(0, len(TEXT), WORD_BYTES))
TOKEN_BYTES: Final = len(_TOKENS[0])
_FLOOD_BLOCK: Final = b"".join(islice(cycle(_TOKENS), _FLOOD_BLOCK_TOKENS))
_STAMP_BEFORE, _STAMP_AFTER = _token(b"?" * STAMP_BYTES).split(b"?" * STAMP_BYTES)


def _tail(tokens: int) -> bytes:
    counts = (12, tokens, 12 + tokens)
    usage = _chunk(b"", b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % counts)
    return _STOP + usage + _DONE


def _stamp() -> bytes:
    return b"%b@%019d%b" % (_STAMP_BEFORE, time.monotonic_ns(), _STAMP_AFTER)


@dataclass(slots=True)
class Stats:
    """What all connections share."""

    open: int = 0
    requests: int = 0


class Upstream(asyncio.Protocol):
    """One kept connection, one answer at a time."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._answering = self._paused = False
        self._left = self._tokens = 0
        self._interval = self._due = 0.0
        self._frame: Callable[[], bytes] = _stamp
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._end()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._answering and self._timer is None:
            self._pump()

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        head_end = data.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(data, 0, head_end)
        end = head_end + (int(length[1]) if length else 0)
        if head_end < 4 or len(data) < end:
            self._held = data
            return
        self._held = data[end:]
        self._stats.requests += 1
        if data.startswith(b"GET /stats "):
            body = msgspec.json.encode({"cpu_ns": time.process_time_ns()} | msgspec.to_builtins(self._stats))
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            self._answer(_MODEL.search(data, head_end, end))

    def _answer(self, model: re.Match[bytes] | None) -> None:
        mode, numbers = (model[1], [int(n) for n in model[2].split(b"-")[1:]]) if model else (b"", [])
        match mode, numbers:
            case b"flood", [tokens]:
                self._begin(tokens)
                self._transport.write(_HEAD + _ROLE + self._block() if self._left else _HEAD + _ROLE)
                self._pump()
            case b"paced" | b"stamped", [tokens, interval, first]:
                self._begin(tokens)
                self._frame = _stamp if mode == b"stamped" else cycle(_TOKENS).__next__
                self._pace(first / 1000, interval / 1000)
            case b"thinking", [tokens, interval, first]:
                self._begin(tokens)
                self._frame = cycle(_TOKENS).__next__
                self._think(time.monotonic() + first / 1000, interval / 1000)
            case b"idle", []:
                self._begin(1)
                self._frame = cycle(_TOKENS).__next__
                self._pace(IDLE_SECONDS, 0.0)
            case _:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def _begin(self, tokens: int) -> None:
        self._answering = True
        self._stats.open += 1
        self._tokens = self._left = tokens

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._answering:
            self._answering = False
            self._stats.open -= 1

    def _finish(self, last: bytes = b"") -> None:
        self._transport.write(last + _tail(self._tokens))
        self._end()

    # --- flood ---
    def _block(self) -> bytes:
        tokens = min(self._left, _FLOOD_BLOCK_TOKENS)
        self._left -= tokens
        return _FLOOD_BLOCK if tokens == _FLOOD_BLOCK_TOKENS else _FLOOD_BLOCK[: tokens * TOKEN_BYTES]

    def _pump(self) -> None:
        while not self._paused:
            block = self._block()
            if not self._left:
                self._finish(block)
                return
            self._transport.write(block)

    # --- paced ---
    def _pace(self, first: float, interval: float) -> None:
        self._interval = interval
        self._due = self._loop.time() + first
        if first:
            self._transport.write(_HEAD + _ROLE)
            self._timer = self._loop.call_at(self._due, self._tick)
        else:  # as a cached prompt answers: everything up to the first token in one packet
            self._tick(_HEAD + _ROLE)

    def _think(self, until: float, interval: float) -> None:
        """The loop's timers know milliseconds only: the last two of them are waited for awake."""
        left = until - time.monotonic()
        if left > _AWAKE:
            self._timer = self._loop.call_later(left - _AWAKE, self._think, until, interval)
        elif left > 0:
            self._timer = self._loop.call_later(0, self._think, until, interval)
        else:
            self._pace(0.0, interval)

    def _tick(self, before: bytes = b"") -> None:
        self._left -= 1
        if not self._left:
            self._finish(before + self._frame())
            return
        self._transport.write(before + self._frame())
        self._due += self._interval
        self._timer = self._loop.call_at(self._due, self._tick)


async def main(port: int) -> None:
    stats = Stats()
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(stats), "127.0.0.1", port, backlog=4096)
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
