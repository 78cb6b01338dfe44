"""What gRPC logs of callers who left.

A message or status that finds its caller gone is a failed batch. gRPC knows of the caller's leaving by another one and
says nothing when it heard of that first; in the other order, a matter of microseconds, it logs an error with a
traceback. Nothing is wrong then and nothing can be done, so nobody is to be woken by it: it becomes a line among others.
It stays a line, because metadata that gRPC does not allow to be sent looks the same.
"""

from __future__ import annotations

import logging
from typing import Final

import grpc

_LOGGER: Final = "grpc._cython.cygrpc"
_FAILED: Final = 'Failed "execute_batch"'  # the others of its kind were refused by the core, which would be our fault


def be_calm_about_gone_callers() -> None:
    """From now on gRPC's log says it in a line."""
    logging.getLogger(_LOGGER).addFilter(_calmed)


def _calmed(record: logging.LogRecord) -> bool:
    raised = record.exc_info[1] if record.exc_info else None
    if not (isinstance(raised, grpc.aio.InternalError) and str(raised).startswith(_FAILED)):
        return True
    record.msg, record.args = f"{record.getMessage()}: its caller had left, or gRPC does not allow what was sent", ()
    record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    record.exc_info = record.exc_text = None
    return logging.getLogger(_LOGGER).isEnabledFor(logging.INFO)
