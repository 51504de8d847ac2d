"""L1: loss + knob * sum |w|, then small weights count as zero (see penalised.py; the lasso of Tibshirani 1996).

The knob is the coefficient, not a sparsity. Adam turns the constant pull into steps of about the learning rate to and
fro around zero, so that fewer weights fall below the threshold than the penalty makes useless.
"""

from __future__ import annotations

from sparserl_jax.sparsity import penalised

L1 = penalised.method("l1", False, "train dense with knob * sum |w|; weights that got small count as zero")
