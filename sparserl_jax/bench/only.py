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

_FORM = re.compile(r"(?:(?P<env>.+)/)?(?P<arm>[A-Za-z0-9_]+)(?:@(?P<sparsity>[0-9.eE+-]+))?")


class Wanted(NamedTuple):
    """Rows to run: an arm, on one environment or on all, at one sparsity (of the actor) or at all."""

    env: str | None
    arm: str
    sparsity: float | None

    def meets(self, planned: Planned) -> bool:
        """Whether a run belongs to these rows."""
        return (
            self.env in (None, planned.task.name)
            and self.arm == planned.arm.name
            and self.sparsity in (None, planned.run.knobs["actor"])
        )


def parse(text: str, plan: Plan) -> Wanted:
    """`[ENV/]ARM[@SPARSITY]`, held against a plan.

    ENV is an environment's full name, that name without its options, or its folder in `records/`.

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
    for planned in plan.runs:
        name = planned.task.name
        envs[planned.folder.parent.as_posix()] = envs[name] = name
        envs.setdefault(name.partition("?")[0], name)
    arms = list(dict.fromkeys(planned.arm.name for planned in plan.runs))
    with located(where):
        if form["env"] is not None and form["env"] not in envs:
            raise suggest(form["env"], sorted(set(envs.values())), "environment of the suite")
        if form["arm"] not in arms:
            raise suggest(form["arm"], arms, "arm of the suite")
    env = None if form["env"] is None else envs[form["env"]]
    mine = [planned for planned in plan.runs if Wanted(env, form["arm"], None).meets(planned)]
    knobs = {planned.run.knobs["actor"] for planned in mine}
    if sparsity is not None and sparsity not in knobs:
        place = f"in suite '{plan.suite.name}'" + ("" if env is None else f" on {env}")
        raise UserError(
            f"{where}: '{form['arm']}' has no sparsity {sparsity:g} {place}; it has "
            f"{', '.join(format(knob, 'g') for knob in sorted(knobs))}."
        )
    return Wanted(env, form["arm"], sparsity)


def select(plan: Plan, texts: Sequence[str]) -> Plan:
    """The plan with only the Programs that hold a wanted run; its suite, runs, folder and hash are unchanged."""
    wanted = [parse(text, plan) for text in texts]
    chosen = tuple(
        program
        for program in plan.programs
        if any(one.meets(planned) for one in wanted for planned in plan.of(program))
    )
    return dataclasses.replace(plan, programs=chosen)


def lines(plan: Plan, texts: Sequence[str]) -> list[str]:
    """What a selected plan runs, what runs along, and what it leaves for another time."""
    wanted = [parse(text, plan) for text in texts]
    inside = [planned for program in plan.programs for planned in plan.of(program)]
    along = [planned for planned in inside if not any(one.meets(planned) for one in wanted)]
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
