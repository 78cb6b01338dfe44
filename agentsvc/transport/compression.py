"""Compression, for large messages that nobody waits for token by token, and for peers that accept it.

grpc.aio shows a handler neither ``grpc-accept-encoding`` nor how the request came, and its ``set_compression`` breaks
the call of a peer that does not know the algorithm. The server's default *level* is what works: the core then picks an
algorithm that the peer accepts, or none, and every message that is not worth it says so before it is written.
"""

from __future__ import annotations

from typing import Any, Final

OPTION: Final = ("grpc.default_compression_level", 2)  # GRPC_COMPRESS_LEVEL_MED

_WORTH = 1 << 10
# Deltas that were joined stay below: one read brings some 100 KiB of a vendor's JSON, a few KiB of text.
_WORTH_IN_A_STREAM = 8 << 10
# The core compresses on the event loop: 1 ms per 64 KiB, and above this other people's tokens would notice.
_MOST = 256 << 10


def is_plain_in_a_stream(size: int) -> bool:
    """Whether a stream's message of ``size`` bytes leaves as it is."""
    return size < _WORTH_IN_A_STREAM or size > _MOST


def settle(context: Any, size: int) -> None:
    """Before a unary response of ``size`` bytes is returned."""
    if size < _WORTH or size > _MOST:
        context.disable_next_message_compression()
