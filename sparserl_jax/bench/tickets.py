"""Arms that take something from another arm's finished runs, as a suite declares them: tickets and clones.

    [[arms]]
    recipe = "static"
    name = "rlx2_ticket"
    ticket = { arm = "rlx2", mask = "final", weights = "rewound" }    # masks of that arm's runs, seed by seed, frozen
    clone = "dense"                                      # that arm's policy is what is learned, in place of the task

What has to be true of the arms alone is refused here, what takes the networks' shapes in `bench/sources.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparserl_jax.agents.behaviour_cloning import BehaviourCloningConfig
from sparserl_jax.bench.ranges import require
from sparserl_jax.bench.strict import from_table
from sparserl_jax.errors import suggest
from sparserl_jax.training.config import Run, Training, check_override
from sparserl_jax.training.given import Source, Ticket

if TYPE_CHECKING:
    from sparserl_jax.bench.suites import Arm, Task


def parse(table: Any, where: str) -> Ticket | None:
    """The `ticket` of an arm; None where it has none."""
    return None if table is None else from_table(Ticket, table, f"{where}, ticket")


def taking(arm: Arm) -> bool:
    """Whether an arm takes something from another one's runs."""
    return arm.ticket is not None or arm.clone is not None


def check(arms: Sequence[Arm], tasks: Sequence[Task], agent: str, where: str) -> None:
    """Refuse tickets and clones whose source is no arm of the suite, or has not the runs they need."""
    by_name = {arm.name: arm for arm in arms}
    for arm in arms:
        named = None if arm.ticket is None else arm.ticket.arm
        for key, name in (("ticket", named), ("clone", arm.clone)):
            if name is None:
                continue
            here = f"{where}, arm '{arm.name}'"
            if name not in by_name:
                raise suggest(
                    name, [other.name for other in arms if not taking(other)], f"arm in {key} of {here}"
                )
            require(
                not taking(by_name[name]), here, f"'{name}' takes from other runs itself; name another arm."
            )
            same = arm.width == by_name[name].width
            require(same, here, f"'{name}' has networks of another width; give both the same 'width'.")
            require(
                by_name[name].agent is None,
                here,
                f"'{name}' has an algorithm of its own, from which nothing is taken; name another arm.",
            )
            _check_runs(arm, by_name[name], tasks, key, here)
        if arm.ticket is not None:
            fits = not arm.recipe.dense_targets
            require(
                fits, f"{where}, arm '{arm.name}'", "targets of a ticket are masked; drop 'dense_targets'."
            )
        if arm.clone is not None:
            _check_clone(arm, agent, f"{where}, arm '{arm.name}'")


def cloning(training: Training) -> Training:
    """The training of clones: as that of the suite's algorithm, on a replay that the warm-up fills and nothing enters
    after it."""
    agent = training.agent
    return dataclasses.replace(
        training,
        agent=BehaviourCloningConfig(
            hidden=agent.hidden,
            network=agent.network,
            batch_size=agent.batch_size,
            learning_rate=agent.learning_rate,
        ),
        schedule=dataclasses.replace(
            training.schedule, buffer_max=training.warm_up, buffer_min=training.warm_up
        ),
    )


def _check_runs(arm: Arm, other: Arm, tasks: Sequence[Task], key: str, where: str) -> None:
    """Every run of `arm` has its source among the runs of `other`."""
    lacking = sorted(set(arm.seeds) - set(other.seeds))
    require(
        not lacking,
        where,
        f"its seed {lacking[0] if lacking else 0} is none of '{other.name}', seed by seed its source; give both the "
        "same seeds.",
    )
    for task in tasks:
        for knobs in arm.knobs(task):
            require(
                _knobs(other, task, knobs, key) is not None,
                where,
                f"'{other.name}' has no runs at its sparsity {knobs[0]:g}"
                + ("" if knobs[1] is None else f" (critic {knobs[1]:g})")
                + "; give both the same sparsities.",
            )


def _check_clone(arm: Arm, agent: str, where: str) -> None:
    require(agent == "td3", where, f"clones are trained with TD3's actor, not that of {agent}; drop 'clone'.")
    require(
        arm.recipe.n == 1 and arm.recipe.buffer == "fixed",
        where,
        "a clone has neither TD targets nor a replay that changes; give it a recipe with n = 1 and a fixed buffer.",
    )
    own = [("overrides", arm.overrides), *(("by_environment", values) for _, values in arm.by_environment)]
    for key, values in own:
        for name, value in values:
            check_override(BehaviourCloningConfig, name, value, f"{where}, {key}")


def _knobs(
    other: Arm, task: Task, knobs: tuple[float, float | None], key: str
) -> tuple[float, float | None] | None:
    """Sparsities of the source: the same, or, of a policy to clone, the only ones that its arm has."""
    has = other.knobs(task)
    if knobs in has:
        return knobs
    return has[0] if key == "clone" and len(has) == 1 else None


def sources(
    arms: Sequence[Arm],
    arm: Arm,
    task: Task,
    training: Training,
    knobs: tuple[float, float | None],
    seed: int,
) -> dict[str, Any]:
    """Fields of a `Run` that say what it takes, and from which runs; `training`: that of ordinary arms."""
    if not taking(arm):
        return {}
    by_name = {other.name: other for other in arms}

    def source(name: str, key: str) -> Source:
        other = by_name[name]
        own = _knobs(other, task, knobs, key)
        assert own is not None, "`check` has refused it"
        # Values of settings are in neither of the names.
        run = Run(training, other.recipe, own[0], seed, other.name, own[1], width=other.width)
        return Source(run.id, run.key_name)

    return {
        "ticket": arm.ticket,
        "clone": arm.clone,
        "masks": None if arm.ticket is None else source(arm.ticket.arm, "ticket"),
        "expert": None if arm.clone is None else source(arm.clone, "clone"),
    }


def plain_fields(arm: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`ticket` and `clone` of an arm as `configuration.json` has them."""
    return {"ticket": parse(arm.get("ticket"), where), "clone": arm.get("clone")}


def words(arm: Mapping[str, Any]) -> list[str]:
    """What an arm takes, in words; `arm` as in `configuration.json`."""
    said, ticket = [], arm.get("ticket")
    if ticket is not None:
        mask = "final masks" if ticket["mask"] == "final" else "random masks with the counts of those"
        draw = "their initial weights" if ticket["weights"] == "rewound" else "new initial weights"
        said.append(f"{mask} of {ticket['arm']}, frozen, {draw}")
    if arm.get("clone"):
        said.append(f"behaviour cloning of {arm['clone']}")
    return said


def sentences(suite: Mapping[str, Any]) -> list[str]:
    """What a caption says of tickets and clones, often nothing; `suite` as in `configuration.json`."""
    told = [f"{arm['name']}: {'; '.join(said)}" for arm in suite["arms"] if (said := words(arm))]
    if not told:
        return []
    clones = any(arm.get("clone") for arm in suite["arms"])
    note = (
        " Clones see only what the cloned policy did in the warm-up; their steps after it are updates without "
        "environment steps."
        if clones
        else ""
    )
    return [
        f"Taken from other runs, seed by seed: {' | '.join(told)}. What those runs cost is in no number of these "
        f"rows.{note}"
    ]


def refuse_tuned(arms: Sequence[Arm], names: Sequence[str], where: str) -> None:
    """Refuse to search settings of arms whose sources do not exist on the seeds of a search."""
    for arm in arms:
        require(
            arm.name not in names or not taking(arm),
            where,
            f"[tune] cannot search '{arm.name}', which takes from other runs; name the others in 'arms'.",
        )
