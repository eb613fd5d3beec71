"""A merge of the demo models, tuned by DPO on the pairs that ship, judged, and merged again: docs/dpo.md.

Runs where TRL is installed: `make dpo`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fusion_slerp
from tests.models import contents

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(fusion_slerp.__file__).parent / "demo"
EXAMPLE = ROOT / "examples/dpo"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install 'fusion-slerp[dpo]'"),
]

TUNE_AND_JUDGE = """
import json, sys
from pathlib import Path

import judge, torch, tune

torch.set_num_threads(1)
child, tuned, result = map(Path, sys.argv[1:])
log = tune.tune(child, tune.HERE / "train.jsonl", tuned, tune.LEARNING_RATE)
pairs = judge.read_pairs(judge.HERE / "held_out.jsonl")
before, after = judge.judge(child, pairs), judge.judge(tuned, pairs)
result.write_text(json.dumps({
    "losses": [entry["loss"] for entry in log],
    "margins": after.margins(before),
    "before": before.per_token(),
    "after": after.per_token(),
}))
"""


def run(*arguments: object) -> str:
    """Runs Python with the example's scripts importable; returns what it prints."""
    paths = os.pathsep.join([str(EXAMPLE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the merged model, `child`."""
    folder = tmp_path_factory.mktemp("dpo")
    fusion_slerp.merge(DEMO / "plays", DEMO / "code", t=0.5, out=folder / "child")
    return folder


@pytest.fixture(scope="module")
def result(folder) -> dict:
    """What the run reports; the tuned model is in `folder / "tuned"`."""
    run("-c", TUNE_AND_JUDGE, folder / "child", folder / "tuned", folder / "result.json")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_the_first_loss_is_ln_2_and_the_last_is_far_below(result):
    assert result["losses"][0] == pytest.approx(math.log(2), abs=1e-5)
    assert sum(result["losses"][-6:]) / 6 < 0.5 * math.log(2)


def test_the_reward_margin_rises_on_pairs_that_were_not_trained_on(result):
    margins = result["margins"]
    assert len(margins) == 64
    assert sum(margins) / len(margins) > 1
    assert sum(margin > 0 for margin in margins) >= 60


def test_neither_text_collapses(result):
    (chosen, rejected), (chosen_after, rejected_after) = result["before"], result["after"]
    assert chosen_after > chosen - 0.05
    assert rejected - 1 < rejected_after < rejected - 0.2
    assert rejected_after > chosen_after  # still what the model finds likelier by itself


def test_the_result_has_the_files_of_the_child_and_no_pickle(result, folder):
    child, tuned = contents(folder / "child"), contents(folder / "tuned")
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert set(tuned) == {"config.json", "generation_config.json", "model.safetensors", *tokenizer}
    assert {name for name in tuned if tuned[name] != child[name]} == {"model.safetensors"}
    assert len(tuned["model.safetensors"]) < 1.01 * len(child["model.safetensors"])


def test_the_result_loads_with_transformers_and_writes(result, folder):
    code = (
        "import sys\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('def add(a, b):', return_tensors='pt')['input_ids']\n"
        "written = model.generate(ids, max_new_tokens=20)[0]\n"
        "print(sorted(report['missing_keys']), model.dtype, len(tokenizer.decode(written)) > 20)\n"
    )
    assert run("-c", code, folder / "tuned").splitlines()[-1] == "[] torch.bfloat16 True"


def test_the_result_is_a_parent_again(result, folder):
    fusion_slerp.merge(folder / "tuned", DEMO / "plays", t=0.3, out=folder / "grandchild")
    assert fusion_slerp.verify(folder / "grandchild").ok
    fusion_slerp.merge(folder / "child", folder / "tuned", t=0.5, out=folder / "halfway")
    assert fusion_slerp.verify(folder / "halfway").ok


def test_a_reference_that_is_not_the_child_is_an_error(folder):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import trl, tune\n"
        "from transformers import AutoModelForCausalLM\n"
        "class OtherReference(trl.DPOTrainer):\n"
        "    def __init__(self, **arguments):\n"
        "        other = AutoModelForCausalLM.from_pretrained(sys.argv[3], dtype='float32')\n"
        "        arguments['args'].max_steps = 1\n"
        "        super().__init__(ref_model=other, **arguments)\n"
        "tune.DPOTrainer = OtherReference\n"
        "try:\n"
        "    tune.tune(Path(sys.argv[1]), tune.HERE / 'train.jsonl', Path(sys.argv[2]), 1e-4)\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    printed = run("-c", code, folder / "child", folder / "other", DEMO / "code").splitlines()[-1]
    assert "not ln 2: the reference is not" in printed
