"""What the load client is told and what it answers; both travel as JSON."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from bench.processes import Cores, Usage


class Upstream(msgspec.Struct):
    """Where it listens, and the request to send when going there directly."""

    port: int
    pid: int
    body: bytes


class Target(msgspec.Struct):
    """A gRPC server that answers from the upstream. ``requests`` are serialised and used in turn."""

    name: str
    port: int
    pid: int
    path: str
    metadata: list[tuple[str, str]]
    requests: list[bytes]


class Ttft(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    targets: list[Target]
    rounds: int
    tokens: int


class Flood(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    target: Target
    streams: int
    rounds: int
    tokens: int


class Paced(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    target: Target | None  # None: straight to the upstream
    streams: int
    ramp: float
    window: float
    tokens: int


class Idle(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    target: Target
    streams: int


Job: TypeAlias = Ttft | Flood | Paced | Idle


class Reading(msgspec.Struct):
    """``microseconds``: by way, what each call of ttft took to its first text, or (key "token") what tokens took from
    leaving the upstream. ``count``: requests of flood, tokens of paced, streams of idle. ``kilobytes``: idle only.
    """

    usage: Usage
    count: int = 0
    kilobytes: int = 0
    microseconds: dict[str, list[float]] = {}
