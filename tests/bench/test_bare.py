"""The yardstick is right as well as fast."""

import asyncio
import socket

import pytest

from bench import http2
from bench.bare import METHOD
from bench.http2 import Call
from bench.processes import ready_port, running

EVENTS = b"".join(b'data: {"choices":[{"delta":{"content":"%d,"}}]}\n\n' % i for i in range(40)) + b"data: [DONE]\n\n"
TEXT = b"".join(b"%d," % i for i in range(40))


@pytest.fixture(params=[1, 7, 50, 1000])
async def slicing_upstream(request):
    """Sends its answer in slices of so many bytes, each a packet of its own."""

    async def answer(reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVENTS))
        for start in range(0, len(EVENTS), request.param):
            writer.write(EVENTS[start : start + request.param])
            await asyncio.sleep(0)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_text_is_whole_wherever_the_reads_are_cut(cores, slicing_upstream):
    with running(("-m", "bench.bare", str(slicing_upstream)), cores.tested) as process:
        connection = await http2.connect(ready_port(process))
        call = Call([])
        connection.call(http2.headers(METHOD), b"{}", call)
        await call.done
        await connection.close()
    assert b"".join(text for _, text in call.arrivals) == TEXT
