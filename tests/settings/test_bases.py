"""A base that is missing, or has no purpose: for every method."""

import pytest

from fusion_slerp import SettingsError, merge, plan_merge
from fusion_slerp.methods import METHODS
from fusion_slerp.settings.bases import without_base, wrong_base
from fusion_slerp.settings.merge_settings import make_settings
from tests.models import write_checkpoint

of_kind = {
    kind: [each for each in METHODS.values() if each.base == kind] for kind in ("none", "optional", "needed")
}


def settings_of(method, **options):
    return make_settings(method=method.name, **options)


@pytest.mark.parametrize("method", of_kind["optional"], ids=lambda method: method.name)
def test_interpolation_towards_a_base_that_is_not_given_is_refused(method):
    (problem,) = wrong_base(None, settings_of(method, towards_base=0.3))
    assert problem.text("python").splitlines() == [
        "towards_base without a base",
        "  towards_base: 0.3",
        "  needed: a base: the result is interpolated towards it",
        "Fix: name the models' common ancestor: base='FOLDER', or leave out towards_base",
    ]
    assert "--base FOLDER, or" in problem.text("command")
    assert "++modelpool.models._pretrained_=FOLDER, or" in problem.text("hydra")
    assert wrong_base(None, settings_of(method)) == []
    assert wrong_base("base", settings_of(method, towards_base=0.3)) == []


@pytest.mark.parametrize("method", of_kind["optional"], ids=lambda method: method.name)
def test_a_base_that_would_have_no_effect_is_refused(method):
    problems = wrong_base("base", settings_of(method))
    assert bool(problems) == method.base_is_target
    for problem in problems:
        assert problem.headline == "a base without effect"
        assert problem.text("command").endswith("leave out base, or use --towards-base 0.3")


@pytest.mark.parametrize("method", of_kind["needed"], ids=lambda method: method.name)
def test_a_base_that_is_needed_is_missed_once(method):
    (problem,) = wrong_base(None, settings_of(method, towards_base=0.3))
    assert problem.headline == f"{method.name} needs a base"
    assert wrong_base("base", settings_of(method)) == []


@pytest.mark.parametrize("method", of_kind["none"], ids=lambda method: method.name)
def test_a_base_that_is_not_taken_is_refused(method):
    (problem,) = wrong_base("base", settings_of(method))
    assert problem.headline == f"{method.name} takes no base"
    assert wrong_base(None, settings_of(method)) == []
    assert without_base(settings_of(method)) == []


def test_a_merge_is_refused_before_anything_is_written(tmp_path):
    models = [write_checkpoint(tmp_path / name, seed=i) for i, name in enumerate("ab")]
    with pytest.raises(SettingsError, match=r"^towards_base without a base\n"):
        merge(*models, out=tmp_path / "child", towards_base=0.5)
    assert not (tmp_path / "child").exists()
    with pytest.raises(SettingsError, match=r"^towards_base without a base\n"):
        plan_merge(*models, towards_base=1)
