"""What can be typed after `sparserl`: one dataclass per command, from which tyro makes the command line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sparserl_jax.errors import UserError


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1h30m`; raises `ValueError` for anything else."""
    form = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(-?\d+(?:\.\d+)?)s?)?", text.strip())
    if form is None or not any(form.groups()) or "-" in text.strip()[1:]:
        raise ValueError(f"'{text}' is no time; write seconds, or 90s, 10m, 1h30m")
    return sum(float(part or 0) * unit for part, unit in zip(form.groups(), (3600.0, 60.0, 1.0), strict=True))


_TIME = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="TIME",
    instance_from_str=lambda words: duration(words[0]),
    is_instance=lambda value: value is None or isinstance(value, float),
    str_from_instance=lambda value: ["None" if value is None else f"{value:g}"],
)
Duration = Annotated[float | None, _TIME]
"""Seconds, typed with units."""
Rows = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
"""`--only`, which takes several rows and may be given several times; see `flat`."""


def flat(groups: tuple[tuple[str, ...], ...]) -> list[str]:
    """All rows of a repeated `--only`.

    Raises:
        UserError: nothing stands behind one, as when a shell's variable is empty, which would mean everything.
    """
    if not all(groups):
        raise UserError("--only names no row; write ENV/ARM@SPARSITY, ARM@SPARSITY or ARM behind it.")
    return [row for group in groups for row in group]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Run a suite (or go on with it) and print its table."""

    suite: tyro.conf.Positional[str] = "quick"
    """A shipped suite by name, or your own by path (my_suite.toml)."""
    budget: str | None = None
    """One of the suite's budgets; default: the one its file begins with."""
    out: Path | None = None
    """Folder for records and tables; default runs/<suite>-<hash>."""
    time_budget: Duration = None
    """Time (90, 10m, 1h30m) in which to do what fits, divided by seeds; exit code 3 if something is left."""
    only: Rows = ()
    """Run only the programs that hold these rows, each written ENV/ARM@SPARSITY, ARM@SPARSITY or ARM; repeatable."""
    skip_published: bool = False
    """Leave out the runs that results/ has already."""
    skip_finished: Path | None = None
    """Leave out the runs that this finished.json (see `unpack`) lists."""
    pack: Path | None = None
    """Archive (NAME.tar.gz) of all finished runs, at most 16 MiB; further ones are numbered. See `unpack`."""
    sources: Path | None = None
    """Folder of this suite, made elsewhere, with finished runs that others take masks or policies from."""
    divided_as: Path | None = None
    """Divide programs as those of this folder's records were."""
    compilation_cache: Path | None = None
    """Folder in which compiled programs are kept for next time; with a time budget, default in the suite's folder."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Put the arms of several result folders into one table; refuse what may not be compared."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """What `sparserl bench` or `sparserl publish` made, e.g. runs/mine results/quick."""
    out: Path | None = None
    """Folder for table.md, table.csv, table.tex and reproduce.md; default: print only."""
    against: str | None = None
    """Print every row against this arm's nearest in sparsity, in place of dense."""


@dataclasses.dataclass(frozen=True)
class PlanSuite:
    """Print what a suite would do, and do nothing."""

    suite: tyro.conf.Positional[str] = "quick"
    """A shipped suite by name, or your own by path."""
    budget: str | None = None
    """One of the suite's budgets; default: the one its file begins with."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Search a suite's grid of settings (or go on with it), on seeds of its own; writes tuned.toml."""

    suite: tyro.conf.Positional[str]
    """A shipped suite by name, or your own by path, with a [tune] table."""
    budget: str | None = None
    """One of the suite's budgets; default: the one its file begins with."""
    out: Path | None = None
    """Folder for records and tables; default runs/<suite>-tune-<hash>."""
    time_budget: Duration = None
    """Time (90, 10m, 1h30m) after which to stop with exit code 3; run again to go on."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Check every record of a folder; exit code 1 if anything is wrong."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` or `sparserl publish` made, or a folder of such folders (results)."""


@dataclasses.dataclass(frozen=True)
class Publish:
    """Copy a finished and checked folder into results/."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` made."""
    replace: bool = False
    """Overwrite published records whose results differ; what was measured on them (low_rank.md, danger.md, plots of
    diagnostics) goes with them."""
    partial: bool = False
    """Publish an unfinished suite: its whole rows, beside those of earlier slices; what is missing is written down."""


@dataclasses.dataclass(frozen=True)
class Paper:
    """Run a paper's suites (or go on with them) and set its tables beside ours, from whatever records there are."""

    paper: tyro.conf.Positional[str] = "rlx2"
    """A paper whose numbers are shipped (benchmarks/published)."""
    step: Literal["run", "plan", "tables"] = "run"
    """`plan` prints what would be run, `tables` writes the page from the records there are."""
    suites: tuple[str, ...] = ()
    """Which of the paper's suites; default all."""
    budget: str | None = None
    """One of the suites' budgets (e.g. short); default: the published one."""
    time_budget: Duration = None
    """Time (90, 10m, 1h30m) after which to stop with exit code 3; run again to go on."""
    skip_published: bool = False
    """Leave out the runs that results/ has already."""
    out: Path | None = None
    """Folder of the page; default runs/paper-<paper>."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Trace a few dispatches of a suite's first program and print where their time goes."""

    suite: tyro.conf.Positional[str] = "quick"
    """A shipped suite by name, or your own by path."""
    only: Rows = ()
    """The program that holds these rows, each written ENV/ARM@SPARSITY, ARM@SPARSITY or ARM."""
    out: Path = Path("runs/profile")
    """Empty folder for the trace, which TensorBoard and Perfetto read."""
    dispatches: int = 2
    """Calls of every stage that are timed, and as many again that are traced."""


@dataclasses.dataclass(frozen=True)
class Stamp:
    """Name this checkout's commit in a file, for a copy that goes to a machine without its git history."""


@dataclasses.dataclass(frozen=True)
class Unpack:
    """Bring in runs that another machine packed with `bench --pack`; nothing here is overwritten."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The archives, in any order."""
    into: Path | None = None
    """Folder of the runs; default runs/<suite>-<hash>."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Make the tables of a folder again from its records, and print them."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` made."""
    against: str | None = None
    """Write nothing; print every row against this arm's nearest in sparsity, in place of dense."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the figures of a folder again from its records."""

    folder: tyro.conf.Positional[Path]
    """What `sparserl bench` made."""
    diagnostics: bool = False
    """Also draw the diagnostics of training, a figure per environment and sparsity."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one recipe on one environment, all seeds together."""

    env: str
    """brax:hopper, gymnax:Pendulum-v1, my_pkg.my_module:Factory."""
    agent: str = "td3"
    """See `sparserl list agents`."""
    recipe: str | None = None
    """See `sparserl list recipes`; your own recipe or sparsity method: my_pkg.my_module:name. Default rlx2 (dqn, ppo
    and agents that learn from a dataset: rigl)."""
    method: str | None = None
    """Sparsity method in place of the recipe's; see `sparserl list sparsifiers`, or my_pkg.my_module:name."""
    sparsity: float | None = None
    """Fraction of weights removed, in [0, 1), default 0.9; recipes with one of their own (dense) ignore it. Methods
    that are swept by a coefficient (l0, l1, l2) need theirs here."""
    critic_sparsity: float | None = None
    """The critic's own sparsity; default as the actor's."""
    seeds: int = 8
    """Number of seeds."""
    first_seed: int = 0
    """Seeds are counted from here."""
    steps: int | None = None
    """Environment steps per seed; default 100,000, or what is nearest to it and fits."""
    warm_up: int | None = None
    """Random steps before the first update; default 5 % of the steps, at most 25,000."""
    num_envs: int = 1
    """Parallel environments per seed."""
    network: str | None = None
    """mlp, cnn (for images) or simba; default mlp."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers, or of residual blocks."""
    batch_size: int | None = None
    """Samples per update."""
    learning_rate: float | None = None
    """Of all networks."""
    episodes: int = 10
    """Episodes per evaluation."""
    final_episodes: int = 100
    """Episodes of the final evaluation."""
    matmul_precision: Literal["default", "highest", "tensorfloat32"] | None = None
    """Precision of matrix products; default what JAX is configured for, and failing that highest."""
    dataset: str | None = None
    """What to learn from instead of steps: a file (.npz, .hdf5), a Minari folder, or own:random?episodes=50. Steps are
    then updates."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A finished run's folder (or its policy.npz): begin from its networks and masks."""
    out: Path | None = None
    """Folder for the results; default runs/train-<hash>."""
    time_budget: Duration = None
    """Time (90, 10m, 1h30m) after which to stop with exit code 3; run again to go on."""


@dataclasses.dataclass(frozen=True)
class Conformance:
    """Hold a sparsity method to what it declares; exit code 1 if a promise is broken."""

    method: tyro.conf.Positional[str]
    """A shipped method by name, or your own: my_pkg.my_module:my_method."""
    sparsity: float = 0.6
    """The method's knob, on networks of 16 units."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a recorded run again and compare, bit for bit; or a policy on fresh episodes."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>), its policy.npz, a decomposed policy, or an exported NAME.bin."""
    episodes: int | None = None
    """Fresh episodes instead of the recorded ones; default 100 where there is no record."""
    seed: int | None = None
    """Which fresh episodes; default 0."""
    env: str | None = None
    """Another environment for the fresh episodes."""


@dataclasses.dataclass(frozen=True)
class Collect:
    """Play a trained policy and write its episodes as a dataset that agents can learn from; never overwrites."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>), its policy.npz, a decomposed policy, or an exported NAME.bin."""
    out: Path
    """A new file, NAME.npz."""
    episodes: int = 100
    """Whole episodes."""
    seed: int = 0
    """Which episodes."""
    noise: float = 0.0
    """Standard deviation of normal noise on the actions, which are in [-1, 1] and clipped there."""
    env: str | None = None
    """Another environment than that of the training."""


@dataclasses.dataclass(frozen=True)
class Datasets:
    """Train an agent and make datasets of it: random, medium, medium-replay, full-replay, expert, medium-expert. A set
    that is there is kept."""

    env: str
    """brax:hopper, gymnasium:Hopper-v5, my_pkg.my_module:Factory."""
    out: Path
    """Folder for the sets (NAME.npz), the training and its policies."""
    steps: int
    """Environment steps of the training."""
    agent: str = "td3"
    """td3 or sac."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers."""
    batch_size: int | None = None
    """Samples per update."""
    seed: int = 0
    """Of the training and of the sets."""
    interval: int = 5000
    """Steps between evaluations, among whose policies medium and expert are chosen."""
    episodes: int = 10
    """Episodes per evaluation."""
    reference: float | None = None
    """Return with z = 1, uniform actions having z = 0; default that of the best evaluation."""
    medium: tuple[float, float] = (0.3, 0.4)
    """Range of z from which the medium policy is taken, the first."""
    expert: float = 0.9
    """Least z of the expert policy, the best."""
    transitions: int = 100_000
    """Of random, medium and expert, at least, in whole episodes."""
    noise: float = 0.1
    """Standard deviation of normal noise on the actions of medium and expert."""
    time_budget: Duration = None
    """Time (90, 10m, 1h30m) after which to stop with exit code 3; run again to go on."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show what a trained policy is made of: layers, dead units, bytes."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>), its policy.npz, or an exported NAME.bin."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a trained policy as one raw file (NAME.bin; NAME.json says what lies where) or as C source (NAME.c); never
    overwrites."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>), its policy.npz, a decomposed policy, or an exported NAME.bin."""
    out: Path
    """A new file, NAME.bin or NAME.c."""
    format: Literal["smallest", "dense", "bitmask", "csr8", "csr32", "coo16", "coo32"] = "smallest"
    """How weights are stored; `smallest` is what tables count, layer by layer the best of dense, bitmask and csr8."""


@dataclasses.dataclass(frozen=True)
class Decompose:
    """Store a trained policy as low-rank factors: its return then, and the bytes of every form. Of a finished suite:
    dense and sparse policies at equal ranks."""

    path: tyro.conf.Positional[Path]
    """A run's folder (records/<environment>/<run>) or its policy.npz; or the folder of a suite."""
    rule: str = "z=0.05"
    """How ranks are chosen: energy=0.99, numerical, fraction=0.25, z=0.05 (loss of z accepted), rank=3,16,1."""
    factors: Literal[2, 3] = 3
    """Matrices stored per layer; three keep the singular values apart."""
    episodes: int = 100
    """Fresh episodes that are reported, the same before and after."""
    seed: int = 0
    """Which fresh episodes."""
    selection_episodes: int = 20
    """Other episodes, on which the rule z compares ranks."""
    only: Rows = ()
    """Of a suite: the sparse rows to compare with dense, each written ENV/ARM@SPARSITY, ARM@SPARSITY or ARM;
    repeatable; default all that are as wide."""
    out: Path | None = None
    """A new file for the decomposed policy; default: print only. Of a suite: the folder for low_rank.md and
    low_rank.csv; default its own."""
    replace: bool = False
    """Of a suite: make low_rank.md and low_rank.csv anew where they are there already."""


@dataclasses.dataclass(frozen=True)
class Danger:
    """Draw from the finished policies of a suite on a treatment task: how likely is a dose that harms?"""

    path: tyro.conf.Positional[Path]
    """A folder that `sparserl bench` made or that was published."""
    states: int = 64
    """States looked at, the same for all policies."""
    draws: int = 10_000
    """Draws in each of them."""
    seed: int = 0
    """Which states."""
    replace: bool = False
    """Make danger.md and danger.csv anew where they are there already."""


@dataclasses.dataclass(frozen=True)
class List:
    """List what can be chosen by name."""

    what: tyro.conf.Positional[Literal["agents", "diagnostics", "envs", "recipes", "sparsifiers", "suites"]]
    """What to list."""


Command = (
    Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[PlanSuite, tyro.conf.subcommand("plan")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[Stamp, tyro.conf.subcommand("stamp")]
    | Annotated[Unpack, tyro.conf.subcommand("unpack")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Paper, tyro.conf.subcommand("paper")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Datasets, tyro.conf.subcommand("datasets")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Decompose, tyro.conf.subcommand("decompose")]
    | Annotated[Danger, tyro.conf.subcommand("danger")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Conformance, tyro.conf.subcommand("conformance")]
    | Annotated[List, tyro.conf.subcommand("list")]
)
