"""How to make a row again: the command, the commit, and the runs it stands for.

A result is a function of its run's configuration and seed and of the Program it was computed in (which runs were
vmapped together), the code, the kind of device and how many of them there were. A command therefore runs whole
Programs: see `bench/only.py`.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparserl_jax.bench import caption as captions
from sparserl_jax.bench.single import SINGLE
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import method as find_method
from sparserl_jax.training.recipe import RECIPES, Recipe, fixed_sparsity

if TYPE_CHECKING:
    from sparserl_jax.bench.rows import Row
    from sparserl_jax.bench.summary import Summary

SUITE_FILE = "suite.toml"
"""The file of a folder that its suite was read from."""
_ONLY = " --only "
SHIPPED = ("brax", "gymnasium", "gymnax", "mario", "own", "playground")
"""What stands before the colon of an environment that is not the user's own, see `envs/make.py`."""


def pattern(env: str, arm: str, sparsity: float) -> str:
    """What `--only` takes for one row: ENV/ARM@SPARSITY."""
    return f"{env}/{arm}@{sparsity:.12g}"


def command(
    settings: dict[str, Any],
    env: str,
    arm: str,
    sparsity: float,
    file: str = SUITE_FILE,
    divided: bool = False,
) -> str:
    """The command that makes the runs of one row again; empty where no command can (an environment or recipe
    that is a Python object). `FOLDER` stands for the folder of a run that a training began from.

    Args:
        settings: `configuration.json` of the folder.
        file: where the suite's file lies, beside the records.
        divided: the row's runs were computed in parts of Programs; see `bench/slices.py`.
    """
    suite = settings["suite"]
    if suite["name"] == SINGLE:
        return _train(suite, env)
    budget = f" --budget {suite['budget']}" if suite.get("budget") else ""
    here = shlex.quote(Path(file).parent.as_posix())
    parts = f" --divided-as {here}" if divided else ""
    if any(entry["name"] == arm and (entry.get("ticket") or entry.get("clone")) for entry in suite["arms"]):
        parts += f" --sources {here}"  # the runs that it takes masks or a policy from lie beside its own
    return (
        f"sparserl bench {shlex.quote(file)}{budget}{parts}{_ONLY}{shlex.quote(pattern(env, arm, sparsity))}"
    )


def divided(group: Iterable[dict[str, Any]]) -> bool:
    """Whether any of these records was made in a part of a Program."""
    return any("part_of" in record["provenance"] for record in group)


def _train(suite: dict[str, Any], env: str) -> str:
    """A single training as `sparserl train` with every argument that decides a number."""
    if ":" not in env or not (recipe := _recipe(suite["arms"][0]["recipe"])):
        return ""  # an object of the user's: only the user's own program has it
    agent, evaluation, arm = suite["agent"], suite["evaluation"], suite["arms"][0]
    critic = arm["critic_sparsities"]
    options: dict[str, Any] = {
        "env": env,
        **({"dataset": suite["tasks"][0]["dataset"]} if suite["tasks"][0].get("dataset") else {}),
        "agent": agent["name"],
        **recipe,
        "sparsity": arm["sparsities"][0],
        **({"critic-sparsity": critic[0]} if critic else {}),
        "seeds": len(arm["seeds"]),
        "first-seed": arm["seeds"][0],
        "steps": suite["steps"],
        "warm-up": suite["warm_up"],
        "num-envs": suite["num_envs"],
        **({"network": agent["network"]} if "network" in agent else {}),
        "hidden": agent["hidden"],
        "batch-size": agent["batch_size"],
        "learning-rate": agent["learning_rate"],
        "episodes": evaluation["episodes"],
        "final-episodes": evaluation["final_episodes"],
        **({"matmul-precision": suite["matmul_precision"]} if suite.get("matmul_precision") else {}),
    }
    if suite.get("start"):
        source = suite["start"][
            "source"
        ]  # a run's id, or the name of a file; where it lies, only the user knows
        options["from"] = f"FOLDER/records/{source}" if "/" in source else f"FOLDER/{source}"
    words = ["sparserl", "train"]
    for name, value in options.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _recipe(found: dict[str, Any]) -> dict[str, str]:
    """The options that name a recipe; none for a `Recipe` of the user's, whose place is not recorded."""
    name, method = found["name"], found["method"]
    if name in RECIPES:
        return {"recipe": name}
    parts = [
        field.name for field in dataclasses.fields(Recipe) if field.name not in ("name", "method", "summary")
    ]
    usual = {field.name: field.default for field in dataclasses.fields(Recipe)}
    if ":" in method and all(found[part] == usual[part] for part in parts):
        try:
            own = find_method(method).name
        except UserError:  # a module that is not here
            own = name
        if own == name:
            return {"recipe": method}
    for known in RECIPES.values():
        changed = vars(known) | {"sparsity": fixed_sparsity(known, method)}
        if name.startswith(f"{known.name}_") and all(found[part] == changed[part] for part in parts):
            return {"recipe": known.name, "method": method}
    return {}


def joined(commands: Sequence[str]) -> str:
    """One command for several rows of one suite."""
    heads = {text.partition(_ONLY)[0] for text in commands}
    if len(heads) != 1 or not all(_ONLY in text for text in commands):
        return "; ".join(commands)
    return heads.pop() + _ONLY + " ".join(text.partition(_ONLY)[2] for text in commands)


def folded(runs: Iterable[str]) -> str:
    """Run ids with equal stems folded: `pendulum/rlx2-s0800-seed{000,001}`, as a shell would expand them."""
    stems: dict[str, list[str]] = {}
    for run in runs:
        stem, mark, seed = run.rpartition("-seed")
        stems.setdefault(stem + mark, []).append(seed)
    return " ".join(
        stem + (seeds[0] if len(seeds) == 1 else "{" + ",".join(seeds) + "}") for stem, seeds in stems.items()
    )


def _lines(summary: Summary) -> list[tuple[str, Row]]:
    blocks = [*summary.blocks, *([] if summary.pooled is None else [summary.pooled])]
    return [(block.env, row) for block in blocks for row in block.rows]


def _own(summary: Summary) -> bool:
    """Whether any environment or method is from a module of the user's."""
    suite = summary.settings["suite"]
    prefixes = {task["name"].partition(":")[0] for task in suite["tasks"] if ":" in task["name"]}
    return not prefixes <= set(SHIPPED) or any(":" in arm["recipe"]["method"] for arm in suite["arms"])


def _extra(summary: Summary) -> str:
    """What else the environments of a suite need."""
    host = any(captions.of_gymnasium(task["name"]) for task in summary.settings["suite"]["tasks"])
    return "; then `pip install -e '.[gymnasium]'`" if host else ""


def _devices(made: dict[str, Any]) -> str:
    """What a program was computed on, as somebody who computes it again has to have it."""
    system = made["system"]
    layout = f", `JAX_NUM_CPU_DEVICES={system['device_count']}`" if system["platform"] == "cpu" else ""
    return captions.machine(made) + layout


def page(summary: Summary) -> str:
    """`reproduce.md`: row -> command, commit, programs and run ids; and the runs of every program."""
    suites = any(_ONLY in row.command for _, row in _lines(summary))
    lines = [
        f"# {summary.title}: how to make each row again",
        "",
        "A result is a function of its run's configuration and seed, of the Program it was computed in (the runs that "
        "are trained together in one vmapped computation), of the code, of the kind of device and of their number. So "
        "each command runs whole Programs: those that hold the runs of the row, with all their other runs. With the "
        "commit, the versions and what the program was computed on, all named here, the results are the same bit for "
        "bit (checked on CPUs; a GPU's compiler may choose other kernels each time, and processors of one name can "
        "differ); elsewhere they agree only in distribution. On CPUs every core is a device unless "
        "`JAX_NUM_CPU_DEVICES` says otherwise. A delta also needs the runs of the row it is taken to: name both after "
        "`--only`.",
        "",
    ]
    if any(row.origin for _, row in _lines(summary)):
        lines += [
            "The rows are of several folders. A command belongs to the folder that its row comes from, named as it was "
            "given to `compare`. Check out the commit, make its environment "
            f"(`make install`{_extra(summary)}), bring a copy of that folder along where the command names its "
            f"`{SUITE_FILE}`, and run the command with `--out again`. Then compare the records in `again/` with those "
            "of the folder (`records/<run id>/record.json`, part `result`).",
            "",
        ]
    elif suites:
        lines += [
            "First copy the folder of this page out of the repository: at the commit it is missing or older. Check out "
            f"the commit, make its environment (`make install`{_extra(summary)}), and run the command in the copy: "
            f"`{SUITE_FILE}` and what `.` names are there. Then compare the new records, in `runs/` of the copy, with "
            "those named here (`records/<run id>/record.json`, part `result`).",
            "",
        ]
    if _own(summary):
        lines += [
            "An environment or a method called `module:name` is the user's own: put the module, as it was when the "
            "records were made, into the folder where you run the command, for they do not hold its code.",
            "",
        ]
    lines += [
        "| environment | row | sparsity | command | commit | programs | runs |",
        "|---|---|---:|---|---|---|---|",
    ]
    for env, row in _lines(summary):
        told = f"`{row.command}`" if row.command else "the Python program that passed its objects"
        where = f" in {row.origin}" if row.origin else ""
        commits = ", ".join(text[:10] for text in row.commits)
        sparsity = row.level or f"{row.sparsity:g}"
        lines.append(
            f"| {env} | {row.label} | {sparsity} | {told} | {commits} | {', '.join(row.programs)} | "
            f"`{folded(row.runs)}`{where} |"
        )
    lines += ["", "| program | its runs | computed on |", "|---|---|---|"]
    programs: dict[str, str] = {}
    for record in summary.records:
        origin = record["provenance"]
        programs.setdefault(
            origin["program"], f"`{folded(origin['program_members'])}` | {_devices(origin)} |"
        )
    lines += [f"| {name} | {rest}" for name, rest in programs.items()]
    if len({_devices(record["provenance"]) for record in summary.records}) > 1:
        lines += [
            "",
            "Where programs of one row were computed on different devices, run its command once on each, with its "
            "`JAX_NUM_CPU_DEVICES`, and compare of every time the runs of the programs that were computed there.",
        ]
    return "\n".join([*lines, *(text for origin in summary.origins for text in ("", origin)), ""])
