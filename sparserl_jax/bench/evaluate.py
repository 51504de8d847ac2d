"""`sparserl evaluate`: a recorded run evaluated again, to the last bit, or a policy on fresh episodes.

A record says on which keys its policy was evaluated: they follow from the environment's name, the step and the number
of the evaluation. The same machine and versions therefore give the same returns. XLA may compile a matrix product
differently for one policy than for a population; where a policy on its own does not give the recorded bits, it is
evaluated in a population of the recorded size, at its own place in it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import provenance, records, statistics
from sparserl_jax.bench.saved import Saved
from sparserl_jax.errors import UserError
from sparserl_jax.references import unlabelled

if TYPE_CHECKING:
    from sparserl_jax.bench.policy import Policy
    from sparserl_jax.envs import Environment, HostEnvironment

EPISODES = 100
"""Episodes of a fresh evaluation that asks for no number."""
AT_ONCE = 100
"""Episodes side by side in a fresh evaluation."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What one evaluation of a run says: the last curve point, the final returns and their mean; None: not finite."""

    point: float | None
    final: tuple[float | None, ...]
    score: float | None

    def differing(self, other: Numbers) -> int:
        """How many returns are not the same to the last bit, the curve point counted as one."""
        pairs = zip(self.final, other.final, strict=True)
        return sum(a != b for a, b in pairs) + (self.point != other.point)

    def distance(self, other: Numbers) -> float:
        """Largest difference between two returns that both have a number."""
        pairs = zip((*self.final, self.point), (*other.final, other.point), strict=True)
        return max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Recorded numbers beside the same computed again.

    alone: of the policy evaluated on its own. together: in a population of `members` copies, None where not needed.
    different: what is not as it was when the run was recorded, `name: then -> now`.
    """

    name: str
    recorded: Numbers
    alone: Numbers
    together: Numbers | None
    members: int
    different: tuple[str, ...]

    @property
    def found(self) -> Numbers:
        """The numbers that count: those of the evaluation most like the recorded one."""
        return self.alone if self.together is None else self.together

    @property
    def agrees(self) -> bool:
        """Whether every number is the recorded one, bit for bit."""
        return self.found == self.recorded

    def line(self) -> str:
        """One line: the numbers agree, or by how much they differ and what is different here."""
        recorded, found = self.recorded, self.found
        total = len(recorded.final) + 1
        if self.agrees:
            how = ""
            if self.together is not None:
                apart = recorded.differing(self.alone)
                how = f", in a population of {self.members} as then (alone, {apart} of {total} differ)"
            return (
                f"{self.name}: agrees with its record bit for bit{how}: {len(recorded.final)} final returns, final "
                f"score {_text(recorded.score)}, last curve point {_text(recorded.point)}."
            )
        return (
            f"{self.name}: differs from its record: {recorded.differing(found)} of {total} returns, by up to "
            f"{recorded.distance(found):.3g}; final score {_text(recorded.score)} then, {_text(found.score)} now; last "
            f"curve point {_text(recorded.point)} then, {_text(found.point)} now; different here: "
            f"{', '.join(self.different) or _nothing_different()}."
        )


def _nothing_different() -> str:
    import jax

    text = "neither device nor versions"
    if jax.default_backend() == "cpu":
        return text
    return f"{text} (on accelerators a program that is compiled anew may differ in its last bits)"


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"


def reproduce(saved: Saved) -> Comparison:
    """Evaluate a recorded policy as it was evaluated for its record.

    Raises:
        UserError: no record, no such environment here, or a curve that cannot be read.
    """
    record = saved.record
    if record is None:
        raise UserError(
            f"there is no record.json beside '{saved.path}' to compare with; give --episodes for fresh episodes."
        )
    try:
        point = records.read_curve(saved.folder / "curve.csv")["return"][-1]
    except (OSError, ValueError, LookupError):
        raise UserError(
            f"'{saved.folder / 'curve.csv'}' cannot be read; restore it from the record."
        ) from None
    result, members = record["result"], record["provenance"]["program_members"]
    env = environment(saved)
    recorded = Numbers(point, tuple(result["final_returns"]), result["final_score"])
    alone, together = _again(saved, env, 1, 0), None
    if alone != recorded and len(members) > 1 and record["run_id"] in members:
        together = _again(saved, env, len(members), members.index(record["run_id"]))
    return Comparison(saved.name, recorded, alone, together, len(members), tuple(_different(saved)))


def fresh(saved: Saved, env: str | None = None, episodes: int = EPISODES, seed: int = 0) -> np.ndarray:
    """Undiscounted returns f32[episodes] of new episodes, played as the training's evaluations were (see `sampler`);
    one seed gives every policy the same initial states.

    Args:
        env: another environment's name; default that of the training.
        episodes: at least 1.
        seed: names the episodes, which are never those of any training's evaluation.

    Raises:
        UserError: numbers out of range, a policy that diverged, or an environment that does not fit it.
    """
    if episodes < 1 or seed < 0:
        raise UserError(
            f"episodes = {episodes}, seed = {seed}: give at least 1 episode and a seed of 0 or more."
        )
    saved.check_played()
    played = environment(saved, env)
    key, at_once = fresh_key(played.spec.name, seed), min(episodes, AT_ONCE)
    draw = sampler(saved, played)
    evaluated = _evaluation(saved.policy, played, key, 1, at_once, declared_precision(saved), draw)
    return gathered(lambda repeat: evaluated(0, repeat), episodes)[0]


def gathered(evaluated: Callable[[int], np.ndarray], episodes: int) -> np.ndarray:
    """Returns f32[members, episodes] from evaluations of `AT_ONCE` episodes, or fewer where fewer are wanted."""
    parts = [evaluated(repeat) for repeat in range(-(-episodes // AT_ONCE))]
    return np.concatenate(parts, axis=1)[:, :episodes]


def fresh_key(env: str, seed: int) -> np.ndarray:
    """Key data of fresh episodes, the same for every policy."""
    from sparserl_jax.training.population import key_data

    return key_data("fresh evaluation", unlabelled(env), str(seed))


def fresh_lines(saved: Saved, env: str | None, returns: np.ndarray, seed: int) -> list[str]:
    """A fresh evaluation in words: mean with its interval over episodes, and the extremes."""
    name = saved.policy.description["env"] if env is None else env
    found = statistics.bootstrap(statistics.mean, returns[:, None], resamples=2000)
    interval = (
        f"95 % interval over episodes {found.lower:.6g} to {found.upper:.6g}" if returns.size > 1 else ""
    )
    mean, worst, best = found.value, returns.min(), returns.max()
    numbers = [f"mean {mean:.6g}", interval, f"worst {worst:.6g}", f"best {best:.6g}"]
    drawn = ", actions drawn" if sampled(saved) else ""
    return [
        f"{saved.name} on {name}: {returns.size} fresh episode{'s' * (returns.size > 1)}, seed {seed}{drawn}",
        "   ".join(number for number in numbers if number),
    ]


def environment(saved: Saved, name: str | None = None) -> Environment | HostEnvironment:
    """The environment of a policy's training, or another one that fits it.

    Raises:
        UserError: it cannot be made here, or its spaces are not those of the policy.
    """
    from sparserl_jax import envs

    described = saved.policy.description
    try:
        env = envs.make(described["env"] if name is None else name)
    except UserError as error:
        if name is not None:
            raise
        raise UserError(
            f"'{saved.name}' was trained on '{described['env']}', which cannot be made here "
            f"({str(error).rstrip('.?')}); name an environment with --env."
        ) from None
    spec = env.spec
    kind = "discrete" if "num_actions" in described else "continuous"
    if kind != spec.actions:
        raise UserError(
            f"'{saved.name}' has {kind} actions, but those of {spec.name} are {spec.actions}; choose an environment "
            "that fits."
        )
    for what, ours, theirs in (
        ("observations", described["obs_dim"], spec.obs_dim),
        ("actions", described["action_dim"], spec.action_dim),
    ):
        if ours != theirs:
            raise UserError(
                f"'{saved.name}' was trained on {described['env']} with {what} of length {ours}, but those of "
                f"{spec.name} have length {theirs}; choose an environment that fits."
            )
    if name is not None:
        envs.check_named(name, env)
    return env


def _again(saved: Saved, env: Environment | HostEnvironment, members: int, place: int) -> Numbers:
    """The last curve point and the final evaluation, with `members` copies of the policy side by side."""
    from sparserl_jax.training.population import key_data

    assert saved.record is not None
    training = _training(saved.record)
    plan, step = training["evaluation"], training["steps"]
    key = key_data("evaluation", unlabelled(training["env"]))
    declared = _precision(saved.record)
    evaluated = _evaluation(saved.policy, env, key, members, plan["episodes"], declared, sampler(saved, env))
    point = records.number(evaluated(step, 0).mean(axis=1)[place])
    parts = [evaluated(step, 1 + repeat) for repeat in range(plan["final_episodes"] // plan["episodes"])]
    final = tuple(records.number(value) for value in np.concatenate(parts, axis=1)[place])
    # What the actions of a diverged network earn is no score.
    return Numbers(None if saved.diverged else point, final, None if saved.diverged else records.mean(final))


def _evaluation(
    policy: Policy,
    env: Environment | HostEnvironment,
    key: np.ndarray,
    members: int,
    episodes: int,
    precision: str | None,
    draw: Callable[..., Any] | None = None,
) -> Callable[[int, int], np.ndarray]:
    """`(step, number of the evaluation) -> returns f32[members, episodes]` of copies of one policy."""
    import jax

    params = jax.tree.map(lambda x: np.broadcast_to(x, (members, *x.shape)), policy.params)
    played = side_by_side(policy, env, key, members, episodes, precision, draw)
    return lambda step, repeat: played(params, step, repeat)


def side_by_side(
    policy: Policy,
    env: Environment | HostEnvironment,
    key: np.ndarray,
    members: int,
    episodes: int,
    precision: str | None,
    draw: Callable[..., Any] | None = None,
) -> Callable[[Any, int, int], np.ndarray]:
    """`(parameters, step, number of the evaluation) -> returns f32[members, episodes]`, compiled once, at a precision
    of matrix products. Members play the same episodes; their parameters are the policy's with an axis of members in
    front, and may differ in everything but shapes. `draw`: see `sampler`."""
    import jax

    from sparserl_jax.envs import HostEnvironment
    from sparserl_jax.envs.host import instances
    from sparserl_jax.training.episodes import BrokenAt, evaluation, play
    from sparserl_jax.training.host_stages import acting
    from sparserl_jax.training.precision import precise
    from sparserl_jax.training.stages import evaluation_returns

    if isinstance(env, HostEnvironment):
        call = acting(policy.apply, draw, precision)
        envs = instances(env, members)

        def on_host(params: Any, step: int, repeat: int) -> np.ndarray:
            act, seeds = evaluation(call, params, key, step, repeat, episodes, draw is not None)
            try:
                return play(envs, act, seeds)
            except BrokenAt as broken:
                raise UserError(
                    f"environment '{env.spec.name}' broke during the evaluation: {broken}; mend it."
                ) from None

        return on_host

    def one(params: Any, key: jax.Array, step: jax.Array, repeat: jax.Array) -> jax.Array:
        act = functools.partial(policy.apply if draw is None else draw, params)
        return evaluation_returns(env, act, key, step, repeat, episodes, draw is not None)

    compiled = jax.jit(jax.vmap(precise(one, precision), in_axes=(0, None, None, None)))
    return lambda params, step, repeat: np.asarray(compiled(params, key, np.int32(step), np.int32(repeat)))


def sampled(saved: Saved) -> bool:
    """Whether the evaluations of a policy's training drew actions; not known to have where there is no record."""
    return saved.record is not None and bool(_training(saved.record)["evaluation"].get("sampled"))


def sampler(saved: Saved, env: Environment | HostEnvironment) -> Callable[..., Any] | None:
    """`Agent.sample_policy` of a policy whose training's evaluations drew actions; None: its mode acts."""
    from sparserl_jax.agents.registry import build
    from sparserl_jax.sparsity import method
    from sparserl_jax.sparsity.contract import Events

    if saved.record is None or not sampled(saved):
        return None
    policy = saved.policy
    config = dataclasses.replace(agent_of(saved.record), hidden=tuple(policy.description["hidden"]))
    events = dict.fromkeys(config.NETWORKS, Events(1, 1, 0.0))  # of methods; acting knows none
    draw = build(config, env.spec, method("dense").family, events).sample_policy
    assert draw is not None, "the training has refused it"

    def drawn(params: Any, obs: Any, key: Any) -> Any:
        with policy.acting():
            return draw(params, obs, key)

    return drawn


def agent_of(record: dict[str, Any]) -> Any:
    """The algorithm of a recorded training, with all that it was told."""
    from sparserl_jax.agents.registry import trained_by
    from sparserl_jax.bench.strict import from_table

    told = _training(record)["agent"]
    return from_table(trained_by(told["name"]).config, told, "record.json agent")


def declared_precision(saved: Saved) -> str | None:
    """The precision of matrix products that a policy's training declared; None also where there is no record."""
    return None if saved.record is None else _precision(saved.record)


def _precision(record: dict[str, Any]) -> str | None:
    """The precision of matrix products that a recorded training declared."""
    return _training(record).get("matmul_precision")


def _training(record: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a recorded training."""
    return record["provenance"]["config"]["training"]  # type: ignore[no-any-return]


def _different(saved: Saved) -> list[str]:
    """What is not as it was when the run was recorded."""
    assert saved.record is not None
    then, now = saved.record["provenance"], provenance.collect()
    if _precision(saved.record) is not None:
        now["matmul_precision"] = _precision(saved.record)  # declared, so it holds here as it did there
    found = ["policy.npz: changed after it was recorded"] if saved.changed else []

    def compare(name: str, before: Any, after: Any) -> None:
        if before != after:
            found.append(f"{name}: {before} -> {after}")

    for name in ("platform", "device_kind", "device_count", "cpu", "cpu_count", "os"):
        compare(name, then["system"].get(name), now["system"][name])
    if "cpu_vectors" in then["system"]:  # older records do not say
        compare("cpu_vectors", then["system"]["cpu_vectors"], now["system"]["cpu_vectors"])
    for name in sorted({*then["packages"], *now["packages"]}):
        compare(name, then["packages"].get(name), now["packages"].get(name))
    for name in ("python", "matmul_precision", "x64", "threefry_partitionable", "xla_flags"):
        compare(name, then.get(name), now[name])
    compare("commit", _commit(then), _commit(now))
    return found


def _commit(origin: dict[str, Any]) -> str:
    return (origin["git_commit"] or "unknown")[:7] + (" with changes" if origin["git_dirty"] else "")
