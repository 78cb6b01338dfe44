"""The result as a picture: every ratio as a bar beside the bare pipeline, with what it must and may be."""

from __future__ import annotations

from html import escape
from typing import Final

from bench.figures import FIGURES, Better, Figure, Judged
from bench.report import Result, Row, verdict

_WIDTH: Final = 930
_LEFT: Final = 390
_RIGHT: Final = 110
_ROW: Final = 34
_TOP: Final = 64
_MOST: Final = 3.0  # longer bars are cut: what is far out needs no scale
_COLOURS: Final = {"aim": "#2a9d6f", "must": "#3b7dd8", "missed": "#d1493f", "not yet": "#b08a2e", "": "#9aa0a6"}

_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 11px; fill: #6a737d }
  .bare { stroke: #6a737d; stroke-dasharray: 4 3 }
  .bound { stroke: #24292f; stroke-width: 2 }
  .spread { stroke: #24292f; stroke-width: 1; opacity: .6 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9aa4ae } .bound, .spread { stroke: #e6edf3 }
  }
"""


def chart(result: Result) -> str:
    """An SVG; rows without a ratio are left out."""
    rows = [row for row in result.rows if row.ratio is not None]
    most = min(_MOST, max([2.0, *(_extent(row) for row in rows)]))
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height = _TOP + _ROW * len(rows) + 44
    bare = _LEFT + scale
    legend = (
        "Median, least and most of the repetitions. Thick tick: must, thin tick: aim. "
        f"{result.machine['cores']} cores, {result.machine['cpu']}."
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>agentsvc beside a bare pipeline, {escape(result.taken[:10])}</title>",
        f"<style>{_STYLE}</style>",
        '<text x="16" y="26" font-weight="600">The service, with everything on, as a multiple of the bare pipeline</text>',
        f'<text class="small" x="{bare:.1f}" y="{_TOP - 14}" text-anchor="middle">bare = 1</text>',
        f'<line class="bare" x1="{bare:.1f}" x2="{bare:.1f}" y1="{_TOP - 8}" y2="{height - 40}"/>',
        *(line for at, row in enumerate(rows) for line in _bar(row, _TOP + _ROW * at, scale)),
        f'<text class="small" x="16" y="{height - 14}">{escape(legend)}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _extent(row: Row) -> float:
    return max([row.ratio.max if row.ratio else 0.0, *_bounds(FIGURES[row.figure])])


def _bar(row: Row, top: int, scale: float) -> list[str]:
    figure, ratio = FIGURES[row.figure], row.ratio
    if ratio is None:
        return []
    middle = top + _ROW / 2 - 4
    end, least, most = (_LEFT + max(0.0, min(x, _MOST)) * scale for x in (ratio.median, ratio.min, ratio.max))
    colour = _COLOURS[verdict(figure, row)]
    bounds = [_LEFT + bound * scale for bound in _bounds(figure)]
    label = f"{ratio.median:.2f}" + ("" if row.valid else " invalid")
    return [
        f'<text x="16" y="{middle + 4}">{escape(figure.title)}</text>',
        f'<text class="small" x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">{_arrow(figure)}</text>',
        f'<rect x="{_LEFT}" y="{top + 3}" width="{end - _LEFT:.1f}" height="{_ROW - 14}" rx="3" fill="{colour}"/>',
        f'<line class="spread" x1="{least:.1f}" x2="{most:.1f}" y1="{middle}" y2="{middle}"/>',
        *(
            f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + _ROW - 8}" style="stroke-width:{width}"/>'
            for x, width in zip(bounds, (2.5, 1), strict=False)
        ),
        f'<text x="{max(end, most, *bounds) + 8:.1f}" y="{middle + 4}">{label}</text>',
    ]


def _bounds(figure: Figure) -> list[float]:
    """Must and aim as ratios, in this order."""
    if figure.judged is Judged.VALUE:  # its bounds are milliseconds
        return []
    return [bound for bound in (figure.must, figure.aim) if bound is not None]


def _arrow(figure: Figure) -> str:
    return "less is better" if figure.better is Better.LOWER else "more is better"
