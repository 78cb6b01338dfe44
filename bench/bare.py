"""The yardstick: the least that can stand between a provider and a gRPC caller in Python, done well.

    aiohttp, pooled -> all that one read brought, decoded in one C call -> one message -> grpc.aio

No token, no session, no journal, no event beside the text. A request is the JSON body to send, a response is
``StreamChatResponse{event{text_delta{text}}}``. Ratios are only comparable while this file stays as it is.

Run as ``python -m bench.bare <upstream port> [port]``; prints ``ready <port>``.
"""

from __future__ import annotations

import gc
import sys
from typing import Final, TypeAlias

import aiohttp
import grpc
import msgspec
import uvloop
from yarl import URL

METHOD: Final = "/bench.Bare/Stream"

_PENDING_REQUESTS: Final = 20_000  # below, bursts of new streams are refused at random
_SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", _PENDING_REQUESTS),
    ("grpc.server.max_pending_requests_hard_limit", _PENDING_REQUESTS),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]


class Bare:
    """One pooled session and the one handler."""

    def __init__(self, upstream: int) -> None:
        self._url = URL(f"http://127.0.0.1:{upstream}/v1/chat/completions")
        self._decode = msgspec.json.Decoder(_Chunk).decode_lines
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60.0, ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            headers={
                "User-Agent": "bench",
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "Authorization": "Bearer bench",
            },
        )

    async def stream(self, body: bytes, context: Context) -> None:
        """One answer: each read becomes at most one message."""
        held = b""
        async with self._session.post(self._url, data=body) as response:
            read = response.content.readany
            while data := await read():
                if held:
                    data = held + data
                end = data.rfind(b"\n\n")
                if end < 0:
                    held = data
                    continue
                held = data[end + 2 :]
                if text := self._text(data[6:end]):
                    await context.write(_message(text.encode()))

    def _text(self, events: bytes) -> str:
        lines = events.replace(b"\n\ndata: ", b"\n").removesuffix(b"[DONE]")
        return "".join(
            [content for chunk in self._decode(lines) for choice in chunk.choices if (content := choice.delta.content)]
        )


def _message(text: bytes) -> bytes:
    for tag in (b"\n", b'"', b"\n"):  # TextDelta.text = 1, ChatEvent.text_delta = 4, StreamChatResponse.event = 1
        text = tag + _varint(len(text)) + text
    return text


def _varint(number: int) -> bytes:
    if number < 1 << 7:
        return bytes((number,))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)


async def main(upstream: int, port: int) -> None:
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    _, service, method = METHOD.split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(Bare(upstream).stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    gc.freeze()
    print(f"ready {port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
