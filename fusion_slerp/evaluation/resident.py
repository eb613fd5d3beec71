"""One model in memory that becomes one merge after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion_slerp.api import Model, open_parents
from fusion_slerp.engine.executor import execute
from fusion_slerp.engine.memory_sink import MemorySink
from fusion_slerp.engine.progress import progress
from fusion_slerp.errors import CheckpointError, Problem, listed, raise_all
from fusion_slerp.garbage import rare_searches
from fusion_slerp.options import declared
from fusion_slerp.planning.plan import MergePlan
from fusion_slerp.planning.planner import make_plan
from fusion_slerp.planning.resources import check_resources
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings
from fusion_slerp.sources.regular_files import reading_models

if TYPE_CHECKING:
    from torch import nn

    from fusion_slerp.engine.steps import Measured


class ResidentModel:
    """A model whose weights are overwritten by each merge of the same source models.

    The source models are opened once, and what a method measures of tensors larger than a chunk is measured
    once: a merge with other values reads their files again, from the page cache as a rule, and combines.
    Memory is that of one merged model and the buffers of a merge.

    Args:
        models: The models, without the base: folders or hub ids.
        base: The ancestor; None without.
        options: Options of a merge, by which the models are opened.
        loader: The transformers class that loads the model; None for AutoModelForCausalLM.
        load_kwargs: Its arguments; by default, the weights keep their types.

    Raises:
        FusionSlerpError: A model cannot be opened, or an option is wrong.
    """

    def __init__(
        self,
        models: Sequence[Model],
        base: Model | None,
        options: Mapping[str, Any],
        loader: Any = None,
        load_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.parents = open_parents(models, base, make_settings(**options))
        self._loader = loader
        self._load_kwargs = {"dtype": "auto"} if load_kwargs is None else load_kwargs
        self._measured: Measured = {}
        self._measured_by: object = None
        self._sink: MemorySink | None = None
        self._plan: MergePlan | None = None
        self._model: nn.Module | None = None

    def plan(self, options: Mapping[str, Any]) -> MergePlan:
        """Returns the plan of a merge.

        Raises:
            FusionSlerpError: As `fusion_slerp.plan_merge`.
        """
        with reading_models(), rare_searches():
            plan = make_plan(self.parents, make_settings(**options))
        # Words are rarely measured again, so none are kept in memory for that.
        return replace(plan, memory=replace(plan.memory, kept_chunks=0))

    def at(self, options: Mapping[str, Any]) -> nn.Module:
        """Returns the model, with the weights of a merge with these options.

        The model returned before has them as well, unless it was moved to another device, or the options
        change its shape.

        Raises:
            FusionSlerpError: As `fusion_slerp.merge_into_memory`; CheckpointError if the model's class has
                weights that the source models lack.
        """
        plan = self.plan(options)
        is_new = self._sink is None or self._plan is None or plan.slots != self._plan.slots
        if is_new:
            self._sink = self._model = None  # their memory is needed
            raise_all(check_resources(plan, is_in_memory=True))
            self._sink = MemorySink(plan)
        assert self._sink is not None, "made above"
        with progress([plan]) as shown:
            execute(plan, self._sink, on_bytes=shown, measured=self._known_for(plan.settings))
        self._plan = plan
        if self._model is None or not self._sink.holds(self._model):
            self._model = None
            self._model = self._built(plan, self._sink)
        return self._model

    def _known_for(self, settings: MergeSettings) -> Measured:
        """What is measured already; nothing, if other options than the method's have changed."""
        of_values = declared(settings.how.options).keys() - {"granularity"}
        others = {name: value for name, value in settings.options.items() if name not in of_values}
        if others != self._measured_by:
            self._measured, self._measured_by = {}, others
        return self._measured

    def _built(self, plan: MergePlan, sink: MemorySink) -> nn.Module:
        from transformers import AutoModelForCausalLM

        from fusion_slerp.evaluation.building import build_model

        loader = AutoModelForCausalLM if self._loader is None else self._loader
        model, missing = build_model(plan, sink.state_dict(), loader, self._load_kwargs)
        if missing:
            fields = (("model", next(iter(self.parents.values())).source), ("missing", listed(missing, 5)))
            fix = "use models that contain all weights of their class"
            headline = f"the merged model lacks weights that {type(model).__name__} has"
            raise Problem(CheckpointError, headline, fields, fix).error()
        return model.eval()
