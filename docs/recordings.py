"""Records what the command prints as pictures for docs/command.md: real runs in a pseudo-terminal.

    make recordings

The models are those of the demo, in a folder of their own as `plays` and `code`. Times and free space are
those of the machine it runs on.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pexpect
from rich.console import Console
from rich.text import Text

from fusion_slerp import merge

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "fusion_slerp" / "demo"
IMAGES = ROOT / "docs" / "images"
COLUMNS = 104

_NOT_STYLE = re.compile(r"\x1b\[[?\d;]*[a-ln-zA-Z]|\x1b[=>]|\x07")
"""Control sequences that move or switch something; those that end in `m` are styles and stay."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One picture.

    Attributes:
        name: Of the file.
        commands: The lines that are run, one after the other.
        answers: What is typed at the questions of the last one: the end of a question, and the answer.
    """

    name: str
    commands: tuple[str, ...]
    answers: tuple[tuple[str, str], ...] = ()


RECORDINGS = (
    Recording("merge", ("fusion_slerp merge plays code -t 0.3 -o child",)),
    Recording("plan", ("fusion_slerp plan plays code -t '[0.2, 0.8]' -o child",)),
    Recording(
        "verify",
        ("fusion_slerp verify merged --inputs --recompute 5", "fusion_slerp verify damaged"),
    ),
    Recording("inspect", ("fusion_slerp inspect plays code",)),
    Recording("convert", ("fusion_slerp convert recipe.yml",)),
    Recording("error", ("fusion_slerp plan plays wide",)),
    Recording("help", ("fusion_slerp --help",)),
    Recording(
        "questions",
        ("fusion_slerp",),
        (
            ("list [slerp]: ", ""),
            ("(t = 0): ", "plays"),
            ("(t = 1): ", "cod"),
            ("[y/N] ", "n"),
            ("(t = 1): ", "code"),
            ("-slerp]: ", "child"),
            ("[0.5]: ", "1.3"),
            ("[0.5]: ", "0.3"),
            ("[Y/n] ", "y"),
        ),
    ),
)

RECIPE = """\
merge_method: slerp
base_model: plays
slices:
  - sources:
      - {model: plays, layer_range: [0, 5]}
      - {model: code, layer_range: [0, 5]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 1]}
    - value: 0.5
dtype: bfloat16
"""


def main() -> None:
    """Records all of them, or those named on the command line."""
    IMAGES.mkdir(exist_ok=True)
    for recording in RECORDINGS:
        if not sys.argv[1:] or recording.name in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder))
                save(recording, Path(folder))


def prepare(folder: Path) -> None:
    """Makes what the commands name: models, a misfit, a merged model, a damaged one, a recipe."""
    for name in ("plays", "code"):
        (folder / name).symlink_to(DEMO / name)
    shutil.copytree(DEMO / "code", folder / "wide")
    config = json.loads((folder / "wide/config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 320, "num_attention_heads": 10}
    (folder / "wide/config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "recipe.yml").write_text(RECIPE, encoding="utf-8")
    merge(folder / "plays", folder / "code", t=0.3, out=folder / "merged")
    shutil.copytree(folder / "merged", folder / "damaged")
    with (folder / "damaged/model.safetensors").open("r+b") as stream:
        stream.seek(1_000_000)
        (byte,) = stream.read(1)
        stream.seek(1_000_000)
        stream.write(bytes([byte ^ 1]))


def save(recording: Recording, folder: Path) -> None:
    """Runs the commands and writes the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for number, line in enumerate(recording.commands, start=1):
        answers = recording.answers if number == len(recording.commands) else ()
        console.print(Text.assemble(("$ ", "bold green"), line))
        console.print(Text.from_ansi(run(line, answers, folder)))
    console.print()  # the picture cuts off what hangs below the last line
    file = IMAGES / f"command-{recording.name}.svg"
    console.save_svg(str(file), title="fusion_slerp", unique_id=f"command-{recording.name}")
    print(file.relative_to(ROOT))


def run(line: str, answers: tuple[tuple[str, str], ...], folder: Path) -> str:
    """Returns what a terminal would show of a command in the end."""
    words = shlex.split(line)[1:]
    screen = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    env = {**os.environ, **screen, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env = {k: v for k, v in env.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    env["XDG_STATE_HOME"] = str(folder / ".state")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "fusion_slerp", *words],
        cwd=str(folder),
        env=env,
        encoding="utf-8",
        dimensions=(60, COLUMNS),
        timeout=60,
    )
    shown = ""
    for question, answer in answers:
        child.expect_exact(question)
        shown += child.before + child.after
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    text = re.sub(r"measuring [^\n]*\n", "", shown + child.before)  # is wiped out when it is done
    lines = _NOT_STYLE.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(each.rstrip("\r").rpartition("\r")[2] for each in lines).rstrip()


if __name__ == "__main__":
    main()
