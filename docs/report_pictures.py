"""Takes the pictures of docs/report.md: reports on real runs of the demo models, in a browser.

    make browser  # once, for Playwright
    .venv-test/bin/python docs/report_pictures.py

The merge is evaluated on held-out text, and t is swept, which takes some minutes on two cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"

TEXTS = ("--text", "plays=texts/plays.txt", "--text", "code=texts/code.txt")

COMMANDS = (
    ("demo",),
    ("merge", "plays", "code", "-t", "0.5", "-o", "child"),
    ("evaluate", "child", "plays", "code", *TEXTS, "-o", "child"),
    ("report", "child"),
    ("sweep", "plays", "code", "-t", "0:1:0.1", *TEXTS, "-o", "sweep-of-t"),
    ("report", "sweep-of-t"),
)

PICTURES = (
    ("report-child", "child-report.html", "#angles", 575),
    ("report-sweep", "sweep-of-t-report.html", "#sweep", 638),
)
"""Names of the pictures, and the part of the page that each shows: its section, and its height in pixels."""

WIDTH = 920


def main() -> None:
    """Runs the commands in a folder of their own, and takes the pictures of their reports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in COMMANDS:
            subprocess.run(
                [sys.executable, "-m", "fusion_slerp", *words], cwd=folder, check=True, env=_surroundings()
            )
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
            for picture, file, section, height in PICTURES:
                _take(browser, folder / file, section, height, IMAGES / f"{picture}.png")
            browser.close()


def _surroundings() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


def _take(browser: Any, page: Path, section: str, height: int, picture: Path) -> None:
    """Takes a picture of a section, from its heading down."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": height})
    tab.goto(page.as_uri())
    tab.add_style_tag(content=".contents{display:none} html{scroll-behavior:auto;scroll-padding:0}")
    tab.locator(section).evaluate("section => section.scrollIntoView()")
    tab.screenshot(path=picture)
    tab.close()


if __name__ == "__main__":
    main()
