"""What stands under a table or a plot: seeds, statistic, budget, device, versions, commit, and what is not said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserl_jax.bench import algorithms, mixed, partial, progress, provenance, tickets, tuning
from sparserl_jax.bench.statistics import MARGIN
from sparserl_jax.bench.verdicts import SAME_SEEDS

if TYPE_CHECKING:
    from sparserl_jax.bench.rows import Block

WIDE_BELOW = 10
"""Fewer seeds than this: the caption says "wide intervals"."""
RESULT_FROM = 5
"""Fewer seeds than this: not a result."""


def distinct(values: Iterable[str]) -> str:
    """Distinct values in order of appearance, joined; mixed sources show."""
    return ", ".join(dict.fromkeys(values))


def seeds_sentence(counts: Sequence[int]) -> str:
    """How many seeds, and how far to trust intervals made from them."""
    low, high = min(counts, default=0), max(counts, default=0)
    number = f"{low}" if low == high else f"{low} to {high}"
    text = f"{number} seed{'s' if high != 1 else ''} per row"
    if low < RESULT_FROM:
        return f"{text}: too few to be called a result"
    return f"{text}, wide intervals" if low < WIDE_BELOW else text


def machine(made: dict[str, Any]) -> str:
    """Device of a provenance in words, e.g. `2 cores of AMD EPYC (avx2)`; older ones lack what a processor can do."""
    system = made["system"]
    if system["platform"] == "cpu":
        count = system["cpu_count"]
        return f"{count} core{'s' if count != 1 else ''} of {provenance.processor(system)}"
    return f"{system['device_count']} x {provenance.computes_on(made)}"


def versions(made: dict[str, Any], envs: Iterable[str]) -> str:
    """Python and the packages that decide numbers, those of an environment's physics among them."""
    packages = made["packages"]
    of_physics = [name for env in envs for name in provenance.physics(env)]
    named = [
        f"{name} {packages[name]}"
        for name in dict.fromkeys(("jax", "flax", "optax", "gymnax", "brax", *of_physics))
        if packages.get(name)
    ]
    return ", ".join([f"Python {made['python']}", *named])


def of_gymnasium(env: str) -> bool:
    """Whether an environment's name is one of gymnasium's, an optional dependency."""
    return env.startswith("gymnasium:")


def commit(made: dict[str, Any]) -> str:
    """Commit the code came from, marked where the tree had changes."""
    if made["git_commit"] is None:
        return f"version {made['packages'].get('sparserl_jax') or 'unknown'}"
    return f"commit {made['git_commit'][:10]}" + (" with uncommitted changes" if made["git_dirty"] else "")


def made_on(found: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Where records come from, each in words: `device`, `versions`, `code`."""
    origins = [(record["provenance"], record["result"]["env"]) for record in found]
    return {
        "device": distinct(machine(made) for made, _ in origins),
        "versions": distinct(versions(made, [env]) for made, env in origins),
        "code": distinct(commit(made) for made, _ in origins),
    }


def origin(found: Iterable[dict[str, Any]]) -> str:
    """Devices, versions and commits that records come from."""
    return "; ".join(made_on(found).values())


def budget(settings: dict[str, Any]) -> str:
    """Steps, updates and networks of every run."""
    suite = settings["suite"]
    agent = suite["agent"]
    kind = f" {agent['network']}" if "network" in agent else ""
    data = list(dict.fromkeys(task["dataset"] for task in suite["tasks"] if "dataset" in task))
    length = (
        f"{suite['steps']:,} updates per run on a fixed dataset ({', '.join(data)}) without environment steps"
        if data
        else f"{suite['steps']:,} steps per run ({suite['warm_up']:,} warm-up)"
    )
    return (
        f"{agent['name'].upper()}{kind} {'x'.join(map(str, agent['hidden']))}, {length}, batch "
        f"{agent['batch_size']}"
    )


def caption(
    settings: dict[str, Any],
    found: Sequence[dict[str, Any]],
    blocks: Sequence[Block],
    pooled: Block | None = None,
) -> list[str]:
    """Sentences under the table of these blocks and the pooled one."""
    suite, evaluation = settings["suite"], settings["suite"]["evaluation"]
    counts = [len(row.seeds) for block in blocks for row in block.rows]
    points, episodes = suite["steps"] // evaluation["interval"], _episodes(suite, "episodes")
    window = -(-points // 10)
    lines = warnings(settings, found)
    lines.append(f"{seeds_sentence(counts)}. {budget(settings)}.")
    lines.extend(algorithms.sentences(suite))
    lines.extend(_widths(suite))
    lines.extend(_own_sparsities(blocks))
    lines.extend(tuning.sentences(suite))
    lines.extend(tickets.sentences(suite))
    lines.append(
        f"Return: interquartile mean over seeds of the last {window} of {points} evaluations ({episodes} "
        f"episodes each, {'actions drawn from the' if evaluation.get('sampled') else 'deterministic'} policy), "
        "brackets: 95 % stratified bootstrap interval. "
        "z = (return - random) / (reference - random). Delta = IQM of z minus that of dense, interval over both arms; "
        f"matched: lower bound >= {-MARGIN:g}, worse: upper bound < {-MARGIN:g}, else undecided (with a rough "
        "estimate of the seeds that would decide). Last policy: the same of its own evaluation at the end, "
        f"{_episodes(suite, 'final_episodes')} episodes; it decides nothing."
        + (
            " Failed: runs that diverged or whose return is below the level of that name in the heading."
            if any(block.levels.get("failed") is not None for block in blocks)
            else ""
        )
    )
    lines.extend(_number_of_verdicts([*blocks, *([] if pooled is None else [pooled])]))
    lines.extend(_luck(suite, found, blocks, window))
    lines.append(
        "P(beats dense): chance that a run of the arm scores above a run of dense, ties counting half. Delta to tiny: "
        "the same difference to the narrow dense network of as many weights (but fewer biases, and no positions: see "
        "smaller) with the same kind of targets (tiny_rvl where they are multi-step, else tiny)."
    )
    lines.append(
        f"A diverged run enters at {_diverged(suite['tasks'])}. A/A: dense against itself with other seeds. "
        "Verdicts are given only where dense reached the learned level and the placebo arm is worse."
    )
    lines.append(
        "Compression: actor with biases, dense over kept, in parameters and in bytes of one raw float32 blob (values, "
        "indices, pointers, biases). FLOPs, by formula, not measured: theory counts live weights (2 per weight), "
        "executed the matrix products of the dense networks, which training with masks computes whatever the mask (for "
        "tiny: of the really narrow networks); element-wise work is in neither. All of it is relative to the dense "
        "network under the algorithm of the dense arm, or the arm's own where there is none. "
        "Steps/s: whole program, all its members together, without compilation and evaluation; members of one program "
        f"share one speed, so it compares machines, not methods{_machines(found)}."
    )
    lines.extend(mixed.sentences(found, blocks))
    lines.extend(_evaluation_share(found))
    if found:
        lines.append(f"{origin(found)}; configuration {settings['suite_hash']}.")
    return lines


def _machines(found: Sequence[dict[str, Any]]) -> str:
    """That there are several machines, if there are."""
    return (
        ", of which there are several here" if len({machine(one["provenance"]) for one in found}) > 1 else ""
    )


def warnings(settings: dict[str, Any], found: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences that belong above everything that is told of a folder: no result, not whole, or not from scratch."""
    lines, start = [], settings["suite"].get("start")
    if not settings["suite"]["result"]:
        lines.append("NOT A RESULT: this suite only proves that the harness works.")
    lines.extend(incomplete(settings["runs"], {record["run_id"] for record in found}))
    if start is not None:
        lines.append(
            f"NOT FROM SCRATCH: every run starts from the {' and '.join(start['networks'])} of {start['source']}, "
            "whose training is in no number here."
        )
    return lines


def incomplete(runs: Sequence[str], present: Collection[str], where: str = "") -> list[str]:
    """A sentence on the runs that have no record; nothing where all have one."""
    missing = sum(run_id not in present for run_id in runs)
    if not missing:
        return []
    return [
        f"INCOMPLETE: {missing} of {len(runs)} runs{where} have no record yet ({partial.words(runs, present)})."
    ]


def _luck(
    suite: dict[str, Any], found: Sequence[dict[str, Any]], blocks: Sequence[Block], window: int
) -> list[str]:
    """What the episodes that all runs share may have done to every return: a standard error per environment, of dense
    policies, from the spread of their final episodes."""
    # Of several folders that have a run of this name, the first has the reference.
    results = {record["run_id"]: record["result"] for record in reversed(found)}
    told = []
    for block in blocks:
        dense = [results[run] for row in block.rows if row.role == "dense" for run in row.runs]
        spreads = [
            np.std(returns, ddof=1)
            for result in dense
            if result["status"] == "ok" and len(returns := result["final_returns"]) > 1
        ]
        if spreads:
            error = np.median(spreads) / np.sqrt(window * _numbers(suite, "episodes")[block.env])
            told.append(f"{block.env} {error:.2g}")
    if not told:
        return []
    return [
        "All runs are evaluated on the same episodes (initial states and random numbers). Their luck is in every "
        "return and in no interval; differences between rows are mostly free of it. Standard error of a dense "
        f"return by it: {', '.join(told)}."
    ]


def _number_of_verdicts(blocks: Sequence[Block]) -> list[str]:
    """How many comparisons were judged, each by its own interval, and what few seeds and no scatter can say."""
    rows = [
        row for block in blocks if block.reason is None for row in block.rows if row.verdict != SAME_SEEDS
    ]
    judged = [(row, row.comparison) for row in rows if row.comparison is not None]
    if not judged:
        return []
    text = (
        f"{len(judged)} comparisons were judged, each by its own interval of nominally 95 % (less with few "
        "seeds): nothing is corrected for their number."
    )
    few = [found.verdict for row, found in judged if row.role == "method" and len(row.seeds) < WIDE_BELOW]
    if "worse" in few or "matched" in few:
        text += (
            f" With fewer than {WIDE_BELOW} seeds, worse and matched tell of these runs and are no findings against a "
            "method or for it."
        )
    flat = [
        row
        for row, found in judged
        if found.verdict == "matched" and row.role == "method" and found.lower == found.upper
    ]
    if flat:
        noun = "row" if len(flat) == 1 else "rows"
        text += (
            f" In {len(flat)} matched {noun} the interval has no width: (almost) all runs reached the same return, "
            "which shows nothing of rare failures."
        )
    return [text]


def _widths(suite: dict[str, Any]) -> list[str]:
    """Which arms have wider networks, and what they are compared with."""
    wider: dict[int, list[str]] = {}
    for arm in suite["arms"]:
        if arm.get("width"):
            wider.setdefault(arm["width"], []).append(arm["name"])
    if not wider:
        return []
    told = "; ".join(
        f"width {width} is {'x'.join(str(width * units) for units in suite['agent']['hidden'])}: {', '.join(names)}"
        for width, names in sorted(wider.items())
    )
    return [
        f"Widths of the hidden layers, all others have width 1: {told}. Delta to dense, P(beats dense) and verdicts "
        "compare with dense of width 1; delta to dense of its width with the dense arm whose networks are as wide. "
        "Compression and FLOPs are relative to the dense network of the arm's own width, under the arm's own algorithm."
    ]


def _own_sparsities(blocks: Sequence[Block]) -> list[str]:
    """What each environment's own sparsities are, where arms are trained at them."""
    parts = []
    for block in blocks:
        levels = distinct(f"{row.sparsity:g} / {row.critic_sparsity:g}" for row in block.rows if row.own)
        parts += [f"{block.env} {levels}"] if levels else []
    return [f"Sparsities of each environment (actor / critic): {'; '.join(parts)}."] if parts else []


def running_time(found: Sequence[dict[str, Any]]) -> float:
    """Seconds of training and evaluation, without compilation, of all programs that the records were made in, whatever
    the number of their members; 0 where they do not say."""
    return sum(map(_seconds, _programs(found)))


def _programs(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured of each program."""
    return list({r["provenance"]["program"]: r["measured"] for r in found if _timed(r)}.values())


def _seconds(measured: dict[str, Any]) -> float:
    # A share of zero says nothing about the length of its program; such programs did not evaluate.
    share = measured["evaluation_share"]
    evaluated = measured.get("evaluate_seconds") or 0.0
    return float(evaluated / share) if share > 0 else float(measured.get("train_seconds") or 0.0)


def _evaluation_share(found: Sequence[dict[str, Any]]) -> list[str]:
    """How long it all took, and how much of it evaluation did."""
    programs = _programs(found)
    if not programs:
        return []
    evaluated = sum(measured.get("evaluate_seconds") or 0.0 for measured in programs)
    total = running_time(found)
    share = evaluated / total if total > 0 else 0.0
    note = "" if share <= 0.25 else " (above the 25 % a suite should spend)"
    highest = max(measured["evaluation_share"] for measured in programs)
    return [
        f"Training and evaluation took {progress.duration(total)}, one program after another and without compilation; "
        f"of it evaluation {100 * share:.0f} %{note}, at most {100 * highest:.0f} % of a program."
    ]


def _numbers(suite: dict[str, Any], key: str) -> dict[str, int]:
    """Episodes per evaluation (`episodes`) or at the end (`final_episodes`), by environment."""
    return {task["name"]: task.get(key) or suite["evaluation"][key] for task in suite["tasks"]}


def _episodes(suite: dict[str, Any], key: str) -> str:
    """The same in words, environment by environment where they differ."""
    numbers = _numbers(suite, key)
    if len(set(numbers.values())) == 1:
        return str(next(iter(numbers.values())))
    return ", ".join(f"{number} on {name}" for name, number in numbers.items())


def _diverged(tasks: Sequence[dict[str, Any]]) -> str:
    """The stand-in for the score of a diverged run, in words; what `summary` puts into the rows."""
    declared = [task["random"] is not None for task in tasks]
    lowest = "the lowest return of any curve"
    if not any(declared):
        return f"{lowest} on its environment"
    return "the random policy's return" + (
        "" if all(declared) else f", where that is not declared at {lowest}"
    )


def _timed(record: dict[str, Any]) -> bool:
    return record["measured"]["evaluation_share"] is not None
