"""Identifiers: sorted by time, unguessable (80 random bits), readable in a log."""

from __future__ import annotations

import time
from secrets import token_hex


def new_id(kind: str) -> str:
    """``run_01990f3c2a7b`` + 20 random hex digits. ``kind`` is the noun it names."""
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{token_hex(10)}"
