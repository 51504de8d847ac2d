"""`sparserl export`: a trained policy as the raw file whose bytes the tables tell, or as one C file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparserl_jax import __version__
from sparserl_jax.accounting import sizes
from sparserl_jax.agents.policies import BOX
from sparserl_jax.bench import decompose, evaluate, inspect, new_file, raw
from sparserl_jax.bench.policy import Policy
from sparserl_jax.bench.saved import Saved
from sparserl_jax.deploy import blob, c_source
from sparserl_jax.deploy.c_source import Head
from sparserl_jax.errors import UserError
from sparserl_jax.layers import LayerTable

C = ".c"
SMALLEST = "smallest"
"""The choice that tables count: layer by layer the format of fewest bytes."""
FORMATS = (SMALLEST, *blob.FILED)


class Exported(NamedTuple):
    """What was written. size: bytes of weights, indices and biases. dense: those of a dense network of the width that
    the policy's description has. tensors: as filed."""

    name: str
    paths: tuple[Path, ...]
    size: int
    dense: int
    tensors: list[blob.Tensor]

    def line(self) -> str:
        """In words."""
        formats = ", ".join(f"{tensor.name} {tensor.format}" for tensor in self.tensors)
        files = " and ".join(str(path) for path in self.paths)
        return (
            f"{self.name}: {files}; {self.size:,} bytes of weights, indices and biases ({formats}); dense "
            f"{self.dense:,}, {self.dense / self.size:.1f}x."
        )


def check_target(out: Path) -> None:
    """Refuse names that say nothing of a form, and to write over a file or into a folder that is not there.

    Raises:
        UserError: so it is.
    """
    if out.suffix not in (raw.SUFFIX, C):
        raise UserError(f"--out '{out}': a raw file's name ends in .bin, C source's in .c; give such a name.")
    new_file.check(out)
    if out.suffix == raw.SUFFIX and raw.beside(out).exists():
        raise UserError(
            f"--out '{out}' would be described by '{raw.beside(out).name}', which exists and is not overwritten; give "
            "a new name."
        )


def export(saved: Saved, out: Path, format: str = SMALLEST) -> Exported:
    """Write a policy: NAME.bin with NAME.json, which says what lies where, or NAME.c.

    Args:
        saved: a policy of any kind; a narrow `mlp` inside wide tensors is written as what it is, factors as factors.
        out: a new file.
        format: one of `FORMATS`; C source has code for `c_source.FORMATS`, which `smallest` chooses from.

    Raises:
        UserError: a name or format that there is none of, weights that are not finite, or a policy that C source cannot
            express.
    """
    check_target(out)
    layers, policy = actor(saved)
    formats = sizes.BLOB_FORMATS if format == SMALLEST else (format,)
    if out.suffix == C:
        if not set(formats) <= set(c_source.FORMATS):
            raise UserError(
                f"there is no C code for the format {format}; give one of {', '.join((SMALLEST, *c_source.FORMATS))}, "
                "or a name that ends in .bin."
            )
        if policy.description.get("network", "mlp") != "mlp":
            raise UserError(
                f"'{saved.name}' is a network of the kind {policy.description['network']}, and there is C code for mlp "
                "only; give a name that ends in .bin."
            )
        acting = head(policy.description, saved.name)
    tensors = blob.encode(layers, policy.params, policy.masks, formats)
    data = blob.write(tensors)
    if out.suffix == raw.SUFFIX:
        written = {out: data, raw.beside(out): raw.described(policy, saved.name, data, tensors)}
    else:
        written = {
            out: c_source.source(layers, tensors, acting, _about(saved, len(data))).encode(
                errors="backslashreplace"
            )
        }
    _write(written)
    plain = inspect.layer_tables(saved.policy.description)["actor"]
    dense = sizes.raw_blob(plain, formats=("dense",)).total
    return Exported(saved.name, tuple(written), len(data), dense, tensors)


def actor(saved: Saved) -> tuple[LayerTable, Policy]:
    """Layers of a policy as they are stored, and the policy without units that are not there; see `decompose.actor`.

    Raises:
        UserError: its files do not fit each other, or its tensors are not those of the network it describes.
    """
    if not raw.whole(saved.policy):
        raise UserError(
            f"the tensors of '{saved.name}' are not those of the network that it describes; make its policy file again."
        )
    return (
        (raw.stored(saved.policy.description), saved.policy)
        if saved.policy.decomposed
        else decompose.actor(saved, wide=True)
    )


def head(described: Mapping[str, Any], name: str) -> Head:
    """What acts, from a policy's description.

    Raises:
        UserError: the mode of its distribution is no function that C source has.
    """
    if "num_actions" in described:
        return Head("largest")
    bounds = tuple(described["action_low"]), tuple(described["action_high"])
    if described["agent"] == "ppo":
        return Head("clip", 1.0, *bounds)
    kind = described.get("policy", "thin" if described["agent"].startswith("fttpo") else "squashed")
    if kind == "beta":
        raise UserError(
            f"'{name}' is a Beta policy, whose mode C source does not compute; give a name that ends in .bin."
        )
    return Head("tanh", 1.0 if kind in ("squashed", "deterministic") else BOX, *bounds)


def _about(saved: Saved, size: int) -> list[str]:
    """Where a policy came from, for the comment in front of its source."""
    return [
        *inspect.origin(saved),
        *(["The policy file was changed after this was recorded."] if saved.changed else []),
        *(["These scores are of actions drawn; here acts the mode."] if evaluate.sampled(saved) else []),
        f"{size:,} bytes of weights, indices and biases. By sparserl_jax {__version__}.",
        "Try it: cc -O3 -DPOLICY_MAIN FILE.c -lm",
    ]


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write new files, all or none.

    Raises:
        UserError: one of them is there by now.
    """
    done: list[Path] = []
    try:
        for path, data in contents.items():
            with path.open("xb") as file:
                done.append(path)
                file.write(data)
    except BaseException as error:
        for path in done:
            path.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):  # made by somebody else meanwhile
            check_target(next(iter(contents)))
        raise
