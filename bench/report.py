"""From samples to a result, and from a result to JSON and a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.figures import FIGURES, MAX_FOREIGN, MIN_IDLE, Better, Figure, Judged
from bench.processes import Usage

MENTIONED: Final = 0.05  # share of a core that others used, from which on it is said beside the figure

_LIBRARIES = ("grpcio", "aiohttp", "uvloop", "msgspec", "protobuf", "sqlalchemy", "aiosqlite")


class Spread(msgspec.Struct, frozen=True):
    """The repetitions of one value."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


class Sample(msgspec.Struct, frozen=True):
    """One repetition of one figure: its value by way, and what the cores did meanwhile."""

    figure: str
    values: Mapping[str, float]
    usages: Sequence[Usage]


class Row(msgspec.Struct, frozen=True):
    """One figure. ``ratio`` is service to bare, None without a service. ``idle`` is the least, ``foreign`` the most of
    all repetitions and ways; see ``processes.Usage``.
    """

    figure: str
    ways: dict[str, Spread]
    ratio: Spread | None
    idle: float
    foreign: float

    @property
    def valid(self) -> bool:
        """Whether upstream and load client had time to spare and strangers kept away, so that it was the service that
        was measured.
        """
        return self.idle >= MIN_IDLE and self.foreign <= MAX_FOREIGN


class Result(msgspec.Struct, frozen=True):
    """One run of the bench."""

    taken: str
    quick: bool
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    rows: list[Row]


def result(samples: Iterable[Sample], *, quick: bool, commit: str) -> Result:
    """All repetitions put together, in the order of FIGURES."""
    by_figure: dict[str, list[Sample]] = {}
    for sample in samples:
        by_figure.setdefault(sample.figure, []).append(sample)
    return Result(
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        quick=quick,
        commit=commit,
        machine=_machine(),
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _LIBRARIES},
        rows=[_row(figure.name, by_figure[figure.name]) for figure in FIGURES.values() if figure.name in by_figure],
    )


def _row(figure: str, samples: Sequence[Sample]) -> Row:
    usages = [usage for sample in samples for usage in sample.usages]
    ratios = [s.values["service"] / s.values["bare"] for s in samples if "service" in s.values]
    return Row(
        figure=figure,
        ways={way: Spread.of([sample.values[way] for sample in samples]) for way in sorted(samples[0].values)},
        ratio=Spread.of(ratios) if ratios else None,
        idle=min(usage.idle for usage in usages),
        foreign=max(usage.foreign for usage in usages),
    )


def _machine() -> dict[str, str]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
    }


def verdict(figure: Figure, row: Row) -> str:
    """Which bound was reached: ``aim``, ``must``, or none: ``missed``, or ``not yet`` where there is only an aim.

    Empty where nothing can be judged.
    """
    reached = _reached(figure, row)
    if reached is None or not row.valid:
        return ""
    if figure.aim is not None and figure.meets(figure.aim, reached):
        return "aim"
    if figure.must is None:
        return "not yet"
    return "must" if figure.meets(figure.must, reached) else "missed"


def _reached(figure: Figure, row: Row) -> float | None:
    match figure.judged:
        case Judged.RATIO:
            return row.ratio.median if row.ratio else None
        case Judged.VALUE:
            return row.ways["service"].median if "service" in row.ways else None


def table(result: Result) -> str:
    """The result as Markdown."""
    titles = "figure | bare | service | ratio | must | aim | reached | idle"
    lines = [f"| {titles} |", "|---|---|---|---|---|---|---|---|"]
    for row in result.rows:
        figure = FIGURES[row.figure]
        cells = (
            f"{figure.title}, {figure.unit}",
            _spread(row.ways.get("bare")),
            _spread(row.ways.get("service")),
            _spread(row.ratio, digits=2),
            _bound(figure, figure.must),
            _bound(figure, figure.aim),
            verdict(figure, row) if row.valid else "INVALID",
            f"{row.idle:.0%}" + (f" ({row.foreign:.0%} used by others)" if row.foreign > MENTIONED else ""),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(result: Result) -> str:
    """docs/bench.md."""
    machine = f"{result.machine['cores']} cores of {result.machine['cpu']}, Linux {result.machine['kernel']}"
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"""# What agentsvc costs

Made by `make bench`; [bench/README.md](../bench/README.md) says how it is measured. Commit {result.commit}, {result.taken},
{machine}; {versions}.

![The service beside the bare pipeline](bench.svg)

Median of the repetitions, least and most in brackets. Ratio: service to bare pipeline, each repetition for itself. Idle: the
least share of the time in which upstream and load client left their core free; a figure with less than {MIN_IDLE:.0%}, or with
more than {MAX_FOREIGN:.0%} of a core used by others, is invalid.

{table(result)}

{_aiohttp(result)}
"""


def _aiohttp(result: Result) -> str:
    for row in result.rows:
        if row.figure == "ttft_p50" and "aiohttp" in row.ways:
            us = row.ways["aiohttp"].median
            return (
                f"Time to first token is counted from what the load client, which is light, takes without anything in between. "
                f"A Python caller that asks the upstream itself, with aiohttp, adds {us:.0f} us to that."
            )
    return ""


def _spread(spread: Spread | None, digits: int | None = None) -> str:
    if spread is None:
        return ""
    return f"{_number(spread.median, digits)} ({_number(spread.min, digits)} - {_number(spread.max, digits)})"


def _number(value: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _bound(figure: Figure, bound: float | None) -> str:
    if bound is None:
        return ""
    sign = "≤" if figure.better is Better.LOWER else "≥"
    return f"{sign} {bound:g} {figure.unit if figure.judged is Judged.VALUE else 'x'}"
