"""Runs recipes by mergekit, many in one process, which takes seconds to start. Run by mergekit's Python:

    python run_mergekit_recipes.py JOBS.json

JOBS.json maps the folder of each child to its recipe; a name that starts with "plan " is only planned.
Prints, as the last line, JSON: for each child, t of every tensor as mergekit's planner has it; of linear,
the weights by model; of other methods, the shared parameters, and those by model.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config, run_merge
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

OPTIONS = MergeOptions(quiet=True, write_model_card=False)


def values_of_tensors(recipe: dict) -> dict[str, Any]:
    config = MergeConfiguration.model_validate(recipe)
    architecture = get_architecture_info(config, OPTIONS)
    LoaderCache().setup(options=OPTIONS)
    planner = MergePlanner(config, architecture, OPTIONS, _model_out_config(config, architecture))
    planner._plan()
    return {weight.name: _value(task, recipe["merge_method"]) for weight, task in planner._tensors}


def _value(task: Any, method: str) -> Any:
    if "t" in task.parameters:
        return float(task.parameters["t"])
    own = {str(model): dict(task.input_parameters[model]) for model in task.model_order}
    weights = {model: each["weight"] for model, each in own.items() if "weight" in each}
    if method == "linear":
        return weights
    if method == "nuslerp":
        _, of_the_second = weights.values()
        return of_the_second / sum(weights.values())
    return {"shared": dict(task.parameters), "models": {model: each for model, each in own.items() if each}}


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for out, recipe in json.loads(Path(sys.argv[1]).read_text()).items():
        found[out] = values_of_tensors(recipe)
        if not out.startswith("plan "):
            run_merge(MergeConfiguration.model_validate(recipe), out, OPTIONS)
    print(json.dumps(found))


main()
