"""Danger of finished policies: the states looked at, and what is told of real runs."""

from __future__ import annotations

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax import cli, envs
from sparserl_jax.agents import sac
from sparserl_jax.bench import danger, evaluate, suites
from sparserl_jax.bench import plan as plans
from sparserl_jax.bench import run as runs
from sparserl_jax.envs.treatment import expected_reward
from sparserl_jax.errors import UserError
from tests.bench import fake
from tests.bench.test_algorithms import offline


def test_states_are_those_that_uniform_doses_visit_at_any_step():
    env = envs.make("own:Treatment-III")
    states, obs = danger.visited(env, jax.random.key(0), 400)
    again, _ = danger.visited(env, jax.random.key(0), 400)
    assert obs.shape == (400, 8) and np.array_equal(states.origin, again.origin)
    # All doses of an episode push the first four means alike, so these draw together from step to step.
    fresh, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 400))
    apart, at_start = (np.ptp(np.asarray(of.origin)[:, 0, :4], axis=1) for of in (states, fresh))
    assert np.mean(at_start < 0.2) < 0.1 and 0.6 < np.mean(apart < 0.2) < 0.95
    assert np.mean(apart > 0.6) == pytest.approx(np.mean(at_start > 0.6) / 24, abs=0.06), "some are starts"


def test_uniform_doses_are_as_dangerous_as_a_grid_of_doses_says():
    env = envs.make("own:Treatment-III")
    look = danger._Look(env, states=16, draws=4000, seed=3)
    grid = jnp.linspace(-1.0, 1.0, 2001)[:, None]

    def share(state):
        earned = jax.vmap(lambda dose: expected_reward(env, state, dose)[0])(grid)
        return jnp.mean(earned < expected_reward(env, state, jnp.zeros(1))[0])

    oracle = float(jnp.mean(jax.vmap(share)(look.states)))
    found = look.uniform()
    assert found.probability == pytest.approx(oracle, abs=0.01) and 0.2 < oracle < 0.9
    assert found.width == 2.0 and found.outside == 0.0 and 0.99 < found.largest <= 1.0


def test_a_folder_without_doses_and_too_few_draws_are_refused(tmp_path):
    plan = fake.make_plan(**fake.SMALL)
    runs.run(plan, tmp_path / "x", fake.quiet(), execute=fake.Execute(plan))
    with pytest.raises(UserError, match="has no treatment task"):
        danger.measure(tmp_path / "x")
    with pytest.raises(UserError, match="--draws 0: give at least 1"):
        danger.measure(tmp_path / "x", draws=0)


def test_what_sac_draws_from_is_looked_at():
    """Draws with their mode at what acts, in the open box; behaviour cloning, which nobody chooses, draws nothing."""
    config = sac.SACConfig(hidden=(8, 8))
    parts, obs = sac.modules((8, 8), 2), jnp.linspace(-1.0, 1.0, 8)
    params = parts.actor.init(jax.random.key(0), obs)["params"]
    law = danger._law(config, 2)
    known = law.distribution(params, obs)
    np.testing.assert_array_equal(known.mode, parts.policy(params, obs))
    one, other = (known.unclipped(jax.random.key(seed)) for seed in (1, 2))
    learned = sac.policy_of(parts.actor, params, obs).sample(jax.random.key(1))[0]
    assert np.array_equal(one, learned) and not np.any(one == other)
    assert [end.tolist() for end in known.support] == [[-1, -1], [1, 1]]
    told = {"config": {"training": {"agent": {"name": "behaviour_cloning", "hidden": [8, 8]}}}}
    assert danger._law(evaluate.agent_of({"provenance": told}), 2) is None


def test_arms_of_ppo_are_left_out_and_named(tmp_path, monkeypatch):
    """It draws from a normal distribution whose spread is in no file: by its mode alone it would look harmless."""
    found = fake.make_plan(**{**fake.SMALL, "environments": [{"name": "own:Treatment-I"}]})
    fake.finished(tmp_path / "x", found)
    told = danger.summarise(tmp_path / "x")
    (block,) = told.blocks
    rows = [
        dataclasses.replace(row, agent='{"name": "ppo"}') if row.arm == "rlx2" else row for row in block.rows
    ]
    changed = dataclasses.replace(told, blocks=(dataclasses.replace(block, rows=tuple(rows)),))
    monkeypatch.setattr(danger, "summarise", lambda root: changed)
    monkeypatch.setattr(danger._Look, "run", lambda look, folder: danger.Measured(0.1, 0.5, 0.0, 0.0))
    (section,) = danger.measure(tmp_path / "x", states=2, draws=10)
    assert section.left_out == ("rlx2",) and "rlx2" not in [line.row.arm for line in section.lines[1:]]
    page = danger.markdown(["# t"], [section], "made")
    assert "Left out: rlx2, of PPO" in page


@pytest.mark.long
def test_every_kind_of_policy_is_looked_at(tmp_path, capsys):
    thin = {"recipe": "dense", "name": "thin", "agent": {"name": "fttpo_corrected"}}
    fixed = {"name": "td3_bc", "hidden": [8, 8], "batch_size": 16}
    plan = plans.make(suites.parse(offline(thin, agent=fixed), "x"))
    runs.run(plan, tmp_path / "x", fake.quiet())
    assert cli.run(["danger", str(tmp_path / "x"), "--states", "8", "--draws", "200"]) == 0
    said = capsys.readouterr().out
    assert "| uniform doses |" in said and "200 draws of every policy in each of 8 states" in said
    page = (tmp_path / "x/danger.md").read_text()
    assert page.splitlines()[-1].startswith("Made by `sparserl danger x --states 8 --draws 200`: ")
    assert cli.run(["danger", str(tmp_path / "x")]) == 2
    assert "has danger.md and danger.csv already" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "x/danger.csv").open()))
    assert [row["arm"] for row in rows] == [
        "uniform doses",
        *(n for n in ("dense", "thin") for _ in (0, 1)),
    ]
    for row in rows:
        assert 0 <= float(row["probability"]) <= 1 and 0 <= float(row["outside"]) <= 1
    widths = {row["arm"]: float(row["width"]) for row in rows}
    assert widths["dense"] == 0 and 0 < widths["thin"] < 2.4


def test_a_run_that_diverged_is_no_harmless_policy():
    """Weights that are no numbers draw no dangerous dose, and no other one either."""
    seen = danger.Measured(0.3, 0.5, 1.0, 0.0)
    row = dataclasses.make_dataclass("Row", ["arm", "level_text", "value", "seeds", "sparsity"])(
        "fttpo", "0.9", (1.0, 0.9, 1.1), (0, 1, 2), 0.9
    )
    line = danger.Line(row, (seen, None, seen))
    assert float(line.interval().value) == 0.3
    section = danger.Section("own:Treatment-I", 4, 100, (line, danger.Line(row, (None,) * 3)))
    page = danger.markdown(["# t"], [section], "made")
    assert "| fttpo (1 diverged) | 0.9 | 1 [0.9, 1.1] | 30 % [30 %, 30 %] | 30 % | 1 | 0.5 | 0 % |" in page
    assert "| fttpo (3 diverged) | 0.9 |  |  |  |  |  |  |" in page and "is left out" in page
    lines = danger.comma_separated([section]).splitlines()
    assert lines[2] == "own:Treatment-I,fttpo,0.9,1,,,,"
