"""Every code block in README and docs runs as pasted, in order, from an empty folder, or says why not.

A comment right above a block, `<!-- not run: REASON -->`, leaves it out. See `run_blocks` for how they run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fusion_bench_commands import HOST_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
RUN = ("bash", "python")
SHOWN = ("text", "yaml", "json", "ini", "")
"""Languages of blocks that show something: output and configurations."""

BLOCK = re.compile(
    r"(?P<comment><!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[a-z]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            found["language"],
            "".join(line.removeprefix(found["indent"]) for line in found["code"].splitlines(keepends=True)),
            text[: found.start("code")].count("\n") + 1,
            found["reason"],
        )
        for found in BLOCK.finditer(text)
    ]


def runs(page: str) -> list[Block]:
    return [block for block in blocks_of(page) if block.language in RUN and block.reason is None]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_and_every_reason_is_given(page):
    for block in blocks_of(page):
        assert block.language in (*RUN, *SHOWN), f"{page}:{block.line}"
        assert block.reason is None or (block.language in RUN and len(block.reason) > 8), (
            f"{page}:{block.line}"
        )


def test_pages_have_blocks_that_run():
    assert sum(len(runs(page)) for page in PAGES) > 60


@pytest.mark.host
@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_blocks_run_from_an_empty_folder(page, tmp_path):
    here, state = tmp_path / "here", tmp_path / "state"
    here.mkdir()
    state.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
        **HOST_SETTINGS,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_STATE_HOME": str(state),
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests/pages/run_blocks.py", state],
        input=json.dumps([[f"{page}:{b.line}", b.language, b.code] for b in runs(page)]),
        cwd=here,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
