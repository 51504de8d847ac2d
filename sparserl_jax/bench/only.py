"""`--only`: the Programs that hold some rows of a suite, whole.

A result is a function of its Program's membership, so one row alone would give other numbers: `--only` selects
Programs. Folder and hash stay those of the whole suite, which merely remains incomplete.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from sparserl_jax.bench.plan import Plan, Planned
from sparserl_jax.errors import UserError, located, suggest
from sparserl_jax.references import unlabelled

_FORM = re.compile(r"(?:(?P<env>.+)/)?(?P<arm>[A-Za-z0-9_]+)(?:@(?P<sparsity>[0-9.eE+-]+))?")


class Place(NamedTuple):
    """Where a run stands in a suite: its environment and that one's folder, its arm and its actor's sparsity."""

    env: str
    folder: str
    arm: str
    sparsity: float


class Wanted(NamedTuple):
    """Rows to run: an arm, on one environment or on all, at one sparsity (of the actor) or at all."""

    env: str | None
    arm: str
    sparsity: float | None

    def meets(self, place: Place) -> bool:
        """Whether a run belongs to these rows."""
        return (
            self.env in (None, place.env)
            and self.arm == place.arm
            and self.sparsity in (None, place.sparsity)
        )


def place(planned: Planned) -> Place:
    """Where a planned run stands."""
    folder = planned.folder.parent.as_posix()
    return Place(planned.task.name, folder, planned.arm.name, planned.run.knobs["actor"])


def parse(text: str, places: Sequence[Place], suite: str) -> Wanted:
    """`[ENV/]ARM[@SPARSITY]`, held against the places of a suite's runs.

    ENV is an environment's full name, that name without options and label where only one has it, or its folder in
    `records/`.

    Raises:
        UserError: another form, or nothing in the suite by that name.
    """
    where = f"--only {text}"
    form = _FORM.fullmatch(text)
    try:
        sparsity = None if form is None or form["sparsity"] is None else float(form["sparsity"])
    except ValueError:
        form = None
    if form is None:
        raise UserError(f"{where}: write ENV/ARM@SPARSITY, for example 'brax:hopper/rlx2@0.9', or ARM alone.")
    envs: dict[str, str] = {}
    short: dict[str, set[str]] = {}
    for one in places:
        envs[one.folder] = envs[one.env] = one.env
        short.setdefault(unlabelled(one.env).partition("?")[0], set()).add(one.env)
    envs = {name: only for name, (only, *others) in short.items() if not others} | envs
    arms = list(dict.fromkeys(one.arm for one in places))
    with located(where):
        if form["env"] is not None and form["env"] not in envs:
            raise suggest(form["env"], sorted(set(envs.values())), "environment of the suite")
        if form["arm"] not in arms:
            raise suggest(form["arm"], arms, "arm of the suite")
    env = None if form["env"] is None else envs[form["env"]]
    knobs = {one.sparsity for one in places if Wanted(env, form["arm"], None).meets(one)}
    if sparsity is not None and sparsity not in knobs:
        there = f"in suite '{suite}'" + ("" if env is None else f" on {env}")
        raise UserError(
            f"{where}: '{form['arm']}' has no sparsity {sparsity:g} {there}; it has "
            f"{', '.join(format(knob, 'g') for knob in sorted(knobs))}."
        )
    return Wanted(env, form["arm"], sparsity)


def _wanted(plan: Plan, texts: Sequence[str]) -> list[Wanted]:
    places = [place(planned) for planned in plan.runs]
    return [parse(text, places, plan.suite.name) for text in texts]


def select(plan: Plan, texts: Sequence[str]) -> Plan:
    """The plan with only the Programs that hold a wanted run; its suite, runs, folder and hash are unchanged."""
    wanted = _wanted(plan, texts)
    chosen = tuple(
        program
        for program in plan.programs
        if any(one.meets(place(planned)) for one in wanted for planned in plan.of(program))
    )
    return dataclasses.replace(plan, programs=chosen)


def lines(plan: Plan, texts: Sequence[str]) -> list[str]:
    """What a selected plan runs, what runs along, and what it leaves for another time."""
    wanted = _wanted(plan, texts)
    inside = [planned for program in plan.programs for planned in plan.of(program)]
    along = [planned for planned in inside if not any(one.meets(place(planned)) for one in wanted)]
    rows = dict.fromkeys(
        f"{planned.arm.name}@{planned.run.knobs['actor']:g} on {planned.task.name}" for planned in along
    )
    said = [
        f"--only {' '.join(texts)}: {len(plan.programs)} programs with {len(inside)} of the suite's {len(plan.runs)} "
        "runs; the others are left for another time"
    ]
    if rows:
        said.append(
            f"run along, for a result depends on its program's whole membership: {len(along)} runs "
            f"({', '.join(rows)})"
        )
    return said
