"""JSON in pieces, against json of the standard library, for windows of every width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.data import json_stream
from edgeyolo.data.json_stream import list_pieces

TRICKY = {
    "info": {"a": [{"b": "}, {"}, {}], "c": "]}"},
    "images": [{"x": '"},{"'}, {"x": "\\"}, {"x": '\\"}], [{'}, {"y": [{}, {"z": [[]]}]}],
    "none": [],
    "numbers": [1, 2.5, None, "a", [1], {}],
    "year": 2026,
    "ok": True,
    "text": 'a "quoted", text}',
    "ünï": [{"ö": "日本"}] * 3,
}


def put_together(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, piece in list_pieces(path):
        value = json.loads(piece)
        found[key] = found[key] + value if key in found else value
    return found


@pytest.mark.parametrize("window", [1, 2, 3, 7, 16, 50, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_pieces_put_together_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, style: dict[str, Any]
) -> None:
    monkeypatch.setattr(json_stream, "_WINDOW_BYTES", window)
    path = tmp_path / "a.json"
    path.write_text(" \n" + json.dumps(TRICKY, **style) + "\n", encoding="utf-8")
    assert put_together(path) == TRICKY


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_other_encodings_that_json_may_have(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(TRICKY, ensure_ascii=False), encoding=encoding)
    assert put_together(path) == TRICKY


def test_a_long_list_comes_in_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_WINDOW_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [{"id": i} for i in range(1000)]}))
    pieces = [piece for _, piece in list_pieces(path)]
    assert len(pieces) > 9 and max(map(len, pieces)) <= 1002
    assert [row["id"] for piece in pieces for row in json.loads(piece)] == list(range(1000))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_off_or_altered_is_read_as_json_reads_it_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(json.dumps(TRICKY).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        del raw[at:]
    else:
        raw[at] = data.draw(st.sampled_from(b'{}[]",:\\a1 '))
    path = tmp_path_factory.getbasetemp() / "altered.json"
    path.write_bytes(raw)
    try:
        found = put_together(path)
    except ValueError:
        with pytest.raises(ValueError):
            json.loads(raw)
        return
    assert found == json.loads(raw)
