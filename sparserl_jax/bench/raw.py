"""Policies as raw files: NAME.bin, of the bytes that tables count (`deploy.blob`), and NAME.json: what lies where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparserl_jax.bench import inspect, records
from sparserl_jax.bench.policy import DESCRIBED, Policy, shapes_of
from sparserl_jax.deploy import blob, low_rank
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable

FORMAT = "sparserl_jax-raw-2"
SUFFIX = ".bin"
_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What a description with anything in it may raise."""


def beside(file: Path) -> Path:
    """The description of a raw file."""
    return file.with_suffix(".json")


def described(policy: Policy, name: str, data: bytes, tensors: Sequence[blob.Tensor]) -> bytes:
    """The description of a raw file `data`, which holds all that `load` needs. name: what it was made of."""
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
    said["description_sha256"] = sealed(said)
    return (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()


def sealed(said: Mapping[str, Any]) -> str:
    """Digest of all else that a description says: a changed offset or bound would load as another policy."""
    rest = {key: value for key, value in said.items() if key != "description_sha256"}
    return records.digest(json.dumps(rest, sort_keys=True).encode())


def load(file: Path) -> Policy:
    """The policy in a raw file.

    Raises:
        UserError: it or its description is missing, damaged, or not that of the other.
    """
    card = beside(file)
    if not card.is_file():
        raise UserError(
            f"'{file}' is no policy file of this package, or its description '{card.name}' is missing; give both."
        )
    data = file.read_bytes()
    try:
        said: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
        sound = said["format"] == FORMAT and said["description_sha256"] == sealed(said)
        sound = sound and all(key in dict(said["policy"]) for key in DESCRIBED)
        same = (said["bytes"], said["sha256"]) == (len(data), records.digest(data))
        made = _made(data, said) if sound and same else None
    except _DAMAGE:
        sound = False
    if not sound or (made is not None and not whole(made)):
        raise UserError(f"'{card}' is no description of a policy of this version; export the policy again.")
    if made is None:
        raise UserError(f"'{file}' is not the file that '{card.name}' describes; export the policy again.")
    return made


def _made(data: bytes, said: Mapping[str, Any]) -> Policy:
    """The policy of a file by its description; raises one of `_DAMAGE` where its layers are not the network's."""
    tensors = blob.read(data, said["tensors"])
    layers = stored(said["policy"])
    if [(tensor.name, tensor.shape) for tensor in tensors] != [(layer.name, layer.shape) for layer in layers]:
        raise ValueError("other layers than the network's")
    return Policy(*blob.decode(tensors), said["policy"])


def whole(policy: Policy) -> bool:
    """Whether a policy has the parameters of the network that its description names."""
    try:
        known = stored(policy.description).shapes
        return shapes_of(policy.params) == {"/".join(path): list(shape) for path, shape in known.items()}
    except _DAMAGE:
        return False


def stored(described: Mapping[str, Any]) -> LayerTable:
    """Layers of a policy as they are stored, by its description: of a decomposed one the factors."""
    layers = inspect.layer_tables(described)["actor"]
    if described.get("form") != low_rank.FORM:
        return layers
    return low_rank.stored_layers(layers, described["ranks"], described["factors"])
