from __future__ import annotations

import msgspec
import pytest

from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.strict import decode_json, decode_toml, encode_json


def test_unknown_key_names_the_nearest_valid_one() -> None:
    with pytest.raises(FormatError, match=r"x\.toml: .*`observr`.*Did you mean 'observer'\?"):
        decode_toml(b'title = "t"\nobservr = "max"', Recipe, where="x.toml")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'{"title": 3}', b"[" * 100_000])
def test_broken_json_is_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError, match=r"^somewhere: "):
        decode_json(raw, Recipe, where="somewhere")


def test_json_round_trip() -> None:
    recipe = Recipe(title="t", float_layers=("a.*",))
    assert decode_json(encode_json(recipe), Recipe, where="memory") == recipe
    assert msgspec.json.decode(encode_json(recipe))["float_layers"] == ["a.*"]
