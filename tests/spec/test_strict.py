from __future__ import annotations

import msgspec
import pytest

from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.qparams import QatRecord
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.strict import decode_json, decode_toml, encode_json


def test_unknown_key_names_the_nearest_valid_one() -> None:
    with pytest.raises(FormatError, match=r"x\.toml: .*`observr`.*Did you mean 'observer'\?"):
        decode_toml(b'title = "t"\nobservr = "max"', Recipe, where="x.toml")


def test_words_of_an_older_version_are_read() -> None:
    """A recipe and the record of a quantized model, with the keys and values of 0.1."""
    written = b'title = "adam"\n[qat]\noptimizer = "adam"\nfinal_lr_factor = 0.3'
    recipe = decode_toml(written, Recipe, where="x.toml")
    assert recipe.title == "adam"
    assert (recipe.qat.optimizer, recipe.qat.final_learning_rate_factor) == ("adamw", 0.3)
    as_json = b'{"recipe": {"optimizer": "adam", "final_lr_factor": 0.3}, "best_epoch": 1, "ap_start": 0, "ap_best": 1}'
    assert decode_json(as_json, QatRecord, where="qparams.json").recipe == recipe.qat
    with pytest.raises(FormatError, match=r"`final_lr_facto`.*Did you mean 'final_learning_rate_factor'\?"):
        decode_toml(b'title = "t"\n[qat]\nfinal_lr_facto = 0.3', Recipe, where="x.toml")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'{"title": 3}', b"[" * 100_000])
def test_broken_json_is_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError, match=r"^somewhere: "):
        decode_json(raw, Recipe, where="somewhere")


def test_json_round_trip() -> None:
    recipe = Recipe(title="t", float_layers=("a.*",))
    assert decode_json(encode_json(recipe), Recipe, where="memory") == recipe
    assert msgspec.json.decode(encode_json(recipe))["float_layers"] == ["a.*"]
