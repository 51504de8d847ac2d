"""A run as it lies on disk, found by the path a user gives: its policy, and its record where there is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sparserl_jax.bench import policy, records, schema
from sparserl_jax.bench.policy import Policy
from sparserl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Saved:
    """A saved policy, where it lies, and the record beside it (None: a policy file on its own)."""

    policy: Policy
    path: Path
    record: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        """Folder of the policy file."""
        return self.path.parent

    @property
    def name(self) -> str:
        """What to call it in messages: the run's id, else the path."""
        return str(self.path) if self.record is None else self.record["run_id"]

    @property
    def diverged(self) -> bool:
        """Whether its training diverged, by its record: what its policy earns is no score."""
        return self.record is not None and self.record["result"]["status"] == "diverged"

    def check_played(self) -> None:
        """Refuse a policy that cannot be played: environments make something of actions that are no numbers.

        Raises:
            UserError: its training diverged, or its weights are not finite.
        """
        if self.diverged:
            raise UserError(f"'{self.name}' diverged, and what it earns is no score; give another run.")
        if not policy.finite(self.policy.params):
            raise UserError(f"'{self.name}' has weights that are no numbers; give another policy.")

    @property
    def plain(self) -> Policy:
        """The policy, whose weights are kernels.

        Raises:
            UserError: they are factors.
        """
        if self.policy.decomposed:
            made = self.policy.description.get("decomposed_from", "unknown")
            raise UserError(f"'{self.name}' holds low-rank factors; give the policy it was made of ({made}).")
        return self.policy

    @property
    def changed(self) -> bool:
        """Whether the policy file is not the one that was recorded."""
        if self.record is None:
            return False
        return records.digest(self.path.read_bytes()) != self.record["files"]["policy"]["sha256"]


def find(path: str | Path) -> Saved:
    """The saved run that `path` means: a run's folder, its policy file, or a folder with one run.

    Raises:
        UserError: there is nothing, or what is there is damaged.
    """
    file = policy.locate(path)
    found = policy.load(file)
    if not (file.parent / "record.json").is_file() or file.name != policy.FILE:
        return Saved(found, file, None)
    try:
        record = records.read(file.parent)
    except ValueError:
        raise UserError(
            f"'{file.parent / 'record.json'}' is not valid JSON; bring back a copy, or use a copy of {policy.FILE} "
            "that lies elsewhere."
        ) from None
    problems = schema.errors(record)
    if problems:
        raise UserError(f"'{file.parent / 'record.json'}' is not a record of this version ({problems[0]}).")
    return Saved(found, file, record)
