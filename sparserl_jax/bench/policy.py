"""Policy files: the deployed actor of one run as plain arrays, and the masks of its other networks.

`policy.npz` holds float32 weights under `weights/<path>`, bit-packed masks under `masks/<path>` (first entry in the
highest bit, row-major), and one JSON text `description`: spaces, agent, normalisation, configuration hash, tensors.
Nothing is pickled, and the same policy gives the same bytes. A decomposed policy (`form`: `factors`) holds the factors
of `deploy/low_rank.py` in place of kernels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparserl_jax.bench.paths import at_home
from sparserl_jax.deploy import low_rank
from sparserl_jax.envs.protocol import in_box
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import masks as mask_ops

FORMAT = "sparserl_jax-policy-1"
FILE = "policy.npz"
NETWORKS = "networks.npz"
DESCRIBED = ("env", "agent", "hidden", "obs_dim", "action_dim", "action_low", "action_high")
"""Parts of a policy's description that calling it needs; on top come `num_actions`, `image` and `form` where there are
such, `network` where it is no `mlp`, and `policy` where the agent has several kinds and it is not `squashed`."""
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading an archive with a few wrong bytes may raise (of them NotImplementedError is a RuntimeError)."""


def kinds(spec: Any, agent: Any) -> dict[str, Any]:
    """What a description says beyond `DESCRIBED`: the number of choices, the shape of images, the kinds of network and
    policy."""
    said = {"num_actions": spec.num_actions, "image": spec.image and list(spec.image)}
    said["network"] = None if agent.network == "mlp" else agent.network
    law = getattr(agent, "policy", "squashed")
    said["policy"] = None if law == "squashed" else law
    return {name: value for name, value in said.items() if value is not None}


def image(description: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of a described policy's observations where they are images."""
    shape = description.get("image")
    return None if shape is None else tuple(shape)


def flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """Leaves of a nested dictionary as `{prefix/key/key: array}`, in sorted order."""
    flat: dict[str, np.ndarray] = {}
    for key in sorted(tree):
        value = tree[key]
        name = f"{prefix}/{key}"
        flat.update(flatten(value, name) if isinstance(value, Mapping) else {name: np.asarray(value)})
    return flat


def finite(tree: Mapping[str, Any]) -> bool:
    """Whether all numbers of a nested dictionary are finite."""
    return all(np.isfinite(value).all() for value in flatten(tree, "_").values())


def nested(flat: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        head, *path = name.split("/")
        if head != prefix:
            continue
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree


def _packed(masks: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    return {name: mask_ops.pack(value) for name, value in flatten(masks, prefix).items()}


def shapes_of(tree: Mapping[str, Any]) -> dict[str, list[int]]:
    """Shapes of the leaves of a nested dictionary by their paths."""
    return {name.partition("/")[2]: list(value.shape) for name, value in flatten(tree, "_").items()}


def _write(
    path: Path, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any], mode: str = "wb"
) -> None:
    text = json.dumps(description, sort_keys=True)
    with path.open(mode) as file:
        np.savez(file, description=np.array(text), **arrays)  # type: ignore[arg-type]


def save(
    path: Path,
    params: Mapping[str, Any],
    masks: Mapping[str, Any],
    description: Mapping[str, Any],
    mode: str = "wb",
) -> None:
    """Write the deployed actor: `params` outside `masks` are written as zero; both mirror each other.

    `description` holds env, agent, hidden, obs_dim, action_dim, action_low, action_high, normalisation, config_hash.
    `mode` "xb" raises `FileExistsError` where there is a file.
    """
    weights = flatten(params, "weights")
    live = flatten(masks, "masks")
    arrays = {
        name: np.where(live["masks" + name.removeprefix("weights")], value, 0).astype(np.float32)
        for name, value in weights.items()
    }
    full = {"format": FORMAT, **description, "shapes": shapes_of(params)}
    _write(path, {**arrays, **_packed(masks, "masks")}, full, mode)


def save_masks(path: Path, masks: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the masks of every network, bit-packed, under `<network>/<path>`."""
    arrays: dict[str, np.ndarray] = {}
    for network in sorted(masks):
        arrays.update(_packed(masks[network], network))
    shapes = {network: shapes_of(tree) for network, tree in masks.items()}
    _write(path, arrays, {"format": FORMAT, "shapes": shapes})


def save_networks(path: Path, params: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the weights of every network, float32, under `<network>/<path>`; their masks are in `save_masks`' file."""
    arrays: dict[str, np.ndarray] = {}
    for network in sorted(params):
        weights = flatten(params[network], network)
        arrays.update({name: value.astype(np.float32) for name, value in weights.items()})
    _write(path, arrays, {"format": FORMAT, "networks": sorted(params)})


def load_networks(path: Path) -> dict[str, dict[str, Any]]:
    """Weights by network from `save_networks`' file; raises `UserError` for anything else."""
    arrays, description = _open(path)
    found = {str(network): nested(arrays, network) for network in description.get("networks", [])}
    if not found or not all(found.values()):
        raise UserError(f"'{path.name}' holds no networks; give the folder of a run that was trained here.")
    return found


def _open(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays.pop("description")))
    except FileNotFoundError:
        raise UserError(f"there is no file '{path}'; check the path.") from None
    except _DAMAGE as error:
        raise UserError(
            f"'{path.name}' is not a policy file of this package ({type(error).__name__}); give a run's folder or its "
            f"{FILE}."
        ) from None
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise UserError(f"'{path.name}' has the format {found!r}; this version reads {FORMAT!r}.")
    return arrays, description


def load_masks(path: Path) -> dict[str, dict[str, Any]]:
    """Masks of every network, as bool arrays, from `save_masks`' file; raises `UserError` for anything else."""
    arrays, description = _open(path)
    try:
        return {
            network: nested(
                {
                    f"_/{name}": mask_ops.unpack(arrays[f"{network}/{name}"], shape)
                    for name, shape in shapes.items()
                },
                "_",
            )
            for network, shapes in description["shapes"].items()
        }
    except (*_DAMAGE, AttributeError) as error:
        raise UserError(
            f"'{path.name}' holds no masks ({type(error).__name__}); give the folder of a run that was trained here."
        ) from None


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy: call it with observations `[..., obs]` for actions `[..., action]` in environment units; of
    discrete actions, the number of the choice, i32 `[...]`.

    `params` are the deployed weights (exactly zero outside `masks`), `description` the rest of the file. A policy is
    equal to itself alone, so that `jax.jit(policy)` works.
    """

    params: dict[str, Any]
    masks: dict[str, Any]
    description: dict[str, Any]

    def act(self, obs: Any) -> Any:
        """What `envs.as_taken` makes the deterministic action of, `[..., action]`: numbers that are clipped to [-1, 1],
        or of whose largest the choice is; the function that was evaluated for the record."""
        return self.apply(self.params, obs)

    def apply(self, params: Any, obs: Any) -> Any:
        """`act` with other weights of the same shapes, which may be traced."""
        import jax.numpy as jnp

        from sparserl_jax.agents.registry import trained_by
        from sparserl_jax.training.precision import precise

        known = trained_by(self.description["agent"])
        found = known.modules(
            tuple(self.description["hidden"]),
            self.description["action_dim"],
            self.description.get("network", "mlp"),
            image(self.description),
            **({"policy": self.description["policy"]} if "policy" in self.description else {}),
        )
        with self.acting():  # in float32 on every device, unless the caller has said otherwise
            return precise(found.policy, None)(params, jnp.asarray(obs, jnp.float32))

    def acting(self) -> contextlib.AbstractContextManager[None]:
        """Inside, networks compute with its factors, where it has some."""
        return low_rank.acting() if self.decomposed else contextlib.nullcontext()

    def __call__(self, obs: Any) -> Any:
        """Action in environment units for observations `[..., obs]`, or images `[..., height, width, channels]`."""
        if np.shape(obs)[-3:] == image(self.description):
            obs = np.reshape(obs, (*np.shape(obs)[:-3], -1))
        width = np.shape(obs)[-1:] or (0,)
        if width[0] != self.description["obs_dim"]:
            raise UserError(
                f"this policy reads observations of length {self.description['obs_dim']}, not {width[0]}; it was "
                f"trained on {self.description['env']}."
            )
        if "num_actions" in self.description:
            return self.act(obs).argmax(-1)
        return in_box(
            self.description["action_low"], self.description["action_high"], self.act(obs).clip(-1.0, 1.0)
        )

    @property
    def decomposed(self) -> bool:
        """Whether some of its weights are factors, see `deploy/low_rank.py`."""
        return self.description.get("form") == low_rank.FORM

    @property
    def nnz(self) -> int:
        """Live weights and biases."""
        return sum(int(value.sum()) for value in flatten(self.masks, "_").values())


def locate(path: str | Path) -> Path:
    """The policy file meant by `path`: the file itself, that in a run's folder, or that of a folder's only run.

    Raises:
        UserError: there is none, or there are several.
    """
    path = at_home(path)
    if not path.exists():
        raise UserError(f"there is no file or folder '{path}'; give a run's folder or its {FILE}.")
    if path.is_file():
        return path
    if (path / FILE).is_file():
        return path / FILE
    # Names with a leading dot are copies that were never finished.
    runs = [file for file in sorted(path.glob(f"records/*/*/{FILE}")) if not file.parent.name.startswith(".")]
    if len(runs) == 1:
        return runs[0]
    if runs:
        raise UserError(f"'{path}' holds {len(runs)} runs; give one of them, for example '{runs[0].parent}'.")
    raise UserError(f"'{path}' holds no {FILE}; give a run's folder (records/<environment>/<run>).")


def load(path: str | Path) -> Policy:
    """The policy in a `policy.npz`, in a run's folder or in an exported `NAME.bin`; raises `UserError` for anything
    else."""
    from sparserl_jax.bench import raw  # which makes policies

    file = locate(path)
    if file.suffix == raw.SUFFIX:
        return raw.load(file)
    arrays, description = _open(file)
    try:
        shapes = {f"_/{name}": tuple(shape) for name, shape in description["shapes"].items()}
        masks = {name: mask_ops.unpack(arrays["masks" + name[1:]], shape) for name, shape in shapes.items()}
        sound = all(arrays["weights" + name[1:]].shape == shape for name, shape in shapes.items())
        sound = sound and all(key in description for key in DESCRIBED)
        inputs = description["obs_dim"]
        sound = sound and math.prod(image(description) or (inputs,)) == inputs
    except (KeyError, ValueError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(
            f"'{file.name}' holds no whole policy: tensors or parts of its description are missing."
        )
    return Policy(nested(arrays, "weights"), nested(masks, "_"), description)
