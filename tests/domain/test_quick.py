"""A value that is made quickly is the same value as one that is made slowly."""

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields

import pytest

from agentsvc.domain.quick import quick, replace


class _Base:
    __slots__ = ()

    def doubled(self) -> int:
        return 2 * self.number  # type: ignore[attr-defined,no-any-return]


@quick
@dataclass(frozen=True, slots=True)
class Quick(_Base):
    """A value of every sort of field."""

    number: int
    word: str = "none"
    names: dict[str, int] = field(default_factory=dict)
    last: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Slow(_Base):
    """The same, as the standard library makes it."""

    number: int
    word: str = "none"
    names: dict[str, int] = field(default_factory=dict)
    last: bool = field(default=False, kw_only=True)


@pytest.mark.parametrize(
    ("arguments", "keywords"), [((1,), {}), ((1, "two"), {}), ((1,), {"names": {"a": 1}, "last": True})]
)
def test_it_holds_what_the_slow_one_holds(arguments: tuple[int], keywords: dict[str, bool]) -> None:
    quickly, slowly = Quick(*arguments, **keywords), Slow(*arguments, **keywords)  # type: ignore[arg-type]
    assert [getattr(quickly, f.name) for f in fields(Quick)] == [getattr(slowly, f.name) for f in fields(Slow)]
    assert repr(quickly) == repr(slowly).replace("Slow", "Quick")


def test_it_is_of_its_class_frozen_and_has_its_methods() -> None:
    value = Quick(3)
    assert type(value) is Quick
    assert value.doubled() == 6
    with pytest.raises(FrozenInstanceError):
        value.number = 4  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        value.unknown = 4  # type: ignore[attr-defined]


def test_defaults_of_a_factory_are_not_shared() -> None:
    assert Quick(1).names is not Quick(1).names


@pytest.mark.parametrize("keywords", [{}, {"number": 1, "unheard_of": 2}])
def test_wrong_arguments_are_refused(keywords: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Quick(**keywords)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Quick(1, "two", {}, True)  # type: ignore[misc]  # ``last`` goes by its name only


def test_values_are_compared_replaced_copied_and_matched() -> None:
    value = Quick(1, "two", last=True)
    assert value == Quick(1, "two", last=True) != Quick(1)
    assert replace(value, word="three") == dataclasses.replace(value, word="three") == Quick(1, "three", last=True)
    assert type(replace(value)) is Quick
    with pytest.raises(TypeError, match="unheard_of"):
        replace(value, unheard_of=1)  # type: ignore[call-arg]
    match value:
        case Quick(number, word):
            assert (number, word) == (1, "two")
    assert copy.copy(value) == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


def test_what_cannot_be_made_quickly_is_refused_where_it_is_declared() -> None:
    @dataclass(frozen=True)
    class WithoutSlots:
        number: int

    @dataclass(frozen=True, slots=True)
    class WithAfterthought:
        number: int

        def __post_init__(self) -> None: ...

    @dataclass(frozen=True, slots=True)
    class WithHidden:
        number: int = field(init=False, default=0)

    for cls in (WithoutSlots, WithAfterthought, WithHidden):
        with pytest.raises(TypeError, match=cls.__name__):
            quick(cls)
