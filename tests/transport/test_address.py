"""Who can reach an address decides whether it may be plaintext."""

from __future__ import annotations

import pytest

from agentsvc.transport.address import is_loopback


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("127.0.0.1.example.com:1", False),
        ("127.300.0.1:1", False),
        ("unix:/run/agentsvc.sock", True),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(address: str, *, expected: bool) -> None:
    assert is_loopback(address) is expected
