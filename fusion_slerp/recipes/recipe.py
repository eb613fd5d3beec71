"""A recipe that has been read, and the faults that are collected while reading one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, nearest, raise_all
from fusion_slerp.methods import DEFAULT, METHODS
from fusion_slerp.settings.labels import BASE, labels
from fusion_slerp.settings.merge_settings import MergeSettings, make_settings


@dataclass(frozen=True, slots=True)
class Recipe:
    """A merge: `merge(*recipe.models, base=recipe.base, out=..., **recipe.options)`.

    Attributes:
        models: Models a, b, c, ...: each a folder or Hub id, with `@revision` if it has one.
        options: By name, without those that the recipe leaves open.
        base: The ancestor, for methods that take one; None without one.
        notes: Remarks for the user, one sentence each; ignored when two recipes are compared.
    """

    models: tuple[str, ...]
    options: Mapping[str, Any]
    base: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def named(self) -> dict[str, str]:
        """The models by label."""
        named = dict(zip(labels(len(self.models)), self.models, strict=True))
        return named if self.base is None else named | {BASE: self.base}

    @property
    def method(self) -> str:
        """The name of its method."""
        return self.options.get("method", DEFAULT)

    @property
    def settings(self) -> MergeSettings:
        """The settings from its options.

        Raises:
            SettingsError: An option is unknown or invalid.
        """
        return make_settings(**self.options)


@dataclass(frozen=True, slots=True)
class Findings:
    """Collects findings while a recipe is read. Faults are raised together at the end.

    Attributes:
        recipe: The user's name for it, usually a file.
        faults: What is wrong with it.
        notes: Remarks for the user.
    """

    recipe: str
    faults: list[Problem | FusionSlerpError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, headline: str, fix: str, *, found: object = None, needed: str = "") -> None:
        """Records a fault; the headline starts with the path of the YAML key if there is one."""
        fields = [("recipe", self.recipe)]
        fields += [] if found is None else [("found", _shown(found))]
        fields += [("needed", needed)] if needed else []
        self.faults.append(Problem(SettingsError, headline, tuple(fields), fix))

    def unknown_keys(
        self, given: Mapping[Any, Any], known: Iterable[str], key: str, ignored: Iterable[str] = ()
    ) -> None:
        """Records every key of a mapping that nothing reads.

        Args:
            given: The mapping.
            known: The keys that are read.
            key: The mapping's own key.
            ignored: Keys without effect, which a misspelt one may have meant.
        """
        known, ignored = list(known), list(ignored)
        for name in given:
            if name not in known:
                hint = nearest(str(name), known) or nearest(str(name), ignored)
                needed = f"one of {', '.join(known)}" if known else "no parameter"
                headline = f"{join(key, name)} is not a key of a recipe{hint}"
                self.fault(headline, "correct its name or remove it", needed=needed)

    def note_without_effect(
        self, given: Mapping[Any, Any], names: Iterable[str], key: str, method: str
    ) -> None:
        """Notes the parameters that a method of mergekit ignores."""
        for name in given:
            if name in names:
                self.note(f"{join(key, name)}: has no effect in mergekit's {method}, nor here")

    def note(self, text: str) -> None:
        """Records a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def raise_faults(self) -> None:
        """Raises all recorded faults at once.

        Raises:
            SettingsError: There is a fault.
        """
        raise_all(self.faults, so="nothing was read or written")


def check_base(recipe: Recipe, findings: Findings) -> None:
    """Records a fault if a recipe has a base that its method does not take, or lacks one that it needs."""
    how = METHODS[recipe.method]
    is_idle = how.base_is_target and not recipe.options.get("towards_base")
    if recipe.base is not None and (how.base == "none" or is_idle):
        headline = f"{recipe.method} takes no base" + " without towards_base" * is_idle
        findings.fault(headline, "remove the base", found=recipe.base)
    elif recipe.base is None and how.base == "needed":
        findings.fault(f"{recipe.method} needs a base", "name the models' ancestor as the base")


def join(key: str, name: object) -> str:
    """Returns the path of a key inside another: `parameters` and `t` give `parameters.t`."""
    return f"{key}.{name}" if key else str(name)


def _shown(found: object) -> str:
    shown = found if isinstance(found, str) else repr(found)
    return shown if len(shown) <= 200 else shown[:200] + "..."
