"""Tries all architectures and writes the outcomes and the page: `python -m tests.architectures.record`.

`--page` writes the page alone, from the outcomes that are recorded. Names of architectures, such as
`llama-causal`, limit it to these.
"""

import multiprocessing
import sys
import tempfile
from pathlib import Path

from tests.architectures.building import Architecture, architectures
from tests.architectures.page import PAGE, page
from tests.architectures.quiet import quiet
from tests.architectures.results import Record, recorded, write
from tests.architectures.trying import tried

PROCESSES = 2


def main(arguments: list[str]) -> None:
    """Records, then writes the page."""
    names = set(arguments) - {"--page"}
    if "--page" not in arguments:
        chosen = [each for each in architectures() if not names or str(each) in names]
        kept = recorded()["architectures"] if names else {}
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            done = pool.imap_unordered(_record, chosen, chunksize=8)
            write(kept | dict(done))
    PAGE.write_text(page(recorded()), encoding="utf-8")


def _record(architecture: Architecture) -> tuple[str, Record]:
    with quiet(), tempfile.TemporaryDirectory() as folder:
        record = tried(architecture, Path(folder) / str(architecture))
    for check, outcome in record.items():
        if outcome.startswith("wrong"):
            print(f"{architecture}: {check}: {outcome}", flush=True)
    return str(architecture), record


if __name__ == "__main__":
    main(sys.argv[1:])
