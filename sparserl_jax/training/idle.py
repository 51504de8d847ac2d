"""Parts of a recipe that a schedule would never let begin: a run without them is that of another recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparserl_jax.errors import UserError

if TYPE_CHECKING:
    from sparserl_jax.training.config import Training
    from sparserl_jax.training.recipe import Recipe


def refuse_idle_parts(training: Training, recipe: Recipe) -> None:
    """Refuse multi-step targets that are delayed beyond the end, and a dynamic buffer that cannot shrink.

    Raises:
        UserError: the recipe has such a part.
    """
    schedule = training.schedule
    if recipe.n > 1 and recipe.delayed and schedule.delay > training.updates:
        raise UserError(
            f"recipe '{recipe.name}': its targets of {recipe.n} steps begin at update {schedule.delay} "
            f"(schedule.delay), and the run has {training.updates}; make it smaller."
        )
    held = min(training.steps, schedule.buffer_max)
    if recipe.buffer == "dynamic" and schedule.buffer_min >= held:
        raise UserError(
            f"recipe '{recipe.name}': its buffer shrinks while it is larger than schedule.buffer_min = "
            f"{schedule.buffer_min}, and it never holds more than {held} transitions; make that smaller."
        )
