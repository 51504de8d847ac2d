"""Where suites and published numbers lie: in the checkout, in the installed package, or in the user's own folder."""

from __future__ import annotations

from pathlib import Path

from sparserl_jax.errors import UserError, suggest
from sparserl_jax.shipped import checkout, data_folder

__all__ = ["at_home", "checkout", "data_folder", "published_path", "suite_names", "suite_path"]


def at_home(path: str | Path) -> Path:
    """A path with `~` expanded; raises `UserError` where that means no folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"'{path}': there is no such home folder; write the path out.") from None


def suite_names() -> list[str]:
    """Names of the shipped suites, sorted."""
    return sorted(path.stem for path in data_folder("suites").glob("*.toml"))


def suite_path(name: str | Path) -> Path:
    """File of a suite: a shipped one by name (`quick`), or a user's own by path (`my_suite.toml`).

    Raises:
      UserError: there is no such suite, or no file at this path.
    """
    text = str(name)
    path = at_home(text)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if path.is_file():
            return path.resolve()
        shipped = path.stem in suite_names() and path.name == text
        hint = f"did you mean the shipped suite '{path.stem}'?" if shipped else "check the path."
        raise UserError(f"no suite file at '{text}': {hint}")
    shipped_path = data_folder("suites") / f"{text}.toml"
    if text and shipped_path.is_file():
        return shipped_path
    own = Path(f"{text}.toml")
    if text and own.is_file():
        raise UserError(f"unknown suite '{text}': for the file in this folder say '{own}'.")
    raise suggest(text, suite_names(), "suite")


def published_path(name: str) -> Path | None:
    """File of published paper numbers (`benchmarks/published/<name>.toml`), None where none is shipped."""
    path = data_folder("published") / f"{name}.toml"
    return path if path.is_file() else None
