"""`sparserl conformance`: one method held to everything it declares, promise by promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import jax

from sparserl_jax.conformance import promises as checks
from sparserl_jax.conformance.broken import Broken
from sparserl_jax.conformance.functions import check_functions
from sparserl_jax.conformance.laboratory import NETWORKS, Laboratory, Moment, laboratory, train
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import promised
from sparserl_jax.sparsity.contract import Events, Method, Promise

KNOB = 0.6
"""Sparsity at which a method is looked at: high enough to hurt, low enough for a network of 16 units."""
SCHEDULE = Events(interval=4, end=17, drop_fraction=0.5)
"""Four events: few enough for a method to be seen up to its last one, where its final counts begin to hold."""
CYCLES = 17
"""Actor updates, and half as many as critic updates: both networks see the whole schedule."""


class Verdict(NamedTuple):
    """What came of one promise: `kept`, `BROKEN` or `unseen` (nothing of it can be looked at)."""

    promise: str
    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<6}  {self.promise:<10}  {self.text}"


class Unseen(Exception):
    """Nothing of a promise can be looked at, and why."""


class Examination:
    """A short training of one method on a small TD3, made when first looked at."""

    def __init__(self, method: Method, knob: float = KNOB, source: str = "released") -> None:
        self.method, self.knob, self.source = method, knob, source

    @cached_property
    def lab(self) -> Laboratory:
        """The laboratory of the method's family."""
        return laboratory(self.method.family, SCHEDULE)

    @cached_property
    def promises(self) -> dict[str, Promise]:
        """What the method promises about each network of the laboratory."""
        return {
            name: promised(self.method, self.lab.layers[name], self.knob, self.lab.events, self.source)
            for name in NETWORKS
        }

    @cached_property
    def moments(self) -> list[Moment]:
        """Every call of the training."""
        start = self.lab.init(jax.random.key(0), self.lab.settings(self.method, self.knob, self.source))
        return train(self.lab, start, CYCLES)

    @cached_property
    def knobs(self) -> tuple[float, float, float]:
        """The one asked for and two that are no harder; that one in the place of those that the method does not know
        (N:M has few)."""
        return self.knob, self._known(self.knob / 2), self._known(3 * self.knob / 4)

    @cached_property
    def lives(self) -> checks.Lives:
        """The method at three knobs."""
        return checks.live(self.lab, [(self.method, knob, self.source) for knob in self.knobs])

    def _known(self, knob: float) -> float:
        try:
            for name in NETWORKS:
                self.method.settings(self.lab.layers[name], knob, self.lab.events, self.source)
        except UserError:
            return self.knob
        return knob

    def budget(self, network: str, tick: int) -> list[int]:
        """Live weights promised after `tick` gradient computations."""
        events = self.lab.events
        return self.promises[network].at(min(tick, events.end - 1) // events.interval)


def _functions(seen: Examination) -> None:
    for name in NETWORKS:
        check_functions(seen.method, seen.lab.layers[name], seen.knob, seen.lab.events, seen.source)


def _deployment(seen: Examination) -> None:
    for at in (0, len(seen.moments) // 2, len(seen.moments) - 1):
        moment = seen.moments[at]
        where = f"the actor after tick {moment.tick('actor')}"
        checks.check_one_function(seen.lab, moment.after, where)
    checks.check_one_function(seen.lab, seen.moments[0].before, "the actor after init")


def _actions(seen: Examination) -> None:
    checks.check_actions_ignore_the_rest(seen.lab, seen.moments[0].before, "the actor after init")
    checks.check_actions_ignore_the_rest(seen.lab, seen.moments[-1].after, "the trained actor")


def _learning(seen: Examination) -> str | None:
    if seen.lab.family.declares.learning == "dense":
        return "declared dense: losses may see all weights"
    checks.check_losses_ignore_the_rest(seen.lab, seen.moments[0].before, 0, "fresh networks")
    # Behind two events of each network, where masks have moved; and at the end.
    middle = 2 * len(seen.moments) // 3
    for moment in (seen.moments[middle], seen.moments[-1]):
        where = f"networks after {moment.updates} updates"
        checks.check_losses_ignore_the_rest(seen.lab, moment.after, moment.updates, where)
    return None


def _targets(seen: Examination) -> None:
    checks.check_targets_ignore_the_rest(seen.lab, seen.moments[1].after, 2)
    checks.check_targets_ignore_the_rest(seen.lab, seen.moments[-2].after, 2 * CYCLES)


def _slots(seen: Examination) -> None:
    if not checks.check_slots(seen.lab, seen.moments, seen.lab.family.declares.slots):
        raise Unseen("no event happened")


def _members(seen: Examination) -> None:
    if len(set(seen.knobs)) == 1:
        raise Unseen("it knows no other knob than this")
    checks.check_members(seen.lives)


PROMISES: tuple[tuple[str, str, Callable[[Examination], str | None]], ...] = (
    ("functions", "every function can be traced and keeps structure, shapes and dtypes", _functions),
    (
        "finite",
        "weights, optimiser slots and losses stay finite, and the weights learn",
        lambda seen: checks.check_finite(seen.moments[0].before, seen.moments),
    ),
    (
        "deployment",
        "what acts, what is evaluated and what is deployed are one function of the same non-zeros",
        _deployment,
    ),
    ("actions", "parameters outside the support influence no action", _actions),
    (
        "learning",
        "parameters outside the support influence no loss, unless learning is declared dense",
        _learning,
    ),
    ("targets", "parameters outside the support influence no target after a target update", _targets),
    (
        "budget",
        "live weights are as promised after every tick",
        lambda seen: checks.check_budget(seen.lab, seen.moments, seen.budget),
    ),
    (
        "events",
        "topology changes at no more events than promised",
        lambda seen: checks.check_events(seen.lab, seen.moments, seen.promises),
    ),
    (
        "growth",
        "dense gradients decide nothing at events unless dense growth is promised",
        lambda seen: checks.check_growth(seen.lives, seen.promises["critic"]),
    ),
    ("slots", "events treat optimiser slots as declared", _slots),
    (
        "resets",
        "events ask for no reset that is not declared",
        lambda seen: checks.check_resets(seen.lab, seen.lives),
    ),
    (
        "members",
        "members of other settings together equal members alone",
        _members,
    ),
    (
        "resumes",
        "a checkpoint resumes bit for bit, and every tracing gives the same program",
        lambda seen: checks.check_resumes(seen.lab, seen.moments[0].before),
    ),
)
"""(name, what is promised, check): the check raises `Broken` or `Unseen`, or returns a remark."""


def examine(method: Method, knob: float = KNOB) -> Iterator[Verdict]:
    """Every promise of a method, looked at in turn.

    Raises:
        UserError: the small networks cannot have this knob.
    """
    seen = Examination(method, knob)
    for name, sentence, check in PROMISES:
        try:
            note = check(seen)
        except Broken as broken:
            found = f"expected {broken.expected}, found {broken.found}, where: {broken.where}"
            yield Verdict(name, "BROKEN", f"{sentence}; {found}")
            if name == "functions":
                rest = [other for other, *_ in PROMISES[1:]]
                yield from (Verdict(other, "unseen", "mend 'functions' first") for other in rest)
                return
        except Unseen as reason:
            yield Verdict(name, "unseen", f"{sentence}: {reason}, so there is nothing to see")
        else:
            yield Verdict(name, "kept", sentence + (f" ({note})" if note else ""))


def check(method: Method, knob: float, say: Callable[[str], None]) -> bool:
    """Say one line per promise and a summary; whether none is broken."""
    declares = method.family.declares
    say(
        f"{method.name} (family {method.family.name}; budget {declares.budget}, targets {declares.targets}, slots "
        f"{declares.slots}, resets {', '.join(declares.resets) or 'nothing'}, learning {declares.learning}) at "
        f"{knob:g}, on a TD3 of 16 units:"
    )
    verdicts = []
    for verdict in examine(method, knob):
        say(str(verdict))
        verdicts.append(verdict)
    broken = [verdict.promise for verdict in verdicts if verdict.state == "BROKEN"]
    kept = sum(verdict.state == "kept" for verdict in verdicts)
    if broken:
        outcome = f"broken: {', '.join(broken)}"
    elif kept < len(verdicts):
        outcome = f"{kept} of {len(verdicts)} promises kept, the others unseen"
    else:
        outcome = f"all {kept} promises kept"
    say(f"{method.name}: {outcome}.")
    return not broken
