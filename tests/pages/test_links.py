"""Links between README, docs and the files of the repository lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

slugify = pytest.importorskip("markdown.extensions.toc").slugify

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "fusion_slerp/demo/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)


def links_of(page: str) -> list[str]:
    text = FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    found = [one or other for one, other in LINK.findall(text)]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(file: Path) -> set[str]:
    text = FENCED.sub("", file.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    given = re.findall(r"\{ ?#([\w.-]+)|<a id=\"([\w.-]+)\"", text)
    plain = (re.sub(r"[`*]|\{.*?\}|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {slugify(heading, "-") for heading in plain} | {one or other for one, other in given}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {link}"
        if anchor and file.suffix == ".md" and file.name != "reference.md":  # its headings come from the code
            assert anchor in anchors_of(file), f"{page}: {link}"


def test_there_are_links():
    assert sum(len(links_of(page)) for page in PAGES) > 100


def test_every_page_is_in_the_navigation_and_in_the_readme():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"[ :]{re.escape(page.name)}$", navigation, re.MULTILINE), page.name
        assert page.name == "index.md" or f"docs/{page.name}" in links_of("README.md"), page.name
