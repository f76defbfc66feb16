"""The page: every number with how it came about, nothing from elsewhere, and nothing that files say is run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import many_boards
import msgspec
import pytest

from edgeyolo import verbs
from edgeyolo.report.scoreboard import SideBySide, write_page
from edgeyolo.spec.scoreboard import ReportOptions, Scoreboard

NASTY = "</script><script>window.hacked = 1</script><img src=x onerror='hacked = 2'>\"'{{ 7 * 7 }}&lt;"
# Words that a file may not choose freely.
KEPT = ("measured", "simulated", "counted", "estimated", "published", "AP", "bytes", "ms", "network ms", "instructions")
KEPT += ("int8", "fp16", "mixed", "fp32", "float", "runs")
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order; keeps tags, attributes and the text of tables."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = dict(attrs).get("id") or f"table {len(self.tables)}"
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[self._table][-1][-1] += f"{data.strip()} " if data.strip() else ""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Scoreboard:
    """Of figures of every kind."""
    folder = tmp_path_factory.mktemp("sources")
    options = ReportOptions(out=folder / "page.html")
    return verbs.report(many_boards.write_sources(folder), options).board


def make_page(board: Scoreboard, folder: Path, *pictures: SideBySide) -> tuple[str, Page]:
    write_page(folder / "page.html", board, pictures)
    text = (folder / "page.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_every_number_says_how_it_came_about(board: Scoreboard, tmp_path: Path) -> None:
    """In the table: accuracy and times of each kind are as many as in the data, each with its own mark and word."""
    _, page = make_page(board, tmp_path)
    cells = [cell for row in page.tables["rows"][1:] for cell in row]
    said = Counter(word for cell in cells for word in cell.split() if word in ("simulated", "estimated", "published"))
    figures = Counter(figure.kind for row in board.rows for figure in (row.ap, *row.costs) if figure)
    losses = Counter(row.ap.kind for row in board.rows if row.ap and row.ap_float)
    for kind in ("simulated", "estimated", "published"):
        assert said[kind] == figures[kind] + losses[kind] > 0
    marks = {values["id"] for tag, values in page.tags if tag == "symbol"}
    assert marks == {f"m-{kind}" for kind in ("measured", "simulated", "counted", "estimated", "published")}
    (tiny,) = [row for row in page.tables["rows"] if "raspberry-pi-3" in row[0]]
    assert "410 estimated 293 to 574" in tiny[5] and "53.99 measured" in tiny[2] and "0.31 measured" in tiny[3]


def test_runs_have_stages_conditions_and_layers(board: Scoreboard, tmp_path: Path) -> None:
    text, page = make_page(board, tmp_path)
    flat = " ".join(text.split())
    assert "<b>90 % of the time</b> is int8" in flat and "int8: 9 layers" in flat and "fp32 to int8" in flat
    hot = next(
        row for table in page.tables.values() for row in table if any("temperature limit" in cell for cell in row)
    )
    said = [cell.strip() for cell in hot[1:7]]
    assert said == ["48 to 84 °C", "2400 to 1100 MHz", "612 MHz", "ondemand", "118 MiB", "VDD_IN 5.1 W, 1.77 J a call"]
    widths = [float(width) for width in re.findall(r'class="s-\w+" style="width: ([\d.]+)%"', text)]
    assert len(widths) == 2 * 3 * len(board.runs) and max(
        sum(widths[i : i + 3]) for i in range(0, len(widths), 3)
    ) == pytest.approx(100, abs=0.02)


def test_where_it_comes_from_is_told_once_for_each_artefact(board: Scoreboard, tmp_path: Path) -> None:
    _, page = make_page(board, tmp_path)
    made = page.tables["made"][1:]
    tiny = next(row for row in made if "tiny.eyb" in row[5])
    assert tiny[1].strip() == "own weights" and "bccd, test: 72 pictures" in tiny[2]
    assert "2026-11-27 edgeyolo 0.2.0" in tiny[3] and tiny[4].strip() == board.rows[0].sha256[:12]
    targets = {(values.get("id") or "") for tag, values in page.tags if tag == "span"}
    links = {(values.get("href") or "")[1:] for tag, values in page.tags if tag == "a" and values["href"] != "#rows"}
    assert links and links <= targets


def test_the_page_asks_for_nothing_and_runs_its_own_script_only(board: Scoreboard, tmp_path: Path) -> None:
    picture = SideBySide("float beside int8", "cell.jpg: 3 objects in both", b"\xff\xd8\xff\xd9")
    text, page = make_page(board, tmp_path, picture)
    places = [value or "" for _, values in page.tags for key, value in values.items() if key in ("src", "href")]
    assert {place.split(",")[0].split("-")[0] for place in places} <= {
        "data:image/jpeg;base64",
        "data:",
        "#made",
        "#rows",
        "#m",
    }
    assert not re.search(r"url\(|@import|https?:", text)
    assert not any(key.startswith("on") for _, values in page.tags for key in values)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [values["content"] for tag, values in page.tags if tag == "meta" and "http-equiv" in values]
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def poison(value: Any) -> Any:
    """With every text that a file may choose freely replaced."""
    if value in KEPT:
        return value
    if isinstance(value, dict):
        return {key: poison(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [poison(item) for item in value]
    return f"{value}{NASTY}" if isinstance(value, str) else value


def test_what_files_say_is_text(board: Scoreboard, tmp_path: Path) -> None:
    """Names that close tags and open scripts are shown as they are; the page has the tags that it has without them."""
    poisoned = msgspec.convert(poison(msgspec.to_builtins(board)), Scoreboard)
    _, plain = make_page(board, tmp_path, SideBySide("a", "b", b""))
    text, page = make_page(poisoned, tmp_path, SideBySide(NASTY, NASTY, b""))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert [tag for tag, _ in page.tags].count("script") == 1 and "{{ 7 * 7 }}" in text
    assert not any(key.startswith("on") for _, values in page.tags for key in values)
    assert any(NASTY in (values.get("alt") or "") for tag, values in page.tags if tag == "img")


def test_an_empty_board_is_a_page(tmp_path: Path) -> None:
    empty = Scoreboard(title="Nothing", created="2026-11-28T00:00:00+00:00", rows=())
    text, page = make_page(empty, tmp_path)
    assert "0 artefacts of 0 models." in text and len(page.tables["rows"]) == 1
