"""The demo models and their texts, as the package ships them."""

from pathlib import Path

import fusion_slerp

DEMO = Path(fusion_slerp.__file__).parent / "demo"
PLAYS, CODE = DEMO / "plays", DEMO / "code"
TEXTS = {name: DEMO / "texts" / f"{name}.txt" for name in ("plays", "code")}
