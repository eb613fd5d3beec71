"""The YAML files that ship, and the Hydra plugin that makes them found."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

import fusion_slerp
from fusion_slerp.fusion_bench_plugin.merge_for_causal_lm import ELSEWHERE
from fusion_slerp.methods import METHODS
from fusion_slerp.options import declared
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.settings.schedule import parse_schedule
from hydra_plugins import fusion_slerp_search_path as plugin
from tests.fusion_bench_plugin.method_files import shown

CONFIG = Path(__file__).resolve().parents[1] / "config"
YAML_NAMES = sorted(p.relative_to(CONFIG).with_suffix("").as_posix() for p in CONFIG.rglob("*.yaml"))
HOST = plugin.host_config_dir()
WHOLE = ("recipes",)
"""Folders of configurations that stand alone."""


@pytest.fixture(autouse=True)
def _own_hydra_state():
    before = Singleton.get_state()
    yield
    GlobalHydra.instance().clear()
    Singleton.set_state(before)


def composed(name: str, *overrides: str, primary: Path = HOST, output_dir: str = "a/run") -> DictConfig:
    """What the command runs: `name`, composed with `primary` as the program's own folder, and resolved."""
    with initialize_config_dir(str(primary), version_base=None):
        cfg = compose(name, [f"+hydra.runtime.output_dir={output_dir}", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.resolve(cfg)
    return cfg


def targets_in(node) -> list[str]:
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [t for child in node.values() for t in targets_in(child)]
    return [t for child in node for t in targets_in(child)] if isinstance(node, list) else []


# --- every file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", YAML_NAMES)
def test_every_shipped_yaml_composes_and_its_targets_import(name):
    group, _, choice = name.partition("/")
    if choice and not group.startswith("_") and group not in WHOLE:
        cfg = composed("fabric_model_fusion", "modelpool=fusion_slerp/demo", f"{group}={choice}")
    else:
        cfg = composed(name)
    targets = targets_in(OmegaConf.to_container(cfg))
    assert "fusion_bench.programs.FabricModelFusionProgram" in targets
    assert all(callable(get_object(target)) for target in targets)


@pytest.mark.parametrize("name", YAML_NAMES)
def test_every_key_is_commented(name):
    lines = (CONFIG / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    values = [i for i, line in enumerate(lines) if re.match(r" *[\w-]+: *[^\s#]", line)]
    assert values or "defaults:" in lines
    assert [lines[i] for i in values if not is_commented(lines, i)] == []


def is_commented(lines: list[str], i: int) -> bool:
    """Whether a key has a comment: beside it, right above it, or with the mapping that holds it."""
    if " # " in lines[i] or (i and lines[i - 1].lstrip().startswith("#")):
        return True
    indent = len(lines[i]) - len(lines[i].lstrip())
    holders = [j for j in range(i) if re.match(rf" {{0,{indent - 1}}}[\w-]+:", lines[j])] if indent else []
    return bool(holders) and is_commented(lines, holders[-1])


def declarations_of(method: str) -> dict[str, object]:
    """Every option of a method's class with its default, as declared, and what the host alone needs."""
    fields = declared(METHODS[method].options) | declared(MergeSettings)
    options = {name: each.default for name, each in fields.items() if name not in ELSEWHERE}
    return options | {"model_save_path": None}


@pytest.mark.parametrize("method", METHODS)
def test_arguments_of_every_class_are_the_declared_options(method):
    parameters = inspect.signature(getattr(fusion_slerp, METHODS[method].class_name)).parameters.values()
    named = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    if method == "slerp":
        assert named["t"] is inspect.Parameter.empty  # as in the host's own signature
        named["t"] = declarations_of("slerp")["t"]
    assert named == declarations_of(method)
    assert types_of(named) == types_of(declarations_of(method))


@pytest.mark.parametrize("method", METHODS)
def test_method_yaml_has_every_option_with_its_default(method):
    file = CONFIG / f"method/fusion_slerp/{method}_lm.yaml"
    cfg = OmegaConf.to_container(OmegaConf.load(file))
    assert cfg.pop("_target_") == f"fusion_slerp.{METHODS[method].class_name}"
    assert cfg == declarations_of(method)
    assert types_of(cfg) == types_of(declarations_of(method))
    assert defaults_in_comments(file) == {name: shown(value) for name, value in cfg.items()}


def types_of(values: dict[str, object]) -> dict[str, type]:
    return {name: type(value) for name, value in values.items()}


def defaults_in_comments(file: Path) -> dict[str, str]:
    """The default that the comment above each key names."""
    found, comment = {}, ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment += line[1:]
            continue
        default = re.search(r"Default: (\S+?)[.,]?(?: |$)", comment)
        found |= {line.partition(":")[0]: default[1]} if default else {}
        comment = ""
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_class_of_every_method_is_made_from_its_yaml(method):
    cfg = composed("fabric_model_fusion", f"method=fusion_slerp/{method}_lm", "modelpool=fusion_slerp/demo")
    made = instantiate(cfg.method)
    assert type(made) is getattr(fusion_slerp, METHODS[method].class_name)
    assert made.settings == make_settings(method=method)


CURVES = sorted(name for name in YAML_NAMES if name.startswith("method/fusion_slerp/slerp_lm_"))


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_the_method_with_another_t(name):
    method = f"method={name.removeprefix('method/')}"
    cfg = composed("fabric_model_fusion", method, "modelpool=fusion_slerp/demo").method
    usual = OmegaConf.load(CONFIG / "method/fusion_slerp/slerp_lm.yaml")
    assert {key for key in cfg if cfg[key] != usual[key]} == {"t"}
    assert parse_schedule(OmegaConf.to_container(cfg.t)).number is None


def test_task_pool_yaml_names_every_argument_of_the_class():
    cfg = OmegaConf.to_container(OmegaConf.load(CONFIG / "taskpool/fusion_slerp/perplexity_demo.yaml"))
    parameters = inspect.signature(fusion_slerp.PerplexityTaskPool).parameters.values()
    named = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert set(cfg) - {"_target_"} == set(named)
    chosen_here = {"_target_", "texts", "baselines"}
    assert {k: v for k, v in cfg.items() if k not in chosen_here} == {
        k: v for k, v in named.items() if k not in chosen_here
    }


# --- the default configuration --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in YAML_NAMES if re.fullmatch("llm_[a-z]+", name)])
def test_whole_configurations_differ_in_method_and_pool_alone(name):
    cfg, usual = composed(name), composed("llm_slerp")
    assert {key for key in usual if cfg[key] != usual[key]} <= {"method", "modelpool", "taskpool"}
    assert cfg.keys() == usual.keys()
    method = METHODS[name.removeprefix("llm_")]
    assert cfg.method._target_ == f"fusion_slerp.{method.class_name}"
    assert cfg.method.model_save_path == usual.method.model_save_path
    assert cfg.taskpool.baselines == cfg.modelpool.models
    assert ("_pretrained_" in cfg.modelpool.models) == (method.base == "needed")


def test_default_saves_and_reports_in_the_folder_of_the_run():
    cfg = composed("llm_slerp", output_dir="runs/7")
    assert cfg.method.model_save_path == "runs/7/merged_model"
    assert cfg.path.log_dir == cfg.fabric.loggers.root_dir == "runs/7"
    assert cfg.report_save_path == "{log_dir}/program_report.json"


def test_evaluation_follows_the_models_of_the_user():
    cfg = composed("llm_slerp", "modelpool.models.model_1=X", "modelpool.models.model_2=Y")
    assert cfg.modelpool.models == cfg.taskpool.baselines == {"model_1": "X", "model_2": "Y"}
    assert cfg.modelpool.tokenizer is None  # the tokens of both
    assert composed("llm_slerp", "modelpool.tokenizer=Z").modelpool.tokenizer == "Z"


def test_evaluation_can_be_left_out():
    assert "taskpool" not in composed("llm_slerp", "~taskpool")
    assert composed("llm_slerp", "taskpool=dummy").taskpool._target_.startswith("fusion_bench.")


def test_method_works_with_the_configs_of_the_host():
    pool = "modelpool=CausalLMPool/simle_mixtral_exp_v4"
    cfg = composed("fabric_model_fusion", "method=fusion_slerp/slerp_lm", pool, "method.t=0.25")
    assert (cfg.method._target_, cfg.method.t) == ("fusion_slerp.SlerpForCausalLM", 0.25)


# --- who is found first ---------------------------------------------------------------------------------


def search_path_from(primary: Path | None) -> list[str]:
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    if primary is not None:
        path.append("main", str(primary))
    for _ in range(2):  # the second time changes nothing
        plugin.FusionSlerpSearchPath().manipulate_search_path(path)
    path.append("schema", "structured://")
    return [element.path.removeprefix("file://") for element in path.get_path()][1:-1]


def test_order_of_the_search_path(tmp_path):
    assert search_path_from(tmp_path) == [str(tmp_path), str(CONFIG), str(HOST)]
    assert search_path_from(HOST) == [str(CONFIG), str(HOST)]
    assert search_path_from(CONFIG) == [str(CONFIG), str(HOST)]
    assert search_path_from(None) == [str(CONFIG), str(HOST)]


def test_a_link_to_our_folder_is_our_folder(tmp_path):
    link = tmp_path / "config"
    link.symlink_to(CONFIG)
    assert search_path_from(link) == [str(link), str(HOST)]


def test_other_hydra_programs_are_left_alone(tmp_path, monkeypatch):
    for name in ("fusion_slerp", "fusion_bench"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert search_path_from(tmp_path) == [str(tmp_path)]


def test_a_file_of_the_user_wins_and_what_is_missing_there_is_ours(tmp_path):
    (tmp_path / "llm_slerp.yaml").write_text("whose: the user's\n")
    assert composed("llm_slerp", primary=tmp_path) == {"whose": "the user's"}
    (tmp_path / "llm_slerp.yaml").unlink()
    assert composed("llm_slerp", primary=tmp_path).method._target_ == "fusion_slerp.SlerpForCausalLM"


@pytest.mark.parametrize("primary", [HOST, CONFIG])
def test_the_tutorial_is_ours_and_not_the_hosts(primary):
    cfg = composed("_get_started/llm_slerp", primary=primary)
    assert cfg.method == {"_target_": "fusion_slerp.SlerpForCausalLM", "t": 0.5}
    assert cfg == composed("llm_slerp", primary=CONFIG / "_get_started")


def test_finding_the_folders_imports_nothing_heavy():
    code = (
        "import sys, fusion_slerp; from hydra_plugins import fusion_slerp_search_path as p;"
        "p.FusionSlerpSearchPath().manipulate_search_path(__import__('hydra._internal.config_search_path_impl',"
        "fromlist=['x']).ConfigSearchPathImpl());"
        "print(*sorted({'fusion_bench', 'torch', 'transformers', 'lightning'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.long
@pytest.mark.host
@pytest.mark.parametrize("folder", ["empty", "with a config of its own"])
def test_the_command_finds_us_from_any_folder(host_command, tmp_path, folder):
    if folder != "empty":
        (tmp_path / "config").mkdir()
    code, printed = host_command("--info", "searchpath", cwd=tmp_path)
    rows = [line.split("|")[2].strip() for line in printed.splitlines() if "file://" in line]
    own = [] if folder == "empty" else [f"file://{tmp_path / 'config'}"]
    assert code == 0, printed
    assert rows == [*own, f"file://{CONFIG}", f"file://{HOST}"]


# --- ${fusion_slerp.demo:...} ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plays", "manual", "ancestor", "texts/plays.txt", "texts/code.txt"])
def test_demo_gives_the_path_of_what_ships(name):
    search_path_from(None)
    path = Path(OmegaConf.create({"p": f"${{fusion_slerp.demo:{name}}}"}).p)
    assert path.is_absolute()
    assert path.exists()
    assert path == plugin.DEMO / name


@pytest.mark.parametrize(("name", "hint"), [("playz", "plays"), ("texts/cod.txt", "texts/code.txt")])
def test_unknown_demo_lists_those_that_exist(name, hint):
    search_path_from(None)
    cfg = OmegaConf.create({"p": f"${{fusion_slerp.demo:{name}}}"})
    with pytest.raises(InterpolationResolutionError) as caught:
        cfg.p  # noqa: B018
    message = str(caught.value)
    assert f"{name!r} (did you mean {hint!r}?)" in message
    names = "ancestor, code, manual, plays, texts, texts/code.txt, texts/manual.txt, texts/plays.txt"
    assert f"exist: {names}" in message
    assert "Fix: ${fusion_slerp.demo:ancestor}" in message
