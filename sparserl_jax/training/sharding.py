"""The member axis over the local devices: who computes which members, and how populations get there and back.

Members never speak to each other, so every device runs the stages on members of its own (`jax.shard_map`): no device
waits for another and nothing is exchanged; the clock is the same everywhere. All devices hold equally many rows: a
population that does not divide is filled up with copies of its first members, whose numbers nobody reads, and devices
without which no other would hold more rows are left out. Everything outside the compiled stages (settings, curves,
checkpoints, outcomes) has exactly the members. On one device no rows are added and no sharding is named.

On CPUs the commands make every core a device of its own (`accelerator.device_per_core`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "member"
"""Name of the only mesh axis."""


def devices() -> list[jax.Device]:
    """The devices members are spread over: all of this process. `CUDA_VISIBLE_DEVICES` and the like choose them."""
    return jax.local_devices()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where `members` live: row i of a population is member `i % members`, rows in equal runs over `devices`.

    In several `waves`, a stage is called once for each of them, with rows of its own, instead of once for all.
    """

    members: int
    devices: tuple[jax.Device, ...]
    waves: int = 1

    @staticmethod
    def of(members: int) -> Layout:
        """The layout of `members` on this machine: least rows on each device, then fewest devices."""
        local = devices()
        rows = -(-members // len(local))
        return Layout(members, tuple(local[: -(-members // rows)]))

    def in_waves(self, at_most: int) -> Layout:
        """The same devices in as few waves as give none of them more than `at_most` rows at a time."""
        return dataclasses.replace(self, waves=-(-self.per_device // at_most))

    @property
    def per_device(self) -> int:
        """Rows each device computes in one call."""
        return -(-self.members // (len(self.devices) * self.waves))

    @property
    def rows(self) -> int:
        """Rows of one call: members and copies."""
        return self.per_device * len(self.devices)

    @property
    def held(self) -> int:
        """Rows each device holds, in all waves together."""
        return self.per_device * self.waves

    def __str__(self) -> str:
        """`90 members`, or `7 members on 8 devices, 1 padded`."""
        padded = self.rows * self.waves - self.members
        words = f"{self.members} members"
        words += f" on {len(self.devices)} {self.kind}" if len(self.devices) > 1 else ""
        words += f" in {self.waves} waves" if self.waves > 1 else ""
        return words + (f", {padded} padded" if padded else "")

    @property
    def on_cpu(self) -> bool:
        """Whether its devices are CPUs."""
        return getattr(self.devices[0], "platform", "") == "cpu"

    @property
    def kind(self) -> str:
        """What its devices are called."""
        return "cores" if self.on_cpu else "devices"

    # ---- stages ----------------------------------------------------------------------------------------------------

    def stage(
        self,
        fn: Callable[..., Any],
        *axes: int | None,
        donate: tuple[int, ...] = (),
        one_by_one: bool = False,
    ) -> Any:
        """A per-member function over the member axis, jitted.

        Args:
            fn: arrays of one member to arrays of one member.
            axes: per argument, 0 for arrays `[row, ...]`, None for what all members share.
            donate: places of the arguments whose memory becomes the result's.
            one_by_one: whether a device computes its members one after another (`lax.map`) or batched (`vmap`).
        """
        batched = _mapped(fn, axes) if one_by_one else jax.vmap(fn, in_axes=axes)
        if len(self.devices) == 1:
            return jax.jit(batched, donate_argnums=donate)
        specs = tuple(PartitionSpec() if axis is None else PartitionSpec(AXIS) for axis in axes)
        apart = jax.shard_map(
            batched, mesh=self._mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
        )
        return jax.jit(
            apart,
            in_shardings=tuple(NamedSharding(self._mesh, spec) for spec in specs),
            out_shardings=self._sharding,
            donate_argnums=donate,
        )

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @property
    def _sharding(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    # ---- populations -----------------------------------------------------------------------------------------------

    def padded(self, tree: Any) -> Any:
        """Arrays on the host, or shapes, `[member, ...]` as `[row, ...]`."""
        return tree if self.rows == self.members else self._wave(tree, 0)

    def place(self, tree: Any) -> Any:
        """Arrays `[member, ...]` on the host as arrays `[row, ...]` on the devices."""
        if len(self.devices) == 1:
            return jax.device_put(tree)
        sharding = self._sharding

        def put(leaf: Any) -> Any:
            if not _is_key(leaf):
                return jax.device_put(leaf, sharding)
            # From the host, as its data: to cut up an array that is on a device already, JAX compiles a program.
            data = jax.device_put(np.asarray(jax.random.key_data(leaf)), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

        return jax.tree.map(put, self.padded(tree))

    def share(self, tree: Any) -> Any:
        """Arrays on the host, which all members read, as arrays that every device has once."""
        if len(self.devices) == 1:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def unpadded(self, tree: Any) -> Any:
        """Arrays or shapes `[row, ...]` as `[member, ...]`; arrays come to the host where there are copies to leave
        out, and stay as they are where not."""
        if self.rows == self.members:
            return tree

        def cut(leaf: Any) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct((self.members, *leaf.shape[1:]), leaf.dtype)
            return _on_rows(leaf, lambda array: array[: self.members])

        return jax.tree.map(cut, tree)

    # ---- waves -----------------------------------------------------------------------------------------------------

    def split(self, tree: Any) -> list[Any]:
        """Arrays on the host, or shapes, `[member, ...]` as the rows `[row, ...]` of every wave."""
        return [self.padded(tree)] if self.waves == 1 else [self._wave(tree, w) for w in range(self.waves)]

    def _wave(self, tree: Any, wave: int) -> Any:
        """Its rows of arrays on the host, or of shapes, `[member, ...]`."""
        own = (wave * self.rows + np.arange(self.rows)) % self.members

        def rows(leaf: Any) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct((self.rows, *leaf.shape[1:]), leaf.dtype)
            return _on_rows(leaf, lambda array: array[own])

        return jax.tree.map(rows, tree)

    def deal(self, tree: Any) -> list[Any]:
        """Arrays `[member, ...]` on the host as arrays `[row, ...]` of every wave on the devices."""
        if self.waves == 1:
            return [self.place(tree)]
        whole = dataclasses.replace(self, members=self.rows, waves=1)
        return [whole.place(rows) for rows in self.split(tree)]

    def join(self, waves: Sequence[Any]) -> Any:
        """Arrays `[row, ...]` of every wave as NumPy arrays `[member, ...]`."""

        def joined(*leaves: Any) -> np.ndarray:
            parts = [np.asarray(leaf) for leaf in leaves]
            return (parts[0] if len(parts) == 1 else np.concatenate(parts))[: self.members]

        return jax.tree.map(joined, *waves)


def _mapped(fn: Callable[..., Any], axes: tuple[int | None, ...]) -> Callable[..., Any]:
    """`jax.vmap(fn, axes)` as a loop over the members."""

    def loop(*arguments: Any) -> Any:
        def one(rows: Any) -> Any:
            own = iter(rows)
            return fn(
                *(shared if axis is None else next(own) for shared, axis in zip(arguments, axes, strict=True))
            )

        return jax.lax.map(one, tuple(own for own, axis in zip(arguments, axes, strict=True) if axis == 0))

    return loop


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_rows(leaf: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """`change` by NumPy, for which nothing is compiled; typed random keys (of a user's environment) as their data."""
    if _is_key(leaf):
        changed: Any = change(np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(changed, impl=jax.random.key_impl(leaf))
    return change(np.asarray(leaf))
