"""A caller who has left is no error of ours, in whatever order gRPC hears of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # no stubs

from agentsvc.transport.grpc_log import be_calm_about_gone_callers

# gRPC's own words.
SAID = "ExecuteBatchError raised in core by servicer method [/agentsvc.v1.AgentService/StreamChat]"
REFUSED = "Failed grpc_call_start_batch: 8 with grpc_call_error value: 'GRPC_CALL_ERROR_TOO_MANY_OPERATIONS'"


def log(raised: BaseException) -> None:
    cygrpc._LOGGER.error(SAID, exc_info=raised)


async def failed_batch() -> BaseException:
    """What gRPC raises where a message finds that its caller has left."""
    raised: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def too_late(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.send_initial_metadata(())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await context.write(b"late")
            except grpc.aio.BaseError as failed:
                raised.set_result(failed)
            raise

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("a", {"b": grpc.unary_stream_rpc_method_handler(too_late)})
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_stream("/a/b")(cast("Any", b""))
        await call.initial_metadata()
        call.cancel()
        found = await raised
    await server.stop(0)
    return found


async def test_a_failed_batch_of_a_caller_who_left_is_a_line_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    failed = await failed_batch()
    be_calm_about_gone_callers()
    caplog.set_level(logging.INFO)
    log(failed)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert SAID in record.getMessage()
    caplog.set_level(logging.WARNING)
    log(failed)
    assert len(caplog.records) == 1


def test_all_else_that_grpc_says_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    be_calm_about_gone_callers()
    log(cygrpc.ExecuteBatchError(REFUSED))
    log(ValueError('Failed "execute_batch": not gRPC\'s'))
    cygrpc._LOGGER.error('Failed "execute_batch", said without being raised')
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
