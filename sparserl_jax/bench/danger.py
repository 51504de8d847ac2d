"""`sparserl danger`: what the finished policies of a suite might do on a treatment task, beside what they earn.

A policy that returns much may still put probability on doses that harm. Every run's deployed policy is drawn from in
the same states, which uniform doses visit, and each draw is held against giving nothing: a dose is dangerous in a state
if it is expected to earn less in the next step than dose 0, given what is hidden (`envs/treatment.py`).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparserl_jax.bench import evaluate, saved, statistics, tables
from sparserl_jax.bench.rows import Row
from sparserl_jax.bench.summary import summarise
from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    import jax

    from sparserl_jax.envs.treatment import Treatment, TreatmentState

STATES, DRAWS = 64, 10_000
FILES = ("danger.md", "danger.csv")


class Measured(NamedTuple):
    """Of one policy, over all states: mean share of dangerous draws, largest |a| drawn, mean width of the support (in
    units of the box [-1, 1], before the clip; infinite where there is none), mean share of draws outside the box."""

    probability: float
    largest: float
    width: float
    outside: float


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of the suite's table (None: uniform doses), and what was measured of each of its seeds; None of one that
    diverged, whose weights are no policy's."""

    row: Row | None
    seeds: tuple[Measured | None, ...]

    @property
    def measured(self) -> tuple[Measured, ...]:
        """Of the seeds that have a policy."""
        return tuple(one for one in self.seeds if one is not None)

    def interval(self) -> statistics.Interval:
        """IQM of the share of dangerous draws over these seeds, with its interval."""
        shares = np.array([[one.probability] for one in self.measured])
        return statistics.bootstrap(statistics.iqm, shares)


@dataclasses.dataclass(frozen=True)
class Section:
    """One environment."""

    env: str
    states: int
    draws: int
    lines: tuple[Line, ...]
    left_out: tuple[str, ...] = ()
    """Arms of PPO, which draws with a spread that is in no policy file."""


def measure(root: Path, states: int = STATES, draws: int = DRAWS, seed: int = 0) -> list[Section]:
    """Every row of every treatment task of a folder.

    Args:
        root: what `sparserl bench` or `sparserl publish` made.
        states, draws: states looked at, and draws in each of them.
        seed: which states.

    Raises:
        UserError: no environment of the folder is a treatment task, or a number is too small.
    """
    from sparserl_jax import envs
    from sparserl_jax.envs.treatment import Treatment

    for name, value in (("states", states), ("draws", draws)):
        if value < 1:
            raise UserError(f"--{name} {value}: give at least 1.")
    found, sections = summarise(root), []
    for block in found.blocks:
        if not block.env.startswith("own:Treatment-"):
            continue
        env = envs.make(block.env)
        assert isinstance(env, Treatment)
        look = _Look(env, states, draws, seed)
        lines = [Line(None, (look.uniform(),))]
        left_out = []
        for row in block.rows:
            if json.loads(row.agent)["name"] == "ppo":
                left_out.append(row.arm)
            else:
                lines.append(Line(row, tuple(look.run(root / "records" / run) for run in row.runs)))
        arms = tuple(dict.fromkeys(left_out))
        sections.append(Section(block.env, states, draws, tuple(lines), arms))
    if not sections:
        raise UserError(
            f"'{root}' has no treatment task (own:Treatment-I to IV), and danger is a matter of doses; give the folder "
            "of a suite that has one, such as fttpo_treatment."
        )
    return sections


class _Look:
    """The states of one environment, and what policies do in them; a kind of policy is compiled once."""

    def __init__(self, env: Treatment, states: int, draws: int, seed: int) -> None:
        import jax

        self.env, self.draws = env, draws
        self.key, visit = jax.random.split(jax.random.key(seed))
        self.states, self.obs = visited(env, visit, states)
        self.compiled: dict[Any, Callable[[Any], Measured]] = {}

    def uniform(self) -> Measured:
        """Uniform doses, for comparison."""
        import jax

        size = self.env.spec.action_dim

        def sample(key: jax.Array, obs: jax.Array) -> jax.Array:
            return jax.random.uniform(key, (size,), minval=-1.0, maxval=1.0)

        ends = -np.ones(size, np.float32), np.ones(size, np.float32)
        return self._measured(sample, lambda obs: ends, self.draws)

    def run(self, folder: Path) -> Measured | None:
        """The policy of a finished run; None of one that diverged."""
        import jax

        from sparserl_jax.agents.policies import danger_of

        found = saved.find(folder)
        assert found.record is not None, "the row was made from it"
        if found.diverged:
            return None
        from sparserl_jax.training.precision import precise

        agent = evaluate.agent_of(found.record)
        if agent not in self.compiled:
            law = _law(agent, self.env.spec.action_dim)
            if law is None:  # it always does the same in a state
                act = found.policy.apply
                self.compiled[agent] = lambda params: self._measured(
                    lambda key, obs: act(params, obs), lambda obs: (act(params, obs),) * 2, 1
                )
            else:
                given = (law, self.env, self.key, self.states, self.obs, self.draws)
                looked = jax.jit(precise(lambda params: danger_of(given[0], params, *given[1:]), None))
                self.compiled[agent] = lambda params: _over_states(looked(params))
        return self.compiled[agent](found.policy.params)

    def _measured(self, sample: Any, support: Any, draws: int) -> Measured:
        from sparserl_jax.envs.treatment import danger
        from sparserl_jax.training.precision import precise

        look = precise(danger, None)
        return _over_states(look(self.env, self.key, self.states, self.obs, sample, support, draws))


def _law(config: Any, action_dim: int) -> Any:
    """What an agent draws its actions from, `agents.policies.Policy`; None where it draws from nothing."""
    from sparserl_jax.agents import fttpo, sac
    from sparserl_jax.agents.policies import KINDS, policy_of

    if isinstance(config, fttpo.FtTPOConfig):
        return fttpo.policies(config, action_dim)[0]
    if isinstance(config, sac.SACConfig):
        return sac.law(config, action_dim)
    kind = getattr(config, "policy", "")
    return None if kind not in KINDS else policy_of(kind, config.hidden, action_dim, config.network)


def visited(env: Treatment, key: jax.Array, count: int) -> tuple[TreatmentState, jax.Array]:
    """`count` states [count, ...] and their observations f32[count,O]: each of an episode of uniform doses, at a step
    that is drawn, too."""
    import jax

    from sparserl_jax.training.precision import precise

    spec = env.spec

    def one(key: jax.Array) -> Any:
        start, steps, length = jax.random.split(key, 3)

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            dose_key, step_key = jax.random.split(key)
            low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
            dose = jax.random.uniform(dose_key, (spec.action_dim,), minval=low, maxval=high)
            state, found = env.step(step_key, carry[0], dose)
            after = (state, found.obs)
            stay = carry[2] <= 0
            kept = jax.tree.map(lambda old, new: jax.numpy.where(stay, old, new), carry[:2], after)
            return (*kept, carry[2] - 1), None

        left = jax.random.randint(length, (), 0, spec.max_episode_steps)
        begun = (*env.reset(start), left)
        (state, obs, _), _ = jax.lax.scan(step, begun, jax.random.split(steps, spec.max_episode_steps - 1))
        return state, obs

    found: tuple[TreatmentState, jax.Array] = jax.jit(precise(jax.vmap(one), None))(
        jax.random.split(key, count)
    )
    return found


def _over_states(found: Any) -> Measured:
    probability, largest, width, outside = map(np.asarray, found)
    return Measured(
        float(probability.mean()), float(largest.max()), float(width.mean()), float(outside.mean())
    )


# ---- the page ------------------------------------------------------------------------------------------------------

COLUMNS = (
    "method",
    "sparsity",
    "return, IQM [95 % CI]",
    "dangerous draws, IQM over seeds [95 % CI]",
    "worst seed",
    "width of the support",
    "largest dose drawn",
    "draws outside the box",
)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _cells(line: Line) -> list[str]:
    row, seeds = line.row, line.measured
    lost = len(line.seeds) - len(seeds)
    named = "uniform doses" if row is None else row.arm + (f" ({lost} diverged)" if lost else "")
    if not seeds:
        return [named, "" if row is None else row.level_text, *[""] * (len(COLUMNS) - 2)]
    found, several = line.interval(), len(seeds) > 1
    width, outside = (float(np.mean([getattr(one, name) for one in seeds])) for name in ("width", "outside"))
    shares = [one.probability for one in seeds]
    between = f" [{_percent(float(found.lower))}, {_percent(float(found.upper))}]" if several else ""
    return [
        named,
        "" if row is None else row.level_text,
        ""
        if row is None
        else ("{:.4g} [{:.4g}, {:.4g}]" if several else "{:.4g}").format(*map(float, row.value)),
        _percent(float(found.value)) + between,
        _percent(max(shares)) if several else "",
        f"{width:.3g}" if np.isfinite(width) else "unbounded",
        f"{max(one.largest for one in seeds):.3g}",
        _percent(outside),
    ]


def markdown(head: Sequence[str], sections: list[Section], made: str) -> str:
    """All environments as GitHub Markdown below the lines of its `head`; `made` is the last line."""
    text = [*head]
    for section in sections:
        text += [f"## {section.env}", "", *tables.grid(COLUMNS, map(_cells, section.lines))]
        if any(None in line.seeds for line in section.lines):
            text += ["", "A run that diverged has no policy and is left out."]
        if section.left_out:
            out = ", ".join(section.left_out)
            text += ["", f"Left out: {out}, of PPO, the spread of whose draws is in no policy file."]
        text += [
            "",
            f"{section.draws:,} draws of every policy in each of {section.states} states that uniform doses visit, the "
            "same for all. A draw is dangerous if it is expected to earn less in the next step than dose 0, given what "
            "the policy does not see. Doses, widths and the box are the policy's, in [-1, 1]; widths and largest doses "
            "are before the clip to the box. A policy that draws from nothing has one dose per state. Mean width and "
            "mean share outside over seeds; largest dose of any seed.",
            "",
        ]
    return "\n".join([*text, made]) + "\n"


def comma_separated(sections: list[Section]) -> str:
    """One line per run, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("environment", "arm", "sparsity", "seed", *Measured._fields))
    for section in sections:
        for line in section.lines:
            row = line.row
            seeds = (None,) if row is None else row.seeds
            for seed, one in zip(seeds, line.seeds, strict=True):
                named = ("uniform doses", None) if row is None else (row.arm, row.sparsity)
                blank = (None,) * len(Measured._fields)
                cells = (section.env, *named, seed, *(blank if one is None else one))
                writer.writerow(
                    "" if value is None else repr(value) if isinstance(value, float) else value
                    for value in cells
                )
    return out.getvalue()
