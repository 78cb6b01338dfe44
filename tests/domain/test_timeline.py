"""The stages of a run: told at any moment, and right again after every mark."""

from itertools import count

from agentsvc.domain.timeline import StageTiming, Timeline


def ticking() -> Timeline:
    """Its clock goes on by 5 us with every look at it."""
    return Timeline(clock=count(1_000_000, 5_000).__next__)


def test_what_is_told_early_is_not_what_is_told_later() -> None:
    timeline = ticking()
    timeline.reached("auth")
    assert timeline.timings() == (StageTiming("auth", 0, 5),)
    timeline.reached("admission")
    assert timeline.timings() == (StageTiming("auth", 0, 5), StageTiming("admission", 5, 5))
    assert timeline.timings() is timeline.timings()  # most are asked for twice


def test_a_token_that_was_held_back_belongs_to_its_last_stage_also_when_that_was_told_before() -> None:
    timeline = ticking()
    timeline.reached("auth")
    timeline.reached("first_token")
    assert timeline.timings()[-1] == StageTiming("first_token", 5, 5)
    timeline.held_back()
    assert timeline.timings()[-1] == StageTiming("first_token", 5, 10)
