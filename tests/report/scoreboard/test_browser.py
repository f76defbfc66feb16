"""The page in a real Chromium: on a phone and on a screen, light and dark, by keyboard alone, checked by axe-core.

EDGEYOLO_REQUIRE_BROWSER=1 makes the absence of Chromium or of axe-core a failure instead of a skip, as CI has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import many_boards
import pytest
from browser import Browser, find_browser

from edgeyolo import verbs
from edgeyolo.report.scoreboard import SideBySide, write_page
from edgeyolo.spec.scoreboard import ReportOptions

WIDTHS = (390, 1280)  # of a phone and of a screen, pixels
SETUP = Path(__file__).parents[1] / "setup_axe.py"
REDUCED = "matchMedia('(prefers-reduced-motion: reduce)').matches"
SHOWN = "[...document.querySelectorAll('#rows tbody tr:not([hidden])')]"
AXE = """
(async () => {
  const found = await axe.run(document, {resultTypes: ['violations']});
  return found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).slice(0, 3).join(' ')}`);
})()
"""


def lacking(reason: str) -> None:
    assert os.environ.get("EDGEYOLO_REQUIRE_BROWSER") != "1", reason
    pytest.skip(reason)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything that a page can have."""
    folder = tmp_path_factory.mktemp("page")
    sources = many_boards.write_sources(folder)
    board = verbs.report(sources, ReportOptions(out=folder / "page.html", title="Blood cells")).board
    pixel = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")
    write_page(folder / "page.html", board, [SideBySide("float beside int8", "cell.jpg: 3 objects in both", pixel)])
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        lacking("no Chromium is installed")
    with Browser(str(program), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def axe() -> str:
    done = subprocess.run([sys.executable, SETUP, "--where"], capture_output=True, text=True, check=False)
    if done.returncode:
        lacking(done.stderr.strip())
    return Path(done.stdout.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_a_word(width: int, scheme: str, page: Path, browser: Browser) -> None:
    """No error, no request; nothing stands beside the window, and marks are as large as letters wherever they are."""
    browser.open(page, width=width, scheme=scheme)
    for is_open in ("false", "true"):
        browser.run(f"document.querySelectorAll('details').forEach((one) => {{ one.open = {is_open}; }})")
        assert browser.run("document.documentElement.scrollWidth") <= width
    widths = "[...document.querySelectorAll('.mark')].map((one) => one.getBoundingClientRect().width)"
    assert 5 < browser.run(f"Math.max(...{widths})") <= 12
    assert (browser.errors, browser.requests) == ([], [])


@pytest.mark.parametrize(("width", "scheme"), [*zip(WIDTHS, ("dark", "light"), strict=True)])
def test_it_keeps_nobody_out(width: int, scheme: str, page: Path, browser: Browser, axe: str) -> None:
    """Axe-core finds nothing: contrast, names, headings of tables, landmarks and what else it looks at."""
    browser.open(page, width=width, scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.run(axe)
    assert browser.run(AXE) == []


def test_a_screen_reader_finds_its_way(page: Path, browser: Browser) -> None:
    """Landmarks, headings, charts with names, and in the table how each number came about."""
    browser.open(page, width=1280)
    tree = browser.tree()
    assert {"banner", "main", "search", "contentinfo", "status"} <= {role for role, _ in tree}
    assert ("heading", "Blood cells") in tree and ("heading", "Accuracy against latency") in tree
    assert any(name == "AP over the whole call on bccd test" for role, name in tree if role in ("image", "img"))
    assert ("columnheader", "AP") in tree and ("cell", "57.00 simulated") in tree


def test_it_is_sorted_by_keyboard(page: Path, browser: Browser) -> None:
    """A heading is reached with the tab key, shows that it is there, and sorts; rows without a number come last."""
    browser.open(page, width=1280)
    for _ in range(40):
        browser.press("Tab")
        if browser.run("document.activeElement.textContent.trim()") == "AP":
            break
    assert browser.run("document.activeElement.tagName") == "BUTTON"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    unsorted = values_of(browser, "AP")
    known = [value for value in unsorted if value is not None]
    for key, order, is_falling in (("Enter", "ascending", False), (" ", "descending", True)):
        browser.press(key)
        assert browser.run("document.activeElement.closest('th').getAttribute('aria-sort')") == order
        last = [None] * (len(unsorted) - len(known))
        assert values_of(browser, "AP") == sorted(known, reverse=is_falling) + last
        assert browser.run("document.getElementById('status').textContent").endswith(f"by AP, {order}")
    assert browser.run("document.querySelectorAll('#rows [aria-sort]:not([aria-sort=none])').length") == 1
    browser.run("[...document.querySelectorAll('#rows thead button')].find((b) => b.textContent === 'Model').click()")
    models = browser.run(f"{SHOWN}.map((row) => row.cells[0].dataset.value)")
    assert models == sorted(models)


def values_of(browser: Browser, heading: str) -> list[float | None]:
    """Of a column, from the top."""
    cell = f"[...document.querySelectorAll('#rows th button')].findIndex((b) => b.textContent.trim() === '{heading}')"
    found: list[Any] = browser.run(f"{SHOWN}.map((row) => row.cells[{cell}].dataset.value ?? null)")
    return [None if value is None else float(value) for value in found]


def test_kinds_of_numbers_are_left_out_by_keyboard(page: Path, browser: Browser) -> None:
    """Without what is measured, no measured number is seen, in the table or the chart; all of it comes back."""
    browser.open(page, width=390)
    whole = count(browser)
    browser.press("Tab", 2)
    assert browser.run("document.activeElement.value") == "measured"
    browser.press(" ")
    left = count(browser)
    assert left["rows"] < whole["rows"] and left["measured"] == 0 < whole["measured"]
    assert left["estimated"] == whole["estimated"] > 0 and left["published"] == whole["published"] > 0
    assert 0 < left["points"] < whole["points"]
    browser.press(" ")
    assert count(browser) == whole


def count(browser: Browser) -> dict[str, int]:
    """What can be seen of the table, and of the charts, whichever is shown."""
    script = f"""(() => {{
      const seen = (kind) => {SHOWN}.flatMap((row) => [...row.querySelectorAll(`.fig[data-kind=${{kind}}]`)])
        .filter((one) => getComputedStyle(one).visibility === 'visible').length;
      return {{rows: {SHOWN}.length, points: document.querySelectorAll('.chart .point:not([hidden])').length,
        measured: seen('measured'), estimated: seen('estimated'), published: seen('published')}};
    }})()"""
    found: dict[str, int] = browser.run(script)
    return found


def test_words_and_devices_are_looked_for(page: Path, browser: Browser) -> None:
    browser.open(page, width=1280)
    browser.run("document.getElementById('search').focus()")
    browser.type("NANO mixed")
    assert browser.run(f"{SHOWN}.map((row) => row.cells[0].dataset.value)") == ["yolov7-nano"] * 3
    browser.run("(search => { search.value = ''; search.dispatchEvent(new Event('input')); })(document.activeElement)")
    browser.run("document.querySelector('select[name=device]').focus()")
    browser.press("ArrowDown")
    device = browser.run("document.activeElement.value")
    shown = browser.run(f"{SHOWN}.map((row) => row.dataset.device)")
    assert device and set(shown) == {device}
    keys = browser.run("[...document.querySelectorAll('.chart .point:not([hidden])')].map((one) => one.dataset.key)")
    assert all(key.endswith(f"|{device}") for key in keys)


def test_the_front_is_of_what_is_shown(page: Path, browser: Browser) -> None:
    """What the page draws anew is what it was written with; without a point of the front, others are on it."""
    written = page.read_text(encoding="utf-8")
    browser.open(page, width=1280)
    drawn = browser.run("[...document.querySelectorAll('.front')].map((one) => one.getAttribute('d'))")
    assert drawn and all(f'd="{path}"' in written for path in drawn)
    rings = browser.run("document.querySelectorAll('.on-front').length")
    assert rings == written.count(" on-front")
    tiny = "document.querySelector('select[name=model]').value = 'yolov7-tiny'"
    browser.run(f"{tiny}; document.querySelector('select[name=model]').dispatchEvent(new Event('input'))")
    titles = "document.querySelectorAll('.wide .on-front:not([hidden]) title')"
    names = browser.run(f"[...{titles}].map((one) => one.textContent)")
    assert names and all(name.startswith("yolov7-tiny") for name in names)


def test_the_other_latency_is_chosen_by_keyboard(page: Path, browser: Browser) -> None:
    browser.open(page, width=1280)
    units = "[...document.querySelectorAll('.chart:not([hidden])')].map((one) => one.dataset.unit)"
    assert set(browser.run(units)) == {"ms"}
    browser.run("document.querySelector('input[name=unit]').focus()")
    browser.press("ArrowRight")
    assert set(browser.run(units)) == {"network ms"}


def test_nothing_moves_for_those_who_do_not_want_it(page: Path, browser: Browser) -> None:
    browser.open(page, width=1280, motion="reduce")
    assert browser.run(REDUCED)
    durations = "[...document.querySelectorAll('*')].map((one) => getComputedStyle(one).transitionDuration)"
    assert browser.run(f"[...new Set({durations})]") == ["0s"]
