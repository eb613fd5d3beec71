"""An architecture under test: two tiny models of it in folders, and how to load what is made of them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.architectures.building import Architecture, auto_class, build, save, tiny_config, words
from tests.architectures.weights import weights

T = 0.3
MOST_PARAMETERS = 6_000_000


class NotBuilt(Exception):
    """transformers does not build or load a model of this architecture."""


class Wrong(Exception):
    """A merged model is not what it has to be."""


@dataclass
class Subject:
    """Two models of one architecture, `a` and `b`, and merged models next to them.

    Attributes:
        architecture: Theirs.
        folder: A folder of their own.
        config: Of both.
        model: A model in memory: a.
        inputs: What the model takes besides tokens; None if no attempt to run it succeeded.
        reason: Why it does not run.
        remarks: What the check that runs at the moment has to say besides its outcome.
        loader: The class that loads both: the automatic one if it can; None until the first is loaded.
    """

    architecture: Architecture
    folder: Path
    config: Any
    model: Any
    inputs: Mapping[str, Any] | None = None
    reason: str = ""
    remarks: list[str] = field(default_factory=list)
    loader: Any = None

    @property
    def a(self) -> Path:
        """The first model's folder."""
        return self.folder / "a"

    @property
    def b(self) -> Path:
        """The second model's folder."""
        return self.folder / "b"

    def load(self, folder: Path) -> Any:
        """Loads a folder with the model's own class, and returns the model.

        Raises:
            Wrong: A tensor is missing, unexpected, of another shape, or different from the one in the files.
        """
        if self.loader is None:  # the automatic class does not know the types of all parts that it builds
            auto = auto_class(self.architecture.kind)
            self.loader = auto if _is_mapped(auto, folder) else type(self.model)
        model, info = self.loader.from_pretrained(folder, output_loading_info=True)
        wrong = [f"{kind}: {', '.join(sorted(map(str, names))[:3])}" for kind, names in info.items() if names]
        if wrong:
            raise Wrong(f"loads with {'; '.join(wrong)}")
        return model.eval()


def _is_mapped(auto: Any, folder: Path) -> bool:
    from transformers import AutoConfig

    return type(AutoConfig.from_pretrained(folder)) in auto._model_mapping


def prepare(architecture: Architecture, folder: Path) -> Subject:
    """Builds and saves both models; what transformers does not load again itself counts as not built.

    Raises:
        NotBuilt: transformers raises an error, or makes another model of the files than was saved.
    """
    try:
        config = tiny_config(architecture)
        check_size(architecture.kind, config)
        model = build(architecture.kind, config, seed=1)
        subject = Subject(architecture, folder, config, model)
        save(model, subject.a, words())
        save(build(architecture.kind, config, seed=2), subject.b, words())
        same_as_files(subject.load(subject.a), subject.a)
    except Wrong as error:
        raise NotBuilt(f"transformers saves the model, but {error}") from None
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(in_a_line(error)) from None
    return subject


def check_size(kind: str, config: Any) -> None:
    """Raises NotBuilt if the rules for sizes leave a model too large, before any memory is taken for it."""
    import torch

    with torch.device("meta"):
        model = auto_class(kind).from_config(copy.deepcopy(config))
    n = sum(each.numel() for each in model.parameters())
    if n > MOST_PARAMETERS:
        raise NotBuilt(f"has {n} parameters, more than {MOST_PARAMETERS}, although it was made small")


def in_a_line(error: BaseException) -> str:
    """Returns the class and the text of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:240]


def same_as_files(model: Any, folder: Path, **how: Any) -> None:
    """Compares a loaded model, saved again, with the files it was loaded from.

    Raises:
        Wrong: A tensor differs, or is in no file: it was made at random.
    """
    again = folder.with_name(f"{folder.name}-again")
    model.save_pretrained(again, **how)
    stored, saved = weights(folder), weights(again)
    for name, value in saved.items():
        if name not in stored or not same(stored[name], value):
            raise Wrong(f"once loaded, {name} is not what the files hold")


def same(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two tensors are equal, NaN to NaN, whatever the sign of zero."""
    return x.shape == y.shape and x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
