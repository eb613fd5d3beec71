"""Pages: their structure, what they may and may not contain, and that their numbers are the data's."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

import fusion_slerp
from fusion_slerp.reports.data import Subject, completed, gather
from fusion_slerp.reports.page import page
from fusion_slerp.reports.sweep_data import record_data
from tests.models import TOKENS, tiny_tensors, write_checkpoint
from tests.reports.conftest import DEMO
from tests.reports.made import HOSTILE, by_task, grid_record, layer_reports, sweep_record, write_child

VOID = {"meta", "link", "input", "img", "br", "wbr"}


class Structure(HTMLParser):
    """Elements with their attributes, headings and texts; fails where elements are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def parsed(text: str) -> Structure:
    structure = Structure()
    structure.feed(text)
    structure.close()
    assert structure.open == []
    return structure


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def pages(demo_child, large_child, sweep_folder) -> dict[str, str]:
    subjects = {
        "child": Subject((str(demo_child),)),
        "large": Subject((str(large_child),), is_quick=True),
        "sweep": Subject((str(sweep_folder),)),
        "three": Subject(tuple(str(DEMO / name) for name in ("plays", "code", "manual"))),
        "base": Subject((str(DEMO / "plays"), str(DEMO / "code")), base=str(DEMO / "ancestor")),
    }
    return {name: page(gather(subject)) for name, subject in subjects.items()}


SECTIONS = {
    "child": [
        "models",
        "angles",
        "evaluation",
        "samples",
        "norms",
        "values",
        "treatment",
        "vocabulary",
        "tensors",
        "reproduce",
    ],
    "large": ["models", "angles", "norms", "values", "treatment", "tensors", "reproduce"],
    "sweep": ["sweep", "models", "evaluation", "samples", "reproduce"],
    "three": ["models", "angles", "norms", "vocabulary", "tensors"],
    "base": ["models", "angles", "norms", "vocabulary", "tensors"],
}


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_landmarks_and_headings(pages, name):
    structure = parsed(pages[name])
    tags = [tag for tag, _ in structure.elements]
    assert [attrs["id"] for tag, attrs in structure.elements if tag == "section"] == SECTIONS[name]
    assert all(tags.count(tag) == 1 for tag in ("h1", "main", "header", "nav", "footer", "title"))
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in structure.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    refers = [attrs["aria-labelledby"] for _, attrs in structure.elements if "aria-labelledby" in attrs]
    links = [str(attrs["href"])[1:] for tag, attrs in structure.elements if tag == "a"]
    assert {*refers, *links} <= set(ids)


@pytest.mark.parametrize("name", SECTIONS)
def test_nothing_is_loaded_and_only_our_script_runs(pages, name):
    structure = parsed(pages[name])
    assert not [attrs for _, attrs in structure.elements if "src" in attrs]
    assert [attrs["href"] for tag, attrs in structure.elements if tag == "link"] == ["data:,"]
    assert not re.search(r"https?://|url\(|@import|//\w+\.\w+/", pages[name].partition('id="data"')[0])
    scripts = re.findall(r"<script>(.*?)</script>", pages[name], re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(attrs["content"] for _, attrs in structure.elements if attrs.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"'sha256-{digest}'" in policy
    assert not [name for _, attrs in structure.elements for name in attrs if name.startswith("on")]
    assert len(pages[name]) < 400_000


def test_the_script_makes_no_markup():
    script = (Path(fusion_slerp.__file__).parent / "reports/assets/page.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp", script
    )


def test_the_numbers_of_the_pictures_are_those_of_the_data(pages, demo_child):
    data, structure = data_of(pages["child"]), parsed(pages["child"])
    report = json.loads((demo_child / "merge_report.json").read_text())["tensors"]
    assert data["tensors"]["name"] == [row["name"] for row in report]
    assert data["tensors"]["angle a-b"] == pytest.approx([row["angle_deg"] for row in report], rel=1e-5)
    assert data["tensors"]["value t"] == pytest.approx([row["t"] for row in report], rel=1e-5)
    cells = [value for line in data["angles"]["stacks"][0]["cells"]["a-b"] for value in line]
    shown = [float(text) for text in structure.texts["td"] if re.fullmatch(r"\d+\.\d", text)][: len(cells)]
    assert shown == pytest.approx(cells, abs=0.051)
    assert sum(group["tensors"] for group in data["treatment"]) == len(report)


def test_the_merged_models_norms_are_measured(pages, demo_child):
    import numpy as np
    from safetensors.torch import load_file

    data = data_of(pages["child"])
    weights = load_file(demo_child / "model.safetensors")
    norms = [np.linalg.norm(weights[name].double().numpy()) for name in data["tensors"]["name"]]
    assert data["tensors"]["norm child"] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("name", SECTIONS)
def test_no_path_of_this_machine_is_in_a_page(pages, name, demo_child):
    for secret in (str(Path.home()), str(DEMO), "secret-folder", str(demo_child.parent), str(Path.cwd())):
        assert secret not in pages[name]


def test_a_report_does_not_depend_on_when_it_is_made(demo_child, pages):
    assert page(gather(Subject((str(demo_child),)))) == pages["child"]


def test_a_merge_without_angles_shows_the_rest(tmp_path):
    folder = write_child(tmp_path / "plain", list(layer_reports(2, with_angles=False)))
    text = page(gather(Subject((str(folder),))))
    ids = [attrs["id"] for tag, attrs in parsed(text).elements if tag == "section"]
    assert ids == ["models", "values", "treatment", "tensors", "reproduce"]


def test_angles_that_a_merge_does_not_take_are_measured(tmp_path):
    parents = [write_checkpoint(tmp_path / name, seed) for seed, name in enumerate("pq")]
    child = fusion_slerp.merge(*parents, method="linear", out=tmp_path / "child", show_pbar=False).out
    data = gather(Subject((str(child),)))
    assert data["angles_are_new"]
    assert data["angles"]["pairs"]["a-b"]["tensors"] == 4
    assert data["norms"][0]["modules"]["mlp"].keys() == {"a", "b", "child"}
    assert gather(Subject((str(child),), is_quick=True))["angles"] is None


@pytest.mark.long
def test_20000_tensors_stay_small(tmp_path):
    folder = write_child(tmp_path / "moe", list(layer_reports(48, n_experts=136)))
    text = page(gather(Subject((str(folder),), is_quick=True)))
    assert len(data_of(text)["tensors"]["name"]) == 20_019
    assert len(text) < 3_000_000
    assert len(parsed(text).elements) < 5000  # rows are made in the page, as many as are in view


@pytest.fixture
def hostile(tmp_path) -> list[Path]:
    """Two models whose names, tensors, tokens and templates are attacks."""
    models = []
    name = HOSTILE.replace("/", "")
    for seed, tokens in enumerate([(*TOKENS, HOSTILE), (*TOKENS, "x")]):
        tensors = tiny_tensors(seed) | {
            f"model.layers.0.mlp.{name}.weight": tiny_tensors(seed)["model.norm.weight"]
        }
        for key in ("lm_head.weight", "model.embed_tokens.weight"):
            tensors[key] = tiny_tensors(seed + 9)["model.layers.0.mlp.up_proj.weight"][:7].copy()
        folder = tmp_path / f"<b>{seed}"
        models.append(write_checkpoint(folder, tensors=tensors, config={"vocab_size": 7}, tokens=tokens))
        (folder / "chat_template.jinja").write_text(f"{{{{ {seed} }}}}</script><script>alert(1)</script>")
    return models


def test_hostile_names_tokens_and_templates_are_texts(hostile, tmp_path):
    child = fusion_slerp.merge(*hostile, out=tmp_path / "<i>child", show_pbar=False).out
    for subject in (Subject((str(child),)), Subject(tuple(map(str, hostile)))):
        text = page(gather(subject))
        structure = parsed(text)
        tags = {tag for tag, _ in structure.elements}
        assert not tags & {"img", "b", "iframe", "a:b"}
        assert [tag for tag, _ in structure.elements].count("script") == 2
        assert "\u202e" not in text.partition('id="data"')[0]
        assert HOSTILE in json.dumps(data_of(text), ensure_ascii=False).replace('\\"', '"')


def test_hostile_samples_and_prompts_are_texts():
    data = completed(record_data(sweep_record(prompt=HOSTILE, answer=HOSTILE), HOSTILE))
    structure = parsed(page(data))
    assert "img" not in {tag for tag, _ in structure.elements}
    assert data_of(page(data))["evaluation"]["samples"] == [{"prompt": HOSTILE, "texts": {"best": HOSTILE}}]


def test_a_sweep_by_a_task_shows_its_score_with_its_error_and_the_differences_from_the_best():
    data = completed(record_data(by_task(sweep_record()), "quiz"))
    points = data["sweep"]["points"]
    assert [points[i]["metric"] for i in (0, 10)] == [0.5, 0.6]
    assert {point["metric_stderr"] for point in points} == {0.02}
    assert points[4]["from_best"] == {"value": -0.06, "stderr": 0.005, "low": -0.0698, "high": -0.0502}
    text = page(data)
    assert "quiz.acc over t" in text
    assert "Bars are 95 % intervals." in text
    assert text.count("−0.0600 ± 0.0050") == 1


def test_a_sweep_of_two_options_is_a_heat_map_with_the_best_marked():
    text = page(completed(record_data(grid_record(), "grid")))
    cells = [attrs.get("class") or "" for tag, attrs in parsed(text).elements if tag == "td"]
    marked = [i for i, kind in enumerate(cells) if "marked" in kind]
    assert marked == [11]  # the third row, the second column
    assert "t.self_attn and t.mlp" in text
