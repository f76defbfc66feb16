"""Options as data: the fields of a struct with text, default and range, checked and changed by name.

Flags, `--set`, TOML and help are made from this, so that an option has one place: its field. The range of a number is
in its type, `Annotated[int, Meta(ge=1)]`; what it is and its unit are its line in the docstring of the struct.
"""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.sizes import Form

S = TypeVar("S", bound=msgspec.Struct)

Count = Annotated[int, Meta(ge=1)]
WholeNumber = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
PartBelowOne = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Setting:
    """One field of a struct of options.

    Attributes:
        name: as in Python, TOML, flags and `--set`.
        text: its line in the docstring: what it is, and its unit.
        kind: type of a value that is given, without range and None.
        default: `msgspec.NODEFAULT` where it has to be given.
        takes_none: whether None is a value too.
        limits: of a number.
    """

    name: str
    text: str
    kind: Any
    default: Any
    takes_none: bool
    limits: Meta

    @property
    def section(self) -> type[msgspec.Struct] | None:
        """The struct that the field holds, if it holds one."""
        return self.kind if isinstance(self.kind, type) and issubclass(self.kind, msgspec.Struct) else None

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that there are, of a field that has a few."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def words(self) -> dict[str, int]:
        """What may be written for a number, such as auto for 0."""
        return dict((self.limits.extra or {}).get("words", {}))

    @property
    def form(self) -> Form | None:
        """How it is written, where that is neither a number nor a word."""
        return (self.limits.extra or {}).get("form")

    @property
    def range_text(self) -> str:
        """Such as "at least 1" or "in [0, 1)"; empty where anything goes."""
        if self.form is not None:
            return self.form.text
        low, high = _bound(self.limits.gt, self.limits.ge), _bound(self.limits.lt, self.limits.le)
        if low is not None and high is not None:
            closing = ")" if self.limits.lt is not None else "]"
            return f"in {'(' if self.limits.gt is not None else '['}{low:g}, {high:g}{closing}"
        if low is not None:
            return f"{'above' if self.limits.gt is not None else 'at least'} {low:g}"
        if high is not None:
            return f"{'below' if self.limits.lt is not None else 'at most'} {high:g}"
        return f"one of {', '.join(self.choices)}" if self.choices else ""

    @property
    def default_text(self) -> str:
        """The default as a person writes it; empty where there is none."""
        if self.default is msgspec.NODEFAULT or self.default in (None, ()):
            return ""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def parse(self, written: str) -> Any:
        """A value from text as `--set` has it: lists with commas, `none` for None.

        Raises:
            ValueError: it is not a value of the field's type.
        """
        if self.takes_none and written.lower() == "none":
            return None
        if written in self.words:
            return self.words[written]
        if self.form is not None:
            if (found := self.form.parse(written)) is None:
                raise ValueError(self.form.text)
            return found
        if get_origin(self.kind) is tuple:
            return tuple(part for part in written.split(",") if part)
        try:
            return msgspec.convert(written, self.kind, strict=False)
        except msgspec.ValidationError:
            raise ValueError(self.range_text or _TYPE_NAMES.get(self.kind, "another value")) from None

    def read(self, written: str, key: str) -> Any:
        """`parse`, with UsageError for text that is not a value; `key` is how the message calls the field."""
        try:
            return self.parse(written)
        except ValueError as error:
            raise UsageError(f"{key} is '{written}'", hint=f"It must be {error}") from None

    def check(self, value: Any, key: str) -> None:
        """Raise UsageError for a value out of range; `key` is how the message calls the field."""
        if self.takes_none and value is None:
            return
        limits = self.limits
        if (
            (self.form is not None and self.form.parse(str(value)) is None)
            or (limits.ge is not None and not value >= limits.ge)
            or (limits.gt is not None and not value > limits.gt)
            or (limits.le is not None and not value <= limits.le)
            or (limits.lt is not None and not value < limits.lt)
            or (self.choices and value not in self.choices)
        ):
            raise UsageError(f"{key} is {value}", hint=f"It must be {self.range_text}")


@functools.cache
def list_settings(kind: type[msgspec.Struct]) -> tuple[Setting, ...]:
    """The fields of a struct of options, in order."""
    hints, texts = get_type_hints(kind, include_extras=True), _docstring_lines(kind)
    settings = []
    for field in msgspec.structs.fields(kind):
        inner, limits, takes_none = _take_apart(hints[field.name])
        settings.append(Setting(field.name, texts.get(field.name, ""), inner, field.default, takes_none, limits))
    return tuple(settings)


def check_settings(values: msgspec.Struct, *, section: str = "") -> None:
    """Raise UsageError for the first field out of its range; names the field, its value and the range."""
    for setting in list_settings(type(values)):
        value = getattr(values, setting.name)
        if setting.section is not None:
            check_settings(value, section=f"{section}{setting.name}.")
        else:
            setting.check(value, section + setting.name)


def override_settings(values: S, overrides: dict[str, str]) -> S:
    """Set fields by name from text, such as {"ema_decay": "0.999", "augment.mosaic": "0"}; ranges are not looked at.

    Raises:
        UsageError: no such field (suggests the nearest), or text that is not a value of its type.
    """
    for key, written in overrides.items():
        values = _override(values, key.split("."), written, key, type(values))
    return values


def list_keys(kind: type[msgspec.Struct], section: str = "") -> list[tuple[str, Setting]]:
    """Every field by the key that `--set` takes, those of sections last."""
    plain = [(section + setting.name, setting) for setting in list_settings(kind) if setting.section is None]
    for setting in list_settings(kind):
        if setting.section is not None:
            plain += list_keys(setting.section, f"{section}{setting.name}.")
    return plain


def _override(values: S, path: list[str], written: str, key: str, root: type[msgspec.Struct]) -> S:
    setting = next((found for found in list_settings(type(values)) if found.name == path[0]), None)
    if setting is None or (setting.section is not None) != (len(path) > 1):
        raise UnknownNameError("setting", key, [known for known, _ in list_keys(root)])
    if len(path) > 1:
        changed = _override(getattr(values, path[0]), path[1:], written, key, root)
        return msgspec.structs.replace(values, **{path[0]: changed})
    return msgspec.structs.replace(values, **{path[0]: setting.read(written, key)})


def _take_apart(hint: Any) -> tuple[Any, Meta, bool]:
    """Type without range and None, the range, and whether None is allowed."""
    takes_none = False
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not type(None))
        takes_none = True
    if get_origin(hint) is Annotated:
        inner, limits = get_args(hint)
        return inner, limits, takes_none
    return hint, Meta(), takes_none


def _bound(exclusive: float | None, inclusive: float | None) -> float | None:
    return inclusive if exclusive is None else exclusive


def _docstring_lines(kind: type) -> dict[str, str]:
    """Field -> its line under `Attributes:`, of the struct itself or of one that it extends."""
    lines: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        _, _, block = inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")
        found = re.findall(r"^    (\w+): (.*(?:\n      +.*)*)", block, flags=re.MULTILINE)
        lines |= {name: " ".join(text.split()) for name, text in found}
    return lines
