"""The sentences at the top of a report: what a reader should know who reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusion_slerp.methods import METHODS
from fusion_slerp.reports.evaluations import AVERAGE
from fusion_slerp.reports.models import CHILD
from fusion_slerp.settings.labels import BASE
from fusion_slerp.vocabulary.remarks import enumerated

Data = Mapping[str, Any]


def summary(data: Data) -> list[str]:
    """Returns the summary of a report's data, one sentence each."""
    makers = {"child": _of_child, "comparison": _of_comparison, "sweep": _of_sweep, "search": _of_search}
    return makers[data["kind"]](data)


def named_models(data: Data) -> str:
    """Returns the source models in words, with their labels."""
    own = [each for each in data["models"] if each["label"] not in (BASE, CHILD)]
    return enumerated([f"{each['name']} ({each['label']})" for each in own])


def _of_child(data: Data) -> list[str]:
    method = METHODS.get(str(data["method"]))
    how = method.summary if method else f"the method {data['method']}"
    base = next((each["name"] for each in data["models"] if each["label"] == BASE), None)
    ancestor = f", with {base} as their ancestor" if base else ""
    first = f"{data['name']} is a merge of {named_models(data)}{ancestor}: {how}{_constant(data)}."
    return [first, *_of_treatment(data["treatment"]), *_of_angles(data), *_of_differences(data)]


def _constant(data: Data) -> str:
    """The values that are the same for all tensors, of options that are set for single models or at all."""
    fixed = [each for each in data["values"] if "constant" in each]
    shown = [f"{each['option']} = {each['constant']:g}" for each in fixed[:4]]
    varying = sorted({each["option"].partition(" ")[0] for each in data["values"] if "constant" not in each})
    shown += [f"{name} varying over depth or names" for name in varying]
    return f", at {enumerated(shown)}" if shown and len(fixed) <= 4 else ""


def _of_treatment(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    total = sum(each["tensors"] for each in groups)
    if not total:
        return []
    shown = [f"{each['tensors']} by {_way(each)}" for each in groups[:4]]
    rest = total - sum(each["tensors"] for each in groups[:4])
    if len(groups) == 1:
        return [f"All {total} tensors were made by {_way(groups[0])}."]
    return [f"Of its {total} tensors, {enumerated([*shown, *([f'{rest} otherwise'] if rest else [])])}."]


def _way(group: Mapping[str, Any]) -> str:
    return f"{group['action']} ({group['why']})" if group["why"] else str(group["action"])


def _of_angles(data: Data) -> list[str]:
    angles = data.get("angles")
    if not angles:
        return []
    what = "task vectors of the first two models" if data["has_base"] else "first two models"
    if len([each for each in data["models"] if each["label"] not in (BASE, CHILD)]) == 2:
        what = "models' task vectors" if data["has_base"] else "source models"
    found = next(iter(angles["pairs"].values()))
    return [f"The {what} are {_apart(found)}"]


def _of_differences(data: Data) -> list[str]:
    """How the merged model predicts, next to each source model; nothing without paired differences."""
    found = (data.get("evaluation") or {}).get("differences", [])
    averages = [each for each in found if each["of"] == CHILD and each["text"] == AVERAGE]
    names: dict[str, str] = {each["label"]: f"{each['name']} ({each['label']})" for each in data["models"]}
    parts = [_distance(each, names.get(each["from"], str(each["from"]))) for each in averages]
    return [f"Its average loss is {enumerated(parts)} (nats per token)."] if parts else []


def _distance(difference: Mapping[str, Any], other: str) -> str:
    value, low, high = difference["value"], difference.get("low"), difference.get("high")
    if low is not None and high is not None and low <= 0 <= high:
        return f"not distinguishable from that of {other}"
    return f"{abs(value):.3f} {'below' if value < 0 else 'above'} that of {other}"


def _of_comparison(data: Data) -> list[str]:
    first = f"A comparison of {named_models(data)}"
    base = next((each["name"] for each in data["models"] if each["label"] == BASE), None)
    sentences = [f"{first}{f' by their differences from {base}' if base else ''}."]
    blocked = [pair for pair, each in data["relations"].items() if not each["can_be_merged"]]
    if not blocked:
        sentences.append("They can be merged with the default options.")
    elif len(data["relations"]) == 1:
        sentences.append("They cannot be merged as they are; the reasons are below.")
    else:
        pairs = enumerated([pair.replace("-", " and ") for pair in blocked])
        sentences.append(f"Some cannot be merged as they are: {pairs}; the reasons are below.")
    if data["angles"]:
        sentences.append(
            _of_pairs(data["angles"]["pairs"], "task vectors" if data["has_base"] else "weights")
        )
    return sentences


def _of_pairs(pairs: Mapping[str, Mapping[str, Any]], what: str) -> str:
    """The angle of the only pair, or the closest and the farthest pair."""
    near, far = (choose(pairs, key=lambda pair: pairs[pair]["mean"]) for choose in (min, max))
    if len(pairs) == 1:
        return f"Their {what} are {_apart(pairs[near])}"
    ends = [f"{pair.replace('-', ' and ')}, at {pairs[pair]['mean']:.1f}°" for pair in (near, far)]
    return f"By the mean angle of their {what}, closest are {ends[0]}, and farthest {ends[1]}."


def _apart(found: Mapping[str, Any]) -> str:
    return (
        f"{found['mean']:.1f}° apart on average, weighted by parameters; the largest angle, "
        f"{found['largest']:.1f}°, is in {found['largest_in']}."
    )


def _of_sweep(data: Data) -> list[str]:
    sweep = data["sweep"]
    varied = enumerated([f"{name} at {len(values)} values" for name, values in sweep["vary"].items()])
    n, n_planned = len(sweep["points"]), 1
    for values in sweep["vary"].values():
        n_planned *= len(values)
    state = f"{n} points" if n >= n_planned else f"{n} of {n_planned} points so far"
    verdict = sweep["verdict"]
    return [
        f"A sweep of {named_models(data)} over {varied}: {state}, judged by {sweep['metric']['name']} "
        f"({sweep['metric']['better']} is better).",
        f"{verdict[:1].upper()}{verdict[1:]}.",
    ]


def _of_search(data: Data) -> list[str]:
    sweep, search = data["sweep"], data["sweep"]["search"]
    metric = f"{sweep['metric']['name']} ({sweep['metric']['better']} is better)"
    first = f"A search of {named_models(data)} over {enumerated(list(sweep['vary']))}, judged by {metric}"
    sentences = [f"{first}: {search['cost']}", sweep["verdict"], *search["conclusions"]]
    return [f"{each[:1].upper()}{each[1:].rstrip('.')}." for each in sentences]
