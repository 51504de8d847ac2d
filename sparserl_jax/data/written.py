"""How datasets are named: a head, and options behind a question mark."""

from __future__ import annotations

from urllib.parse import parse_qsl

from sparserl_jax.errors import UserError


def split(text: str) -> tuple[str, dict[str, str]]:
    """`head?name=value&name=value` as the head and its options by name.

    Raises:
        UserError: options of another form, or one that is given twice.
    """
    head, mark, query = text.partition("?")
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if mark else []
    except ValueError:
        raise UserError("options are written ?name=value&name=value.") from None
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"option '{name}' is given {names.count(name)} times; give it once.")
    return head, dict(pairs)
