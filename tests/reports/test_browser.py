"""Reports in a real browser: they work by mouse and by keyboard, load nothing, and stay small.

    make browser

Nodes are counted rather than seconds, so that a slow machine proves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fusion_slerp.paths import utf8
from fusion_slerp.reports.data import Subject, gather
from fusion_slerp.reports.page import page
from tests.reports.conftest import DEMO
from tests.reports.made import layer_reports, write_child

pytestmark = pytest.mark.browser

WIDTHS = {"desktop": 1280, "phone": 390}


@dataclass
class Opened:
    """A page in the browser, with everything that it asked for or complained about."""

    tab: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def __call__(self, script: str, *arguments: Any) -> Any:
        return self.tab.evaluate(script, *arguments)

    @property
    def said(self) -> str:
        """What readers of screens are told."""
        return self.tab.inner_text("#said")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found)
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, demo_child, large_child, sweep_folder, search_folder) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    moe = write_child(tmp_path_factory.mktemp("moe") / "moe", list(layer_reports(48, n_experts=136)))
    subjects = {
        "child": Subject((str(demo_child),)),
        "large": Subject((str(large_child),), is_quick=True),
        "moe": Subject((str(moe),), is_quick=True),
        "sweep": Subject((str(sweep_folder),)),
        "search": Subject((str(search_folder),)),
        "three": Subject(tuple(str(DEMO / name) for name in ("plays", "code", "manual"))),
    }
    for name, subject in subjects.items():
        (folder / f"{name}.html").write_bytes(utf8(page(gather(subject))))
    return {name: folder / f"{name}.html" for name in subjects}


@pytest.fixture
def show(browser, files) -> Iterator[Any]:
    """Opens a report; at the end, nothing may have been requested or complained about."""
    pages: list[Opened] = []

    def opened(name: str, width: int = 1280, scheme: str = "light", bypass_csp: bool = False) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=bypass_csp
        )
        found = Opened(context.new_page())
        found.tab.on("request", lambda request: found.requests.append(request.url))
        found.tab.on("console", lambda message: found.messages.append(message.text))
        found.tab.on("pageerror", lambda error: found.messages.append(str(error)))
        found.tab.goto(files[name].as_uri())
        pages.append(found)
        return found

    yield opened
    for each in pages:
        assert [url for url in each.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert each.messages == []
        each.tab.context.close()


NAMES = ("child", "large", "moe", "sweep", "search", "three")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(show, name, scheme):
    axe = os.environ.get("FUSION_SLERP_AXE")
    if not axe:
        pytest.skip("FUSION_SLERP_AXE names no axe.min.js; `make browser` does")
    opened = show(name, scheme=scheme, bypass_csp=True)
    opened(Path(axe).read_text(encoding="utf-8"))
    found = opened("axe.run()")
    assert [(each["impact"], each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_the_page_fits_the_screen_and_has_few_nodes(show, name, width):
    opened = show(name, width)
    assert opened("document.documentElement.scrollWidth - innerWidth") <= 0
    assert opened("document.querySelectorAll('*').length") < 4000


def test_the_table_makes_rows_as_they_come_into_view(show):
    opened = show("moe")
    assert opened.tab.inner_text("#found") == "20,019 tensors"
    assert opened("document.querySelectorAll('#rows tr').length") < 60
    opened("document.getElementById('window').scrollTop = 1e9")
    opened.tab.wait_for_function("document.querySelector('#rows').textContent.includes('lm_head.weight')")
    assert opened("document.querySelectorAll('#rows tr').length") < 60
    last = opened(
        "[...document.querySelectorAll('#rows tr[aria-rowindex]')].at(-1).getAttribute('aria-rowindex')"
    )
    assert last == "20020"


def test_search_finds_all_words_in_any_order(show):
    opened = show("moe")
    opened.tab.fill("#search", "down_proj experts.13. layers.7")
    assert opened.tab.inner_text("#found") == "1 of 20,019 tensors"
    assert (
        opened("document.querySelector('#rows th').textContent")
        == "model.layers.7.mlp.experts.13.down_proj.weight"
    )
    opened.tab.fill("#search", "no such tensor")
    assert opened.tab.inner_text("#rows") == "Nothing found."
    opened.tab.fill("#search", "")
    opened.tab.select_option("#made", "lerp")
    made = opened("JSON.parse(document.getElementById('data').textContent).tensors['made by']")
    assert opened.tab.inner_text("#found") == f"{made.count('lerp')} of 20,019 tensors"


def column(opened: Opened, name: str) -> list[str]:
    """The cells in view of a column."""
    return opened(
        """(name) => {
          const heads = [...document.querySelectorAll('#columns th')].map((th) => th.textContent);
          const at = heads.indexOf(name);
          const rows = [...document.querySelectorAll('#rows tr:not(.spacer)')];
          return rows.map((row) => row.cells[at].textContent);
        }""",
        name,
    )


def test_headings_sort_by_keyboard_and_say_so(show):
    opened = show("child")
    button = opened.tab.get_by_role("button", name="angle a, b (°)")
    button.focus()
    opened.tab.keyboard.press("Enter")
    values = [float(text) for text in column(opened, "angle a, b (°)")]
    assert values == sorted(values, reverse=True)
    assert opened("document.querySelectorAll('th[aria-sort]').length") == 1
    assert button.locator("..").get_attribute("aria-sort") == "descending"
    opened.tab.keyboard.press("Enter")
    assert button.locator("..").get_attribute("aria-sort") == "ascending"
    opened.tab.get_by_role("button", name="name", exact=True).click()
    names = column(opened, "name")
    assert names.index("model.layers.0.mlp.up_proj.weight") < names.index("model.layers.1.mlp.up_proj.weight")


def test_arrow_keys_move_in_the_heat_map_and_say_the_numbers(show):
    opened = show("child")
    first = opened.tab.locator(".heat td").first
    first.focus()
    assert opened("document.querySelectorAll('.heat td[tabindex=\"0\"]').length") == 1
    for key in ("ArrowRight", "ArrowDown", "End"):
        opened.tab.keyboard.press(key)
    value = opened("document.activeElement.textContent")
    row = opened("document.activeElement.parentElement.firstElementChild.lastChild.textContent")
    assert opened("document.activeElement.cellIndex") == 5
    assert opened.said == f"{row}, layer 4, {value}°"
    assert opened.tab.inner_text("#tip") == f"{row}, layer 4\n{value}°"
    opened.tab.keyboard.press("Escape")
    assert not opened.tab.locator("#tip").is_visible()


def test_the_pointer_shows_the_numbers(show):
    opened = show("large")
    cell = opened.tab.locator(".heat td").nth(100)
    cell.scroll_into_view_if_needed()
    cell.hover()
    assert opened.tab.inner_text("#tip").splitlines()[0] == "k_proj, layer 20"
    assert opened("document.querySelector('#tip').textContent").endswith(f"{cell.text_content()}°")


def test_arrow_keys_read_a_chart(show):
    opened = show("sweep")
    opened.tab.locator("#sweep .plot").focus()
    for _ in range(7):
        opened.tab.keyboard.press("ArrowRight")
    assert opened.said.startswith("t = 0.6, average of the texts: 3.637 (")
    opened.tab.keyboard.press("Home")
    assert opened.said.startswith("t = 0, ")


def test_the_theme_switch_overrides_the_system(show):
    opened = show("child", scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = opened(background)
    opened.tab.click("#theme")
    assert opened.tab.inner_text("#theme") == "Theme: light"
    light = opened(background)
    opened.tab.click("#theme")
    assert (light, opened(background)) == ("rgb(255, 255, 255)", dark)


def test_the_first_tab_stop_skips_to_the_content(show):
    opened = show("child")
    opened.tab.keyboard.press("Tab")
    assert opened("document.activeElement.textContent") == "Skip to the content"
    opened.tab.keyboard.press("Enter")
    assert opened("document.activeElement.id") == "content"


def test_data_and_tables_can_be_saved(show, tmp_path):
    opened = show("child")
    with opened.tab.expect_download() as saving:
        opened.tab.click("#save-data")
    saving.value.save_as(tmp_path / "data.json")
    saved = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert saved == json.loads(
        opened.tab.inner_text("#data") or opened("document.getElementById('data').textContent")
    )
    with opened.tab.expect_download() as saving:
        opened.tab.click("#save-tensors")
    saving.value.save_as(tmp_path / "tensors.csv")
    lines = (tmp_path / "tensors.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("name,layer,made by")
    assert len(lines) == 48


def test_the_command_is_copied(show):
    opened = show("child")
    opened.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.tab.click("[data-copy=command]")
    copied = opened("navigator.clipboard.readText()")
    assert copied == "fusion_slerp merge plays code -t '[0.2, 0.8]' -o child"


def test_print_shows_every_section_and_no_controls(show, tmp_path):
    opened = show("child")
    opened("dispatchEvent(new Event('beforeprint'))")
    opened.tab.emulate_media(media="print")
    assert opened("document.querySelectorAll('#rows tr').length") == 47
    for selector in ("#theme", "#search", ".copy", ".contents", "#save-tensors"):
        assert not opened.tab.locator(selector).first.is_visible()
    sections = opened.tab.locator("section")
    assert all(sections.nth(i).is_visible() for i in range(sections.count()))
    assert opened("document.documentElement.scrollWidth - innerWidth") <= 0
    assert len(opened.tab.pdf(path=tmp_path / "report.pdf")) > 10_000
