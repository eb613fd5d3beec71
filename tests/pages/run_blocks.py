"""Runs blocks of code one after the other, as a reader would in one terminal and one Python session.

    python tests/pages/run_blocks.py FOLDER < blocks.json

`blocks.json` is a list of [where, language, code]. The folder keeps the terminal's state between the blocks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

BASH = """
set -euo pipefail
if [ -f "{state}" ]; then source "{state}"; fi
set -a
{code}
set +a
export -p > "{state}"
pwd > "{here}"
"""


def main(folder: Path) -> None:
    """Runs all blocks; the first that fails ends the program."""
    state, here, names = folder / "state", folder / "here", {"__name__": "__main__"}
    for where, language, code in json.load(sys.stdin):
        print(f"--- {where}", flush=True)
        if language == "bash":
            script = BASH.format(state=state, here=here, code=code)
            if subprocess.run(["bash", "-c", script], stdin=subprocess.DEVNULL, check=False).returncode:
                sys.exit(f"{where} failed")
            os.chdir(here.read_text().rstrip("\n"))
        else:
            exec(compile(code, where, "exec"), names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
