"""Where the files that come with the package lie: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """Root of the repository this package is imported from (an editable install), None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "benchmarks" / "suites").is_dir() else None


def data_folder(kind: str) -> Path:
    """Folder of shipped data: `suites`, `published` or `datasets`.

    In a checkout this is `benchmarks/<kind>`; the wheel carries the same files as `sparserl_jax/_data/<kind>`.
    """
    root = checkout()
    return root / "benchmarks" / kind if root is not None else _PACKAGE / "_data" / kind
