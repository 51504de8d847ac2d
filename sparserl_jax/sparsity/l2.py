"""L2: loss + knob * sum w^2, then small weights count as zero (see penalised.py; ridge regression).

The knob is the coefficient, not a sparsity. Under plain gradient descent weights get small together and next to none
falls below a threshold that is relative to the others. Adam divides by the gradient's own size: a weight that the loss
does not hold goes to zero at the learning rate, and without L1's dithering, for the pull fades on the way.
"""

from __future__ import annotations

from sparserl_jax.sparsity import penalised

L2 = penalised.method("l2", True, "train dense with knob * sum w^2; weights that got small count as zero")
