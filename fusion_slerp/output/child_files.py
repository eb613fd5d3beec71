"""Writes the merged model's files to the staging folder: the weights, then the files next to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_slerp.engine.executor import Child, execute_all
from fusion_slerp.engine.many import all_digests
from fusion_slerp.engine.progress import Progress, progress
from fusion_slerp.engine.report import TensorReport, WeightFile
from fusion_slerp.engine.steps import Measured, OnBytes
from fusion_slerp.errors import raise_all
from fusion_slerp.hashes import BESIDE, digest_of, file_digest
from fusion_slerp.output.manifest import Row, manifest_text, row_of
from fusion_slerp.output.merge_report import REPORT, report_text
from fusion_slerp.output.model_card import CardParent, model_card
from fusion_slerp.output.shard_writer import ShardWriter, index_json
from fusion_slerp.output.side_files import write_side_files
from fusion_slerp.output.staging import Staging
from fusion_slerp.output.unfinished import MANIFEST
from fusion_slerp.paths import utf8
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.private_paths import SideFile
from fusion_slerp.settings.merge_settings import MergeSettings
from fusion_slerp.sources.folder import INDEX
from fusion_slerp.sources.open_files import changed
from fusion_slerp.vocabulary.child_tokenizer import has_tokenizer

if TYPE_CHECKING:
    from fusion_slerp.output.card_pictures import Picture

CARD = "README.md"

OnFile = Callable[[WeightFile], object]
"""Called when a weight file is complete and on disk."""


def write_weights(plans: Sequence[MergePlan], staged: Sequence[Staging]) -> int:
    """Merges the weight files that are not finished yet, from one reading; records each in its journal.

    Args:
        plans: The merges, as a rule one; several are alike, see `engine.many.are_alike`.
        staged: The staging folder of each.

    Returns:
        The number of bytes of weights that were read.

    Raises:
        FusionSlerpError: As `execute`.
    """
    done = [
        {i for i, shard in enumerate(plan.shards) if shard.file_name in each.finished}
        for plan, each in zip(plans, staged, strict=True)
    ]
    if all(len(finished) == len(plan.shards) for plan, finished in zip(plans, done, strict=True)):
        return 0
    with ExitStack() as stack:
        shown = stack.enter_context(progress(plans, done))
        children = [
            _child(stack, plan, own.files, set(range(len(plan.shards))) - finished, recording(own.add, shown))
            for plan, own, finished in zip(plans, staged, done, strict=True)
        ]
        return execute_all(children, on_bytes=shown, digests=all_digests(plans))


def write_files(
    plan: MergePlan,
    folder: Path,
    files: Collection[int],
    on_file: OnFile,
    on_bytes: OnBytes,
    measured: Measured | None = None,
) -> int:
    """Merges some of a merged model's weight files.

    Args:
        plan: The merge.
        folder: The folder of the merged model's files.
        files: Indexes of the files; the others are left alone.
        on_file: Called from another thread when a file is complete and on disk.
        on_bytes: As for `execute`.
        measured: As for `execute`.

    Returns:
        The number of bytes of weights that were read.

    Raises:
        FusionSlerpError: As `execute`.
    """
    if not files:
        return 0
    with ExitStack() as stack:
        child = _child(stack, plan, folder, files, on_file)
        return execute_all([child], on_bytes=on_bytes, digests=all_digests([plan]), measured=measured)


def _child(stack: ExitStack, plan: MergePlan, folder: Path, files: Collection[int], on_file: OnFile) -> Child:
    others = {i for i in range(len(plan.shards)) if i not in files}
    writer = stack.enter_context(ShardWriter(folder, plan.shards, plan.settings.direct_io, others))
    return Child(plan, writer, on_file, [t for t in plan.tensors if t.out.shard in files])


def recording(add: OnFile, shown: Progress) -> OnFile:
    """Returns what records a finished file, and then shows it."""

    def finished(file: WeightFile) -> None:
        add(file)
        shown.file(file.name, file.nbytes)

    return finished


def write_beside(
    folder: Path, plan: MergePlan, files: Mapping[str, SideFile], digests: Mapping[str, str]
) -> None:
    """Writes the index, the config, the tokenizer and the like.

    Args:
        folder: The staging folder.
        plan: The plan of the merge.
        files: The side files.
        digests: Their digests when the merge was planned.

    Raises:
        CheckpointError: A file has changed since the merge was planned.
        OSError: The disk is full or failing.
    """
    if len(plan.shards) > 1:
        (folder / INDEX).write_text(index_json(plan.stored, plan.shards), encoding="utf-8")
    write_side_files(files, folder)
    raise_all(
        [
            changed(("file", source))
            for name, source in files.items()
            if file_digest(folder / name, BESIDE) != digests[name]
        ]
    )


def write_records(
    folder: Path,
    parents: Mapping[str, CardParent],
    settings: MergeSettings,
    reports: Sequence[TensorReport],
    name: str,
    made_with: str | None = None,
) -> None:
    """Writes the card with its pictures and the report: how the merged model was made."""
    (folder / REPORT).write_text(report_text(reports), encoding="utf-8")
    pictures = _pictures(parents, reports)
    for picture in pictures:
        (folder / picture.file).parent.mkdir(exist_ok=True)
        (folder / picture.file).write_bytes(utf8(picture.svg))
    card = model_card(parents, settings, reports, name, made_with, has_tokenizer(folder), pictures)
    (folder / CARD).write_bytes(utf8(card))


def _pictures(parents: Mapping[str, CardParent], reports: Sequence[TensorReport]) -> list[Picture]:
    """The card's pictures. What draws them is imported only where there may be any."""
    if not any(report.values or report.angle_deg is not None for report in reports):
        return []
    from fusion_slerp.output.card_pictures import card_pictures

    return card_pictures({label: parent.name for label, parent in parents.items()}, reports)


def write_manifest(
    folder: Path,
    parents: Mapping[str, Mapping[str, Any]],
    settings: MergeSettings,
    weights: Mapping[str, Row] | None = None,
    tensors: Mapping[str, Row] | None = None,
) -> str:
    """Writes the manifest of a folder that has all its other files; reads those that `weights` lacks.

    Args:
        folder: The merged model's folder.
        parents: The fingerprints of the source models, by label.
        settings: The settings of the merge.
        weights: The rows of files whose digests are known.
        tensors: The rows of the tensors, if known.

    Returns:
        The manifest's own digest.
    """
    files = dict(weights or {})
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files:
            is_large = path.suffix == ".safetensors"
            files[name] = row_of(path, settings.checksum if is_large else BESIDE)
    content = manifest_text(parents, settings, files, tensors or {}).encode()
    (folder / MANIFEST).write_bytes(content)
    return digest_of(content, BESIDE)
