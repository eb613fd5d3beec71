"""The task pool as the host sees it: settings, report, configuration, and what it prints."""

import json
import logging
import math
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fusion_bench.utils.instantiate_utils import instantiate
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from fusion_slerp import PerplexityTaskPool
from fusion_slerp.errors import CheckpointError, FusionSlerpError, SettingsError
from fusion_slerp.evaluation.losses import token_losses
from fusion_slerp.evaluation.tokens import cut
from fusion_slerp.fusion_bench_plugin.evaluated_models import load_baseline
from tests.cluster.ranks_in_threads import one_at_a_time, run_ranks

POSITIONS = 16
WORDS = [f"w{i}" for i in range(40)]


pytestmark = pytest.mark.usefixtures("one_thread")


def tokenizer_of(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate([*vocabulary, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def random_model(seed: int, positions: int = POSITIONS) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Parents `a` and `b` with the same tokenizer, `bare` without one, and two texts."""
    root = tmp_path_factory.mktemp("demo")
    for seed, name in enumerate(("a", "b", "bare")):
        random_model(seed).to(torch.bfloat16).save_pretrained(root / name)
        if name != "bare":
            tokenizer_of(WORDS).save_pretrained(root / name)
    (root / "plain.txt").write_text(" ".join(WORDS[i * i % 40] for i in range(50)), encoding="utf-8")
    documents = [" ".join(WORDS[i * n % 40] for i in range(n)) for n in (30, 1, 7)]
    lines = "\n".join(json.dumps({"text": document}) for document in documents)
    (root / "lines.jsonl").write_text(lines, encoding="utf-8")
    return root


@pytest.fixture
def texts(folder) -> dict[str, str]:
    return {"plain": str(folder / "plain.txt"), "lines": str(folder / "lines.jsonl")}


@pytest.fixture
def child(folder) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder / "a", dtype="auto")


def untimed(report: dict) -> dict:
    """A report without the figures that depend on the machine."""
    return {
        key: untimed(value) if isinstance(value, dict) else value
        for key, value in report.items()
        if key != "tokens_per_s"
    }


def report_of(model: object, *arguments: object, **settings: object) -> dict:
    return untimed(PerplexityTaskPool(*arguments, **settings).evaluate(model))


def message_of(error_class: type[FusionSlerpError], **settings: object) -> str:
    """The message as the host's command shows it."""
    with pytest.raises(error_class) as caught:
        PerplexityTaskPool(**settings)
    return caught.value.message("hydra")


def evaluation_error(error_class: type[FusionSlerpError], model: object, **settings: object) -> str:
    with pytest.raises(error_class) as caught:
        PerplexityTaskPool(**settings).evaluate(model)
    return caught.value.message("hydra")


def test_report_has_the_host_form_and_is_plain_json(texts, folder, child):
    pool = PerplexityTaskPool(texts, baselines={"a": str(folder / "a"), "b": str(folder / "b")})
    report = pool.evaluate(child)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == ["plain", "lines", "average", "baselines", "differences"]
    keys = ["loss", "perplexity", "loss_stderr", "tokens", "tokens_per_s", "bits_per_byte"]
    assert list(report["plain"]) == keys
    assert [report[text]["tokens"] for text in texts] == [49, 29 + 0 + 6]
    mean = (report["plain"]["loss"] + report["lines"]["loss"]) / 2
    average = report["average"]
    assert (average["loss"], average["perplexity"]) == pytest.approx((mean, math.exp(mean)))
    errors = [report[text]["loss_stderr"] for text in texts]
    assert average["loss_stderr"] == pytest.approx(math.hypot(*errors) / 2)
    report = untimed(report)
    baselines, differences = report.pop("baselines"), report.pop("differences")
    assert baselines["a"] == report  # the child is parent a
    assert baselines["b"]["average"] != report["average"]
    assert {each["value"] for each in differences["a"].values()} == {0}
    for text, each in differences["b"].items():
        assert each["value"] == pytest.approx(report[text]["loss"] - baselines["b"][text]["loss"])
        assert each["low"] < each["value"] < each["high"]


def test_report_is_the_pure_evaluation(texts, folder, child):
    report = PerplexityTaskPool(texts).evaluate(child)
    ids = cut(tokenizer_of(WORDS), [Path(texts["plain"]).read_text(encoding="utf-8")]).ids
    losses = token_losses(child.eval(), ids, context_length=POSITIONS, stride=POSITIONS // 2, batch_size=8)
    assert report["plain"]["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-14)
    assert report.keys().isdisjoint(("baselines", "differences", "samples"))


def test_the_model_is_left_as_it_was(texts, child):
    child.train()
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    PerplexityTaskPool(texts).evaluate(child)
    assert child.training
    assert {parameter.dtype for parameter in child.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(child.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_all_models_are_evaluated_in_the_type_of_the_merged_one(
    texts, folder, child, dtype, tmp_path, caplog
):
    caplog.set_level(logging.INFO, logger="fusion_slerp")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / "a" / file, tmp_path / file)
    random_model(1).save_pretrained(tmp_path)
    baselines = {"same": str(folder / "a"), "wide": str(tmp_path)}
    child, other = (
        AutoModelForCausalLM.from_pretrained(each, dtype=dtype) for each in (folder / "a", tmp_path)
    )
    report = report_of(child, texts, baselines=baselines)
    assert f"evaluating all models in {str(dtype)[6:]}, the type of the merged model" in caplog.messages
    same, wide = report.pop("baselines").values()
    del report["differences"]
    assert same == report
    assert wide == report_of(other, texts)


@pytest.mark.parametrize("setting", [{"context_length": 8}, {"stride": 3}, {"max_tokens": 20}])
def test_settings_of_the_windows_change_the_result(texts, child, setting):
    assert report_of(child, texts) != report_of(child, texts, **setting)


def test_max_tokens_holds_for_each_text(texts, child):
    report = PerplexityTaskPool(texts, max_tokens=33).evaluate(child)
    assert [report[text]["tokens"] for text in texts] == [32, 29 + 0 + 1]


def test_batch_size_is_how_many_windows_go_at_once(texts, child):
    rows = []
    child.register_forward_pre_hook(
        lambda _, __, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    PerplexityTaskPool({"plain": texts["plain"]}, batch_size=3).evaluate(child)
    assert max(rows) == 3


def test_device_is_where_the_model_runs(texts, child, monkeypatch):
    moves = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(type(child), "to", lambda self, device: moves.append(str(device)))
    PerplexityTaskPool(texts, device="cpu").evaluate(child)
    assert moves == []
    PerplexityTaskPool(texts, device="auto").evaluate(child)
    assert moves == ["cuda", "cpu"]


def test_the_smallest_model_sets_the_context(texts, folder, child, tmp_path):
    random_model(5, positions=6).save_pretrained(tmp_path / "small")
    baselines = {"small": str(tmp_path / "small")}
    report = report_of(child, texts, baselines=baselines)
    assert report["plain"] == report_of(child, texts, context_length=6)["plain"]
    message = evaluation_error(SettingsError, child, texts=texts, baselines=baselines, context_length=7)
    assert "at most 6, the positions of small" in message
    assert message.endswith("Fix: use taskpool.context_length=6")


def unlimited_model() -> BloomForCausalLM:
    """A model whose config names no limit of positions."""
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=len(WORDS) + 1, hidden_size=16, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    "make", [partial(random_model, 0, positions=4096), unlimited_model], ids=["4096", "none"]
)
def test_context_is_at_most_1024(tmp_path, make):
    model = make()
    (tmp_path / "long.txt").write_text("w1 w2 " * 600, encoding="utf-8")
    lengths = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    PerplexityTaskPool({"long": tmp_path / "long.txt"}, tokenizer=tokenizer_of(WORDS)).evaluate(model)
    assert lengths == [1024, 1200 - 512]


def test_unknown_settings_are_errors_with_the_nearest_name(texts):
    message = message_of(SettingsError, texts=texts, batchsize=4)
    assert "PerplexityTaskPool has no setting 'batchsize' (did you mean 'batch_size'?)" in message
    assert message.splitlines()[-1].startswith("Fix: ")


def test_the_hosts_own_arguments_pass(texts):
    pool = PerplexityTaskPool(texts, _usage_="held-out text", _recursive_=False)
    assert pool.config._usage_ == "held-out text"


def test_all_problems_are_reported_at_once_before_a_model_is_there(tmp_path):
    bad_line = tmp_path / "bad.jsonl"
    bad_line.write_text('{"text": "a b"}\n{"txt": "c"}\n', encoding="utf-8")
    message = message_of(
        SettingsError,
        texts={"wiki": str(tmp_path / "none.txt"), "news": str(bad_line), "average": "x.txt", "code": None},
        baselines={"parent": str(tmp_path / "none"), "merged": "gpt2"},
        tokenizer="./none",
        stride=True,
        batch_size=0,
    )
    for part in (
        "9 problems",
        "nothing was evaluated",
        f"cannot read the text wiki\n  path: {tmp_path / 'none.txt'}\n  found: No such file or directory",
        f"cannot read the text news\n  path: {bad_line}\n  found: line 2 has no field `text`",
        "invalid text average\n  found: a name that the report uses itself",
        "cannot read the text code\n  path: None",
        f"invalid taskpool.baselines.parent\n  found: '{tmp_path / 'none'}': no such folder",
        "invalid taskpool.baselines.merged",
        "invalid taskpool.tokenizer\n  found: './none': no such folder",
        "invalid stride\n  found: True",
        "invalid batch_size\n  found: 0",
        "Fix: use taskpool.batch_size=8",
        "Fix: use ++taskpool.texts.news=FILE.txt",
        f"Fix: rename it: ++taskpool.texts.average_text={Path.cwd() / 'x.txt'}",
        "Fix: use '~taskpool.baselines.merged', or rename modelpool.models.merged if baselines follow it",
    ):
        assert part in message
    assert message.splitlines()[-1] == "Fix: use taskpool.tokenizer=FOLDER"


@pytest.mark.parametrize(
    ("setting", "found", "fix"),
    [
        ({"texts": {}}, "{}", "++taskpool.texts.NAME=FILE.txt"),
        ({"texts": "a.txt"}, "'a.txt'", "++taskpool.texts.NAME=FILE.txt"),
        (
            {"texts": {"baselines": "a.txt"}},
            "a name that the report uses itself",
            f"++taskpool.texts.baselines_text={Path.cwd() / 'a.txt'}",
        ),
        ({"baselines": ["gpt2"]}, "['gpt2']", "taskpool.baselines=null"),
        ({"tokenizer": {"path": "gpt2"}}, "{'path': 'gpt2'}", "taskpool.tokenizer=FOLDER"),
        ({"context_length": 1}, "1", "taskpool.context_length=1024"),
        ({"context_length": 8, "stride": 8}, "8", "taskpool.stride=7"),
        ({"batch_size": None}, "None", "taskpool.batch_size=8"),
        ({"max_tokens": 1}, "1", "taskpool.max_tokens=100000"),
        ({"prompts": "Once"}, "'Once'", "'taskpool.prompts=[\"Once upon a time\"]'"),
        ({"prompts": [""]}, "['']", "'taskpool.prompts=[\"Once upon a time\"]'"),
        ({"max_new_tokens": 0}, "0", "taskpool.max_new_tokens=64"),
        ({"device": "gpu"}, "'gpu'", "taskpool.device=auto"),
        ({"device": "meta"}, "'meta'", "taskpool.device=auto"),
    ],
)
def test_wrong_settings_name_themselves_and_a_remedy(texts, setting, found, fix):
    message = message_of(SettingsError, **{"texts": texts, **setting})
    assert f"\n  found: {found}\n" in message
    assert message.endswith((f"\nFix: use {fix}", f"\nFix: rename it: {fix}"))


def test_stride_is_checked_against_the_context_of_the_models(texts, child):
    message = evaluation_error(SettingsError, child, texts=texts, stride=POSITIONS)
    assert f"less than the context length {POSITIONS}" in message


def test_texts_that_are_too_short_for_their_tokenizer_are_reported_together(texts, child, tmp_path):
    short = {}
    for name in ("first", "second"):
        (tmp_path / f"{name}.txt").write_text("w1\n", encoding="utf-8")
        short[name] = str(tmp_path / f"{name}.txt")
    message = evaluation_error(SettingsError, child, texts={**texts, **short})
    assert "the text first is too short\n  found: no document with two tokens or more" in message
    assert "++taskpool.texts.second=" in message


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(texts, child):
    larger = tokenizer_of([*(f"x{i}" for i in range(9)), *WORDS])
    message = evaluation_error(SettingsError, child, texts=texts, tokenizer=larger)
    assert (
        "the tokenizer of merged does not fit it\n  found: token id 45 in plain; merged has 41 embedding rows"
        in message
    )


def test_relative_paths_start_at_the_working_directory_and_tilde_is_home(folder, child, monkeypatch):
    monkeypatch.chdir(folder)
    here = report_of(child, {"plain": "plain.txt"}, tokenizer="a", baselines={"b": "./b"})
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder))
    home = report_of(child, {"plain": "~/plain.txt"}, tokenizer="~/a", baselines={"b": "~/b"})
    assert here == home


def test_configuration_survives_the_round_trip(texts, folder, child, tmp_path):
    settings = {"baselines": {"b": str(folder / "b")}, "tokenizer": str(folder / "a"), "stride": 5}
    pool = PerplexityTaskPool(OmegaConf.create(texts), **OmegaConf.create(settings), max_tokens=30)
    pool.to_yaml(tmp_path / "pool.yaml")
    again = PerplexityTaskPool.from_yaml(tmp_path / "pool.yaml")
    assert type(again) is PerplexityTaskPool
    assert again.config == pool.config
    assert again.config.stride == 5
    assert untimed(again.evaluate(child)) == untimed(pool.evaluate(child))


def test_the_host_builds_it_from_yaml(texts, folder, child):
    config = OmegaConf.create(
        {
            "models": {"a": str(folder / "a"), "b": {"pretrained_model_name_or_path": str(folder / "b")}},
            "taskpool": {
                "_target_": "fusion_slerp.PerplexityTaskPool",
                "texts": texts,
                "tokenizer": {
                    "_target_": "transformers.AutoTokenizer.from_pretrained",
                    "pretrained_model_name_or_path": "${models.a}",
                },
                "baselines": "${models}",
            },
        }
    )
    report = instantiate(config.taskpool, _recursive_=False).evaluate(child)
    assert list(report["baselines"]) == ["a", "b"]


class CountingPool:
    """A model pool that builds a tokenizer."""

    tokenizer = SimpleNamespace(_target_="some.function")

    def __init__(self) -> None:
        self.calls = 0

    def load_tokenizer(self):
        self.calls += 1
        return tokenizer_of(WORDS)


def test_the_tokenizer_of_the_model_pool_is_used_unless_one_is_set(texts, folder, child):
    child.config._name_or_path = ""
    pool = PerplexityTaskPool(texts)
    pool._program = SimpleNamespace(modelpool=CountingPool())
    report = untimed(pool.evaluate(child))
    assert pool._program.modelpool.calls == 1
    explicit = PerplexityTaskPool(texts, tokenizer=str(folder / "a"))
    explicit._program = pool._program
    assert untimed(explicit.evaluate(child)) == report
    assert pool._program.modelpool.calls == 1


def test_without_any_tokenizer_the_error_names_the_setting(texts, child):
    child.config._name_or_path = ""
    pool = PerplexityTaskPool(texts)
    pool._program = SimpleNamespace(modelpool=SimpleNamespace(tokenizer=None))
    with pytest.raises(SettingsError, match="the model pool has no tokenizer") as caught:
        pool.evaluate(child)
    assert str(caught.value).endswith("Fix: use taskpool.tokenizer=FOLDER")


def test_tokenizer_and_baselines_that_cannot_be_opened_are_reported_together(texts, child, tmp_path):
    (tmp_path / "empty").mkdir()
    settings = {"tokenizer": str(tmp_path / "empty"), "baselines": {"x": str(tmp_path / "empty")}}
    message = evaluation_error(SettingsError, child, texts=texts, **settings)
    assert f"invalid taskpool.tokenizer\n  found: {tmp_path / 'empty'}: " in message
    assert f"invalid taskpool.baselines.x\n  found: {tmp_path / 'empty'}: " in message


def test_a_baseline_that_lacks_weights_is_refused(texts, folder, child, tmp_path):
    model = random_model(7)
    model.save_pretrained(tmp_path / "cut")
    weights = load_file(tmp_path / "cut" / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})
    message = evaluation_error(CheckpointError, child, texts=texts, baselines={"cut": str(tmp_path / "cut")})
    assert "taskpool.baselines.cut cannot be evaluated: a model lacks weights" in message
    assert "missing: model.layers.0.mlp.up_proj.weight" in message
    assert message.splitlines()[-1].startswith("Fix: use taskpool.baselines.cut=")


def test_table_shows_models_texts_and_the_verdict_in_80_columns(texts, folder, child, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    baselines = {"a [bold]": str(folder / "a"), "b": str(folder / "b")}
    report = PerplexityTaskPool(texts, baselines=baselines).evaluate(child)
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line for line in lines)
    rows = [line.split()[0] for line in lines if "±" in line and not line.startswith("      ")]
    assert rows == ["a", "b", "merged", "a", "b"]
    assert any(line.startswith(" a [bold] ") for line in lines)
    plain = report["plain"]
    merged = next(i for i, line in enumerate(lines) if line.startswith(" merged"))
    assert f"{plain['loss']:.3f} ± {plain['loss_stderr']:.3f}" in lines[merged]
    assert (
        f"{plain['perplexity']:.2f} ± {plain['perplexity'] * plain['loss_stderr']:.2f}" in lines[merged + 1]
    )
    assert sum(line.split() == ["best"] for line in lines) == 1
    gap = report["differences"]["b"]["plain"]
    row = next(line for line in lines[merged + 2 :] if line.startswith(" b "))
    assert f"{gap['value']:+.3f} ± {gap['stderr']:.3f}" in row
    noise = gap["low"] <= 0 <= gap["high"]
    assert (f"~ {gap['value']:+.3f}" in row) == noise


@pytest.mark.parametrize(("n_texts", "shown"), [(2, "±"), (5, "text4"), (12, "they are in the report")])
def test_table_of_many_texts_shows_less_and_stays_in_80_columns(
    texts, folder, child, capsys, monkeypatch, n_texts, shown
):
    monkeypatch.setenv("COLUMNS", "80")
    many = {f"text{i}": texts["plain"] for i in range(n_texts)}
    PerplexityTaskPool(many, baselines={"b": str(folder / "b")}).evaluate(child)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert shown in out
    assert "…" not in out


def test_table_is_plain_ascii_where_the_output_is(texts, child, capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.encoding", "ascii")
    PerplexityTaskPool(texts).evaluate(child)
    out = capsys.readouterr().out
    assert " +- " in out
    assert out.isascii()


def test_the_last_line_says_whether_the_merge_worked(texts, folder, child, capsys):
    pool = PerplexityTaskPool({"plain": texts["plain"]}, baselines={"a": str(folder / "a")})
    pool.evaluate(child)
    assert "the same as the best baseline, a" in capsys.readouterr().out.splitlines()[-1]
    with torch.no_grad():
        child.lm_head.weight.fill_(math.nan)
    pool.evaluate(child)
    assert "merged: the average loss is nan" in capsys.readouterr().out.splitlines()[-1]


def test_a_baseline_without_a_tokenizer_uses_the_default_one(texts, folder, child, capsys):
    report = PerplexityTaskPool(texts, baselines={"bare": str(folder / "bare")}).evaluate(child)
    assert report["baselines"]["bare"]["plain"]["tokens"] == 49
    assert "*" not in capsys.readouterr().out


def test_a_baseline_with_another_tokenizer_is_marked_and_not_compared(texts, folder, child, tmp_path, capsys):
    tokenizer_of(WORDS[:20]).save_pretrained(tmp_path / "other")
    AutoModelForCausalLM.from_pretrained(folder / "a").save_pretrained(tmp_path / "other")
    PerplexityTaskPool(texts, baselines={"other": str(tmp_path / "other")}).evaluate(child)
    out = capsys.readouterr().out
    assert any(line.split()[:2] == ["other", "*"] for line in out.splitlines())
    words = " ".join(out.split())
    assert "so its losses compare in bits per byte only" in words
    assert "there is no model with these tokens to compare it with other reads other tokens: merged " in words


def test_the_same_tokens_under_other_ids_do_compare(texts, folder, child, tmp_path, capsys):
    tokenizer_of(WORDS[::-1]).save_pretrained(tmp_path / "reversed")
    AutoModelForCausalLM.from_pretrained(folder / "a").save_pretrained(tmp_path / "reversed")
    PerplexityTaskPool(texts, baselines={"reversed": str(tmp_path / "reversed")}).evaluate(child)
    assert "*" not in capsys.readouterr().out


def test_other_ranks_print_nothing(texts, child, capsys, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    report = PerplexityTaskPool(texts).evaluate(child)
    assert report["average"]["loss"] > 0
    assert capsys.readouterr().out == ""


def test_several_processes_share_the_texts_and_report_the_same(texts, folder, child, monkeypatch):
    settings = {"baselines": {"a": str(folder / "a")}, "prompts": ["w1 w2", "w3"], "max_new_tokens": 2}
    alone = PerplexityTaskPool(texts, **settings).evaluate(child)
    module = "fusion_slerp.fusion_bench_plugin.perplexity_task_pool"
    monkeypatch.setattr(f"{module}.load_baseline", one_at_a_time(load_baseline))
    monkeypatch.setattr(f"{module}.ranks_of", lambda program: program.ranks)

    def work(ranks):
        pool = PerplexityTaskPool(texts, **settings)
        pool._program = SimpleNamespace(ranks=ranks, modelpool=None)
        return pool.evaluate(child)

    first, second = (end.value for end in run_ranks(2, work))
    assert first == second
    assert untimed(first) == untimed(alone)


def test_a_difference_that_may_be_noise_is_marked_and_not_sold_as_a_gain(
    texts, folder, child, capsys, tmp_path
):
    shutil.copytree(folder / "a", tmp_path / "near")
    near = AutoModelForCausalLM.from_pretrained(folder / "a", dtype="auto")
    torch.manual_seed(3)  # of other changes, half are more than noise on these few tokens
    with torch.no_grad():
        near.lm_head.weight += 0.01 * torch.randn_like(near.lm_head.weight)
    near.save_pretrained(tmp_path / "near")
    report = PerplexityTaskPool(texts, baselines={"near": str(tmp_path / "near")}).evaluate(child)
    gap = report["differences"]["near"]["average"]
    assert gap["low"] < 0 < gap["high"]
    out = capsys.readouterr().out
    assert "not distinguishable from the best baseline, near" in " ".join(out.split())
    assert "~ " in next(line for line in out.splitlines()[8:] if line.startswith(" near "))


def test_prompts_are_continued_by_every_model(texts, folder, child, capsys):
    settings = {"prompts": ["w1 w2", "w3"], "max_new_tokens": 4, "baselines": {"b": str(folder / "b")}}
    report = PerplexityTaskPool(texts, **settings).evaluate(child)
    assert list(report["samples"]) == ["merged", "b"]
    for samples in report["samples"].values():
        assert [each["prompt"] for each in samples] == ["w1 w2", "w3"]
        assert all(1 <= len(each["text"].split()) <= 4 for each in samples)
    out = capsys.readouterr().out
    assert f"Prompt: w1 w2\n  merged: {report['samples']['merged'][0]['text']}\n  b: " in out


def test_a_prompt_that_leaves_no_room_is_refused(texts, child):
    message = evaluation_error(SettingsError, child, texts=texts, prompts=["w1 " * POSITIONS])
    assert "a prompt has no token, or too many" in message
    assert f"needed: at least one, less than {POSITIONS}" in message
