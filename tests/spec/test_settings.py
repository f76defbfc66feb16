"""Options as data: ranges in words, values from text, and one check for all."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.settings import check_settings, list_keys, list_settings, override_settings


class Inner(msgspec.Struct, frozen=True):
    """Inside.

    Attributes:
        part: a part.
    """

    part: Annotated[float, Meta(gt=0, le=1)] = 0.5


class Outer(msgspec.Struct, frozen=True, kw_only=True):
    """Outside.

    Attributes:
        name: what it
            is called.
        count: how many.
        limit: the most.
        kind: one of two.
        parts: names.
        is_on: whether.
        inner: more.
    """

    name: str
    count: Annotated[int, Meta(ge=0, extra={"words": {"auto": 0}})] = 3
    limit: Annotated[float, Meta(lt=2)] | None = None
    kind: Literal["a", "b"] = "a"
    parts: tuple[str, ...] = ()
    is_on: bool = True
    inner: Inner = Inner()


OUTER = Outer(name="n")


def test_a_field_tells_its_text_range_and_default() -> None:
    told = {key: (s.text, s.range_text, s.default_text) for key, s in list_keys(Outer)}
    assert told == {
        "name": ("what it is called.", "", ""),
        "count": ("how many.", "at least 0", "3"),
        "limit": ("the most.", "below 2", ""),
        "kind": ("one of two.", "one of a, b", "a"),
        "parts": ("names.", "", ""),
        "is_on": ("whether.", "", "true"),
        "inner.part": ("a part.", "in (0, 1]", "0.5"),
    }
    assert [setting.name for setting in list_settings(Outer)][-1] == "inner"


def test_values_are_set_from_text() -> None:
    written = {"count": "auto", "limit": "1e-3", "kind": "b", "parts": "x,y", "is_on": "false", "inner.part": "1"}
    changed = override_settings(OUTER, written)
    assert changed == Outer(
        name="n", count=0, limit=0.001, kind="b", parts=("x", "y"), is_on=False, inner=Inner(part=1.0)
    )
    assert override_settings(changed, {"limit": "none", "parts": ""}) == Outer(
        name="n", count=0, kind="b", is_on=False, inner=Inner(part=1.0)
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"count": "1.5"}, "count is '1.5'. It must be at least 0"),
        ({"is_on": "perhaps"}, "is_on is 'perhaps'. It must be true or false"),
        ({"kind": "c"}, "It must be one of a, b"),
        ({"inner": "1"}, "unknown setting 'inner'"),
        ({"name.x": "1"}, "unknown setting 'name.x'"),
    ],
)
def test_text_that_is_no_value_is_refused(written: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        override_settings(OUTER, written)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": -1}, "count is -1. It must be at least 0"),
        ({"limit": 2.0}, "limit is 2.0. It must be below 2"),
        ({"limit": float("nan")}, "limit is nan"),
        ({"kind": "c"}, "kind is c. It must be one of a, b"),
        ({"inner": Inner(part=0.0)}, "inner.part is 0.0. It must be in (0, 1]"),
    ],
)
def test_one_check_names_field_value_and_range(changes: dict[str, object], message: str) -> None:
    check_settings(OUTER)
    with pytest.raises(UsageError) as caught:
        check_settings(msgspec.structs.replace(OUTER, **changes))
    assert message in str(caught.value)
