"""The shipped JSON Schema of a record, and validation against it."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def record_schema() -> dict[str, Any]:
    """The shipped schema (draft 2020-12)."""
    text = resources.files("sparserl_jax.bench").joinpath("record.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(record_schema())


def errors(record: Any) -> list[str]:
    """Every way in which a record breaks the schema, one sentence each; empty when it is valid."""
    found = sorted(_validator().iter_errors(record), key=lambda error: error.json_path)
    return [f"record{error.json_path.removeprefix('$')}: {error.message:.160}" for error in found]
