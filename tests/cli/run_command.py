"""The command as a process of its own: `python tests/cli/run_command.py merge ...`."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

if importlib.util.find_spec("fusion_slerp.recipes") is None:
    from tests.cli import stand_in_recipes

    sys.modules["fusion_slerp.recipes"] = stand_in_recipes

from fusion_slerp.cli import main

main()
