"""The soak itself: that it makes the traffic it promises, and would see a leak."""

from __future__ import annotations

import pytest

from bench import soak


def test_the_slope_is_that_of_least_squares_with_its_upper_bound() -> None:
    flat = [(float(second), 100.0 + second % 2) for second in range(600)]
    growing = [(second, resident + second * 20 / 3600) for second, resident in flat]
    slope, upper = soak.slope(flat)
    assert abs(slope) < 0.5
    assert slope < upper < soak.MUST
    slope, upper = soak.slope(growing)
    assert slope == pytest.approx(20, abs=0.5)
    assert upper > soak.MUST


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_minute_of_steady_traffic() -> None:
    figures = await soak.soak(1.0)
    assert figures.at_rest
    assert figures.streams == 5 * 50 + 20 * 100 + 40 * 50
    assert figures.ended["left"] == pytest.approx(figures.streams * 0.2, rel=0.2)
    assert figures.ended["OK"] == pytest.approx(figures.streams * 0.75, rel=0.1)
    faults = {"PROVIDER_SERVER_ERROR", "PROVIDER_RATE_LIMIT", "MALFORMED_STREAM", "STREAM_TRUNCATED"}
    assert faults <= figures.ended.keys() <= faults | {"left", "OK"}
