"""Records the results of the current code for every case: `python -m tests.same_bytes.record`.

Run it when bytes are meant to change, never because a test fails. The file then lists the cases that
changed under the current rules of arithmetic.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fusion_slerp.planning.rules import RULES
from tests.same_bytes.case import run_case
from tests.same_bytes.cases import CASES

DIGESTS = Path(__file__).with_name("digests.json")


def recorded() -> dict[str, Any]:
    """The digests of every case, by name."""
    return json.loads(DIGESTS.read_text(encoding="utf-8"))["cases"]


def _made_by() -> dict[str, str]:
    """The last commit of the package, and the machine's C library, which provides sine and arccosine."""
    command = ["git", "log", "-1", "--format=%h", "--", "fusion_slerp"]
    done = subprocess.run(command, cwd=DIGESTS.parent.parents[1], capture_output=True, text=True, check=True)
    return {
        "commit": done.stdout.strip(),
        "machine": platform.machine(),
        "c_library": " ".join(platform.libc_ver()),
        "system": platform.system(),
    }


def _changed_since(former: dict[str, Any], found: dict[str, Any]) -> dict[str, list[str]]:
    """Names of the cases that changed, by the rules under which they did, with those of this run."""
    changed = former["made_by"].get("changed_since", {})
    here = {name for name in former["cases"].keys() & found.keys() if former["cases"][name] != found[name]}
    rules = f"rules {RULES}"
    names = sorted(here.union(changed.get(rules, ())))
    return {**changed, rules: names} if names else changed


def main() -> None:
    """Runs all cases and writes their digests."""
    former = json.loads(DIGESTS.read_text(encoding="utf-8"))
    found = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run_case(case, Path(folder))
    made_by = {**_made_by(), "changed_since": _changed_since(former, found)}
    content = {"made_by": made_by, "cases": found}
    DIGESTS.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(found)} cases recorded in {DIGESTS.name}")


if __name__ == "__main__":
    main()
