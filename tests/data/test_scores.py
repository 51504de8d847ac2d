"""D4RL's normalised score: its ends, and no score for tasks that are not D4RL's."""

import numpy as np
import pytest

from sparserl_jax.data import scores
from sparserl_jax.errors import UserError


@pytest.mark.parametrize("environment", scores.ENDS)
def test_random_is_zero_and_expert_a_hundred(environment: str) -> None:
    low, high = scores.ENDS[environment]
    made = scores.normalised(f"{environment}-medium-v2", np.array([low, high, (low + high) / 2]))
    np.testing.assert_allclose(made, [0, 100, 50], atol=1e-12)


def test_a_score_by_hand() -> None:
    # 100 (3000 + 20.272305) / (3234.3 + 20.272305)
    assert scores.normalised("hopper-medium-expert-v2", 3000.0) == pytest.approx(92.8009, abs=1e-4)
    assert scores.ends("walker2d-full-replay-v2") == (1.629008, 4592.3)


@pytest.mark.parametrize(
    "task", ["hopper", "hopper-medium-v5", "brax:hopper", "hopper_medium-v2", "Hopper-v5"]
)
def test_tasks_that_are_not_d4rls_have_no_score(task: str) -> None:
    with pytest.raises(UserError, match="unknown D4RL task"):
        scores.normalised(task, 1.0)
