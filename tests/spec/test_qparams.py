from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.qparams import (
    CalibrationRecord,
    LayerPrecision,
    QParams,
    TensorGroup,
    WeightScales,
    load_qparams,
    save_qparams,
)


def make_qparams() -> QParams:
    return QParams(
        onnx_sha256="0" * 64,
        groups={"g0": TensorGroup(tensors=("images",), scale=1 / 127, how="max")},
        weights={"conv.weight": WeightScales(scales=(0.01, 0.02), how="max")},
        layers={"conv": LayerPrecision(precision="int8", weight="conv.weight", group="g0")},
        calibration=CalibrationRecord(recipe="int8-max", method="ptq", count=1, seed=0, pictures={"a": "f" * 64}),
    )


def test_round_trip(tmp_path: Path) -> None:
    save_qparams(make_qparams(), tmp_path / "qparams.json")
    assert load_qparams(tmp_path / "qparams.json") == make_qparams()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "newer"),
        ({"groups": {}}, "group or weight is not listed"),
        ({"weights": {}}, "group or weight is not listed"),
        ({"groups": {"g0": TensorGroup(tensors=(), scale=0.0, how="max")}}, "not a positive finite number"),
        ({"weights": {"conv.weight": WeightScales(scales=(), how="max")}}, "not a positive finite number"),
    ],
)
def test_what_does_not_hold_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_qparams(msgspec.structs.replace(make_qparams(), **change), tmp_path / "qparams.json")
    with pytest.raises(FormatError, match=message):
        load_qparams(tmp_path / "qparams.json")


def test_absent_file_is_a_format_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        load_qparams(tmp_path / "qparams.json")
