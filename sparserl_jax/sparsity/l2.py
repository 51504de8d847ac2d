"""L2: loss + knob * sum w^2, then small weights count as zero (see penalised.py; ridge regression).

The knob is the coefficient, not a sparsity. The pull on a weight fades with it, so weights get small together and next
to none of them falls below a threshold that is relative to the others: the control that shows what L1 adds.
"""

from __future__ import annotations

from sparserl_jax.sparsity import penalised

L2 = penalised.method("l2", True, "train dense with knob * sum w^2; weights that got small count as zero")
