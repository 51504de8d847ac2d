"""Imports run one way, no file outgrows its room, and importing the package draws in nothing heavy."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sparserl_jax"
LONGEST = 450

# Who may import whom. A room may always import itself and BASE; what is not listed here is refused, so a new room or
# file at the top is a decision written down in this table.
BASE = frozenset({"layers", "errors", "references", "orthogonal", "shipped"})
MATERIALS = frozenset({"envs", "networks", "distributions", "data", "sparsity", "replay", "accounting"})
ALLOWED: dict[str, frozenset[str]] = {
    "layers": frozenset({"errors"}),
    "errors": frozenset(),
    "orthogonal": frozenset(),
    "shipped": frozenset(),
    "references": frozenset({"errors"}),
    "accelerator": frozenset(),
    **{room: frozenset() for room in MATERIALS},
    "accounting": frozenset({"sparsity.masks"}),
    "agents": MATERIALS,
    "training": MATERIALS | {"agents", "accelerator"},
    "conformance": MATERIALS | {"agents", "training"},
    "deploy": frozenset({"networks", "sparsity", "accounting"}),
    "bench": MATERIALS | {"agents", "training", "conformance", "deploy", "accelerator", ""},
    "api": MATERIALS | {"agents", "training", "deploy", "bench", "accelerator"},
    "arguments": frozenset(),
    "commands": frozenset({"sparsity", "conformance", "deploy", "bench", "arguments"}),
    "cli": frozenset({"bench", "commands", "accelerator", "arguments"}),
    "__main__": frozenset({"cli"}),
    # The package's front door re-exports what users call; only bench may come in through it.
    "": MATERIALS | {"agents", "training", "deploy", "bench", "api", "accelerator"},
}


def _name(path: Path) -> str:
    """Dotted module name below the package: `sparsity.masks`; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def _modules() -> dict[str, Path]:
    return {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _targets(node: ast.AST, module: str) -> list[str]:
    """Modules of ours (below the package) that an import statement reaches."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return [".".join(parts[1:]) for parts in names if parts[0] == PACKAGE.name]
    if not isinstance(node, ast.ImportFrom):
        return []
    if node.level:
        is_package = _modules()[module].name == "__init__.py"
        here = module.split(".") if module else []
        base = here[: len(here) - node.level + is_package] + (node.module.split(".") if node.module else [])
    elif node.module and node.module.split(".")[0] == PACKAGE.name:
        base = node.module.split(".")[1:]
    else:
        return []
    prefix = ".".join(base)
    # `from sparserl_jax.sparsity import masks` reaches the module, `... import Layer` a name in the package's own file.
    inner = [".".join([*base, alias.name]) for alias in node.names]
    return [name if name in _modules() else prefix for name in inner]


def _edges(statements: list[ast.AST], module: str) -> list[tuple[str, int]]:
    return [(target, node.lineno) for node in statements for target in _targets(node, module)]


def _room(module: str) -> str:
    return module.partition(".")[0]


def _permitted(module: str, target: str) -> bool:
    room, other = _room(module), _room(target)
    if room == other:
        return True
    return other in ALLOWED[room] | (BASE if room not in BASE else frozenset()) or target in ALLOWED[room]


def test_every_room_is_in_the_table():
    unknown = {_room(name) for name in _modules()} - set(ALLOWED)
    assert not unknown, f"say in ALLOWED who may import these: {sorted(unknown)}"


def test_imports_run_one_way():
    """Every import counts, also inside functions and under TYPE_CHECKING: to name a room is to know it."""
    broken = []
    for module, path in _modules().items():
        if _room(module) in ALLOWED:
            for target, line in _edges(list(ast.walk(ast.parse(path.read_text()))), module):
                if not _permitted(module, target):
                    broken.append(f"{path.relative_to(ROOT)}:{line} imports {target or 'the package root'}")
    assert not broken


def test_table_itself_has_no_circle():
    """Front door aside, the rooms can be put in one order in which each imports only earlier ones."""
    left = {room: {_room(other) for other in allowed} - {""} for room, allowed in ALLOWED.items() if room}
    while left:
        free = [room for room, others in left.items() if not others & set(left)]
        assert free, f"a circle among {sorted(left)}"
        for room in free:
            del left[room]


def test_modules_import_each_other_in_no_circle():
    graph = {}
    for module, path in _modules().items():
        if module:
            # Only what runs at import time: statements at the top, not those inside functions.
            edges = _edges(ast.parse(path.read_text()).body, module)
            graph[module] = {target for target, _ in edges if target and target != module}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_file_outgrows_its_room():
    long = {}
    for folder in ("sparserl_jax", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = len(path.read_text().splitlines())
            if lines > LONGEST:
                long[str(path.relative_to(ROOT))] = lines
    assert not long


def test_importing_and_training_draw_in_no_plotting():
    """`import sparserl_jax` and the training rooms work where plotting and reports are not installed."""
    light = sorted(
        name for name in _modules() if _room(name) in {"", "agents", "training", "sparsity", "replay"}
    )
    imports = "\n".join("import " + f"{PACKAGE.name}.{name}".rstrip(".") for name in light)
    heavy = {"matplotlib", "pandas", "seaborn", "jinja2", "tyro"}
    code = f"import sys\n{imports}\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"
