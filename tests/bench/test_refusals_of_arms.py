"""Whatever is refused about an arm names it, once: a suite has many."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sparserl_jax.bench import sources
from sparserl_jax.errors import UserError
from tests.bench import fake

GOOD: dict[str, Any] = {"recipe": "rlx2", "name": "odd"}


@pytest.mark.parametrize(
    "changes",
    [
        {"seedz": 3},
        {"recipe": "rlx3"},
        {"seeds": "five"},
        {"set": 3},
        {"set": {"m": 3}},
        {"set": {"n": 0}},
        {"ticket": {"arms": "dense"}},
        {"ticket": {"arm": "nobody"}},
        {"clone": "nobody"},
        {"name": "odd-"},
        {"recipe": "l0"},
        {"sparsities": []},
        {"sparsities": [0.5, 0.5]},
        {"sparsities": [1.5]},
        {"sparsities": [0.9999]},
        {"recipe": "dense_rvl", "sparsities": [0.8]},
        {"sparsities": [0.5], "critic_sparsities": [0.5, 0.6]},
        {"sparsities": [0.5], "critic_sparsities": [-1.0]},
        {"seeds": 0},
        {"seeds": 10**6},
        {"role": "king"},
        {"overrides": 3},
        {"overrides": {"tau": 2.0}},
        {"overrides": {"hidden": 3}},
        {"width": 1},
    ],
    ids=str,
)
def test_a_refused_arm_is_named_once(changes):
    arm = {**GOOD, **changes}
    with pytest.raises(UserError) as error:
        fake.make_plan(arms=[{"recipe": "dense"}, arm])
    told = str(error.value)
    named = told.count(f"arm '{arm['name']}'") + told.count(f"arm name '{arm['name']}'")
    assert named == 1 and "\n" not in told, told


def test_an_arm_without_a_name_has_that_of_its_recipe_or_its_number():
    for arm, called in (({"recipe": "rlx3"}, "'rlx3'"), ({"seeds": 3}, "2"), (3, "2")):
        with pytest.raises(UserError, match=rf"\[\[arms\]\].*arm {called}"):
            fake.make_plan(arms=[{"recipe": "dense"}, arm])


def test_what_does_not_fit_the_environment_names_the_arm():
    agent = {"name": "dqn", "hidden": [16, 16], "batch_size": 32}
    with pytest.raises(
        UserError, match="suite 'mini', arm 'odd' on gymnax:Pendulum-v1: agent 'dqn' does not"
    ):
        fake.make_plan(agent=agent, arms=[{"recipe": "dense", "name": "odd", "role": "dense"}])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"overrides": (("tau", 2.0),)}, "'tau' must be a number"),
        ({"overrides": (("buffer_max", 10**6),)}, "buffer_max = 1000000 is more than the suite's"),
        ({"warm_up": 8, "n": 20}, "windows of n = 20 steps are longer than the warm-up"),
        ({"warm_up": 4000}, "warm_up = 4000 leaves no training"),
    ],
)
def test_what_a_run_refuses_names_its_arm(changes, sentence):
    run = fake.make_plan(arms=[{"recipe": "dense"}, GOOD]).runs[-1].run
    changes = dict(changes)
    if "warm_up" in changes:
        run = dataclasses.replace(
            run, training=dataclasses.replace(run.training, warm_up=changes.pop("warm_up"))
        )
    if "n" in changes:
        run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, n=changes.pop("n")))
    with pytest.raises(UserError) as error:
        dataclasses.replace(run, **changes).check()
    assert sentence in str(error.value) and str(error.value).count("'odd'") == 1
    assert str(error.value).startswith("arm 'odd': ")


def test_clones_on_the_host_are_refused_by_name():
    arms = [{"recipe": "dense"}, {"recipe": "static", "name": "odd", "clone": "dense"}]
    with_clones = [program for program in fake.make_plan(arms=arms).programs if "expert" in program.name]
    with pytest.raises(UserError, match="^arm 'odd': .* runs on the host, where no policy can be cloned"):
        sources.check_programs([dataclasses.replace(program, host=True) for program in with_clones])
