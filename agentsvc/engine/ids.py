"""Identifiers: sorted by time, unguessable (80 random bits), readable in a log."""

from __future__ import annotations

import os
import time

_BYTES = 10
_AT_ONCE = 1024 * _BYTES  # the kernel is asked once for a thousand ids: alone one costs 1 us, and a busy loop 10


class _Random:
    """Random bytes, each given out once; none to a forked child."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._bytes, self._given = b"", 0

    def digits(self) -> str:
        if self._given == len(self._bytes):
            self._bytes, self._given = os.urandom(_AT_ONCE), 0
        begin = self._given
        self._given += _BYTES
        return self._bytes[begin : self._given].hex()


_random = _Random()


def new_id(kind: str) -> str:
    """``run_01990f3c2a7b`` + 20 random hex digits. ``kind`` is the noun it names."""
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{_random.digits()}"
