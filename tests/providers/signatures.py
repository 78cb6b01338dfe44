"""Signatures that a fake can check."""

from __future__ import annotations

import hashlib

SIGNED = "own:"


def sign(content: str) -> str:
    """The only signature under which a strict fake takes this content back."""
    return SIGNED + hashlib.sha256(content.encode()).hexdigest()[:32]
