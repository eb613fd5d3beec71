"""Our form of a recipe for Hydra: a self-contained configuration of fusion_bench, without defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field
from typing import Any

import yaml

from fusion_slerp.methods import DEFAULT, METHODS, Method
from fusion_slerp.options import declaration, declared
from fusion_slerp.recipes.recipe import Findings, Recipe, check_base, join
from fusion_slerp.recipes.values import in_one_form, map_schedules
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import MergeSettings

HEAD = """\
# @package _global_
# A merge by fusion_slerp. The merged model's folder is method.model_save_path.
#
#     fusion_bench --config-path FOLDER-OF-THIS-FILE --config-name ITS-NAME
"""

PROGRAM = "fusion_bench.programs.FabricModelFusionProgram"
POOL, SHORT_POOL = "fusion_bench.modelpool.CausalLMPool", "fusion_bench.CausalLMPool"
CHILD = "merged_model"
ANCESTOR = "_pretrained_"
"""FusionBench's name for the base among the models of a pool."""

POOL_KEYS = ("_target_", "_recursive_", "models", "tokenizer", "enable_lazy_loading")


def is_hydra(given: Mapping[str, Any]) -> bool:
    """Whether a mapping has this form and not mergekit's."""
    return "merge_method" not in given and any(
        key in given for key in ("_target_", "method", "modelpool", "defaults")
    )


TARGETS = {f"fusion_slerp.{method.class_name}": method for method in METHODS.values()}
"""The methods by the `_target_` of their class."""


def schedules_of(method: Method) -> dict[str, Field[Any]]:
    """The options of a method that vary by tensor: a recipe always states them."""
    return {name: each for name, each in declared(method.options).items() if declaration(each).is_schedule}


def to_hydra(recipe: Recipe, out: str = CHILD) -> str:
    """Returns YAML for `fusion_bench --config-path ... --config-name ...`, to merge into the folder `out`.

    Raises:
        SettingsError: The recipe has a base that its method does not take, or lacks one that it needs.
    """
    findings = Findings("the recipe")
    check_base(recipe, findings)
    findings.raise_faults()
    stated = {name: each.default for name, each in schedules_of(METHODS[recipe.method]).items()}
    options = {name: each for name, each in recipe.options.items() if name not in ("method", "tokenizer")}
    tokenizer = recipe.options.get("tokenizer", "union")
    by_name = {"union": None, **recipe.named}
    ancestor = {} if recipe.base is None else {ANCESTOR: recipe.base}
    content = {
        "_target_": PROGRAM,
        "_recursive_": False,
        "method": {
            "_target_": f"fusion_slerp.{METHODS[recipe.method].class_name}",
            **stated,
            **options,
            "model_save_path": out,
        },
        "modelpool": {
            "_target_": POOL,
            "models": {f"model_{i}": model for i, model in enumerate(recipe.models, start=1)} | ancestor,
            "tokenizer": by_name.get(tokenizer, tokenizer),
            "enable_lazy_loading": True,
        },
    }
    return HEAD + dumped(_escaped(content))


def dumped(content: Mapping[str, Any]) -> str:
    """Returns YAML in the order of the mapping, with lists of numbers on one line."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    in_line = all(isinstance(each, (int, float)) for each in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=in_line)


_Dumper.add_representer(list, _list)


def from_hydra(given: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """Returns the recipe in a self-contained configuration.

    Raises:
        SettingsError: It has parts that only Hydra can compose, a method or a pool that is not ours, or
            invalid values; all faults at once, each with its key.
    """
    findings = Findings(name)
    if given.get("defaults"):
        fix = "run it with fusion_bench, or use what fusion_bench ... --cfg job --resolve prints"
        findings.fault("defaults: only Hydra can compose them", fix, found=repr(given["defaults"]))
        findings.raise_faults()
    method = _section(given, "method", tuple(TARGETS), findings)
    pool = _section(given, "modelpool", (POOL, SHORT_POOL), findings)
    findings.raise_faults()
    given = {"method": method, "modelpool": pool}
    _check_interpolations(given, "", findings)
    findings.raise_faults()
    given = _unescaped(given)
    how = TARGETS[method["_target_"]]
    is_sliced = bool(method.get("slices"))  # each slice names as many models as the method merges
    models, base = _models(given["modelpool"], how, findings, is_sliced)
    options = _options(given["method"], how, findings)
    tokenizer = _model(given["modelpool"].get("tokenizer") or "union", "modelpool.tokenizer", findings)
    findings.raise_faults()
    label_of = dict(zip(reversed(models), reversed(labels(len(models))), strict=True))
    label_of = label_of if base is None else {base: BASE} | label_of
    options["tokenizer"] = label_of.get(tokenizer, tokenizer)
    recipe = Recipe(tuple(models), options, base, tuple(findings.notes))
    assert recipe.settings  # a last check: a returned recipe can be run
    return recipe


def _section(
    given: Mapping[str, Any], key: str, targets: tuple[str, ...], findings: Findings
) -> Mapping[str, Any]:
    section = given.get(key)
    target = section.get("_target_") if isinstance(section, Mapping) else None
    if isinstance(section, Mapping) and target in targets:
        return section
    findings.fault(
        f"invalid {key}._target_",
        f"set {key}._target_: {targets[0]}, or run the file with fusion_bench",
        found=repr(target),
        needed=" or ".join(targets),
    )
    return {}


def _options(method: Mapping[str, Any], how: Method, findings: Findings) -> dict[str, Any]:
    own = declared(how.options)
    known = [*own, *(name for name in declared(MergeSettings) if name not in ("method", "tokenizer"))]
    findings.unknown_keys(method, (*known, "model_save_path", "_target_"), "method")
    if method.get("model_save_path") not in (None, CHILD):
        findings.note(
            "method.model_save_path: only for fusion_bench; here the command names the merged model's folder"
        )
    options = {key: value for key, value in method.items() if key in known and value is not None}
    for name, each in schedules_of(how).items():
        options[name] = map_schedules(options.get(name, each.default), each, in_one_form)
    if isinstance(options.get("tokens"), Mapping):
        options["tokens"] = {token: _token(entry) for token, entry in options["tokens"].items()}
    return options if how.name == DEFAULT else {"method": how.name, **options}


def _token(entry: Any) -> Any:
    return entry if isinstance(entry, Mapping) and "source" in entry else {"source": entry}


def _models(
    pool: Mapping[str, Any], how: Method, findings: Findings, is_sliced: bool
) -> tuple[list[str], str | None]:
    """The models, and the base if there is one."""
    findings.unknown_keys(pool, POOL_KEYS, "modelpool")
    given = pool.get("models")
    given = given if isinstance(given, Mapping) else {}
    models = {key: each for key, each in given.items() if key != ANCESTOR}
    if not (how.takes(len(models)) or (is_sliced and models)):
        found = repr(list(models) if given else pool.get("models"))
        fix, needed = f"name {how.models_text} models under modelpool.models", f"{how.models_text} models"
        findings.fault(f"modelpool.models does not fit {how.name}", fix, found=found, needed=needed)
        return [], None
    base = _base(given.get(ANCESTOR), how, findings)
    return [_model(value, f"modelpool.models.{key}", findings) for key, value in models.items()], base


def _base(given: Any, how: Method, findings: Findings) -> str | None:
    key = f"modelpool.models.{ANCESTOR}"
    if given is None:
        if how.base == "needed":
            findings.fault(
                f"{key} is missing", f"set {key}: FOLDER, or a Hub id", needed=f"{how.name}'s base"
            )
        return None
    if how.base == "none":
        findings.fault(f"{key}: {how.name} takes no base", f"remove {key}", found=repr(given))
        return None
    return _model(given, key, findings)


def _model(value: Any, key: str, findings: Findings) -> str:
    """The path or Hub id of an entry; an entry that builds a model cannot be streamed."""
    if isinstance(value, Mapping):
        findings.unknown_keys(value, ("_target_", "pretrained_model_name_or_path", "revision"), key)
        path, revision = value.get("pretrained_model_name_or_path"), value.get("revision")
        value = f"{path}@{revision}" if path and revision else path
    if isinstance(value, str) and value:
        return value
    findings.fault(f"{key} is not a model", f"set {key}: FOLDER, or a Hub id", found=repr(value))
    return ""


def _check_interpolations(value: Any, key: str, findings: Findings) -> None:
    """Reports strings such as ${path.log_dir}, which only Hydra can resolve."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _check_interpolations(each, join(key, name), findings)
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            _check_interpolations(each, f"{key}[{i}]", findings)
    elif isinstance(value, str) and "${" in value.replace("\\${", ""):
        fix = "write the value itself, or run the file with fusion_bench"
        findings.fault(f"{key}: only Hydra can resolve this value", fix, found=value)


def _escaped(value: Any) -> Any:
    return _in_strings(value, "${", "\\${")


def _unescaped(value: Any) -> Any:
    return _in_strings(value, "\\${", "${")


def _in_strings(value: Any, old: str, new: str) -> Any:
    """The same value with a part of its strings replaced; keys are left alone, as in OmegaConf."""
    if isinstance(value, Mapping):
        return {key: _in_strings(each, old, new) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_strings(each, old, new) for each in value]
    return value.replace(old, new) if isinstance(value, str) else value
