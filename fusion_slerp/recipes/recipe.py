"""What a recipe comes to, and the collecting of what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusion_slerp.errors import FusionSlerpError, Problem, SettingsError, nearest, raise_all


@dataclass(frozen=True, slots=True)
class Recipe:
    """A merge: `merge(recipe.a, recipe.b, out=..., **recipe.options)`.

    Attributes:
        a: Parent a (t = 0): a folder or hub id, with `@revision` if it has one.
        b: Parent b (t = 1).
        options: Fields of `MergeSettings`; those that the recipe leaves open are not there.
        notes: What the user should know of the reading, one sentence each. Two recipes are equal
            whatever their notes say.
    """

    a: str
    b: str
    options: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Findings:
    """What is found while a recipe is read. Faults are raised together at the end.

    Attributes:
        recipe: What the user calls it: a file, as a rule.
        faults: What is wrong.
        notes: What is worth saying.
    """

    recipe: str
    faults: list[Problem | FusionSlerpError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, headline: str, fix: str, *, found: object = None, needed: str = "") -> None:
        """Records a fault; the headline starts with the YAML key path where there is one."""
        fields = [("recipe", self.recipe)]
        fields += [] if found is None else [("found", _shown(found))]
        fields += [("needed", needed)] if needed else []
        self.faults.append(Problem(SettingsError, headline, tuple(fields), fix))

    def unknown_keys(self, given: Mapping[Any, Any], known: Iterable[str], key: str) -> None:
        """Records every key of a mapping that nobody reads."""
        known = list(known)
        for name in given:
            if name not in known:
                headline = f"{join(key, name)} is not a key of a recipe{nearest(str(name), known)}"
                self.fault(headline, "correct its name or remove it", needed=f"one of {', '.join(known)}")

    def note(self, text: str) -> None:
        """Records something worth saying, once."""
        if text not in self.notes:
            self.notes.append(text)

    def raise_faults(self) -> None:
        """Raises what was recorded, all at once.

        Raises:
            SettingsError: There is a fault.
        """
        raise_all(self.faults, so="nothing was read or written")


def join(key: str, name: object) -> str:
    """Returns the path of a key inside another: `parameters` and `t` give `parameters.t`."""
    return f"{key}.{name}" if key else str(name)


def _shown(found: object) -> str:
    text = found if isinstance(found, str) else repr(found)
    return text if len(text) <= 200 else text[:200] + "..."
