"""Policies as raw files: NAME.bin, of the bytes that tables count (`deploy.blob`), and NAME.json: what lies where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import records
from sparserl_jax.bench.policy import DESCRIBED, Policy
from sparserl_jax.deploy import blob
from sparserl_jax.errors import UserError

FORMAT = "sparserl_jax-raw-1"
SUFFIX = ".bin"


def beside(file: Path) -> Path:
    """The description of a raw file."""
    return file.with_suffix(".json")


def contents(policy: Policy, name: str, tensors: Sequence[blob.Tensor]) -> tuple[bytes, bytes]:
    """The raw file of a policy and its description, which holds all that `load` needs. name: what it was made of."""
    data = blob.write(tensors)
    said = {
        "format": FORMAT,
        "run": name,
        "bytes": len(data),
        "sha256": records.digest(data),
        "policy": {
            key: value for key, value in policy.description.items() if key not in ("format", "shapes")
        },
        "tensors": blob.described(tensors),
    }
    return data, (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()


def load(file: Path) -> Policy:
    """The policy in a raw file.

    Raises:
        UserError: it or its description is missing, damaged, or not that of the other.
    """
    card = beside(file)
    if not card.is_file():
        raise UserError(f"'{file}' is described by '{card.name}', which is not beside it; bring it back.")
    data = file.read_bytes()
    try:
        said: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
        sound = said["format"] == FORMAT and all(key in said["policy"] for key in DESCRIBED)
        same = (said["bytes"], said["sha256"]) == (len(data), records.digest(data))
        params, masks = blob.decode(blob.read(data, said["tensors"])) if sound and same else ({}, {})
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"'{card}' is no description of a policy of this version; export the policy again.")
    if not same:
        raise UserError(f"'{file}' is not the file that '{card.name}' describes; export the policy again.")
    return Policy(params, masks, said["policy"])
