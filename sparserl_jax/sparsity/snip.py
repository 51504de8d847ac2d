"""SNIP (Lee et al. 2019): single-shot pruning by connection sensitivity.

    score = |dL/dw * w|,   keep the largest (1 - S) share of all weights of the network

with L the loss of one minibatch: the TD loss for the critic, its own loss for the actor. Applied once, at the network's
first topology event, and static from there on: an event is where a method may look at data, and the first is one
topology interval behind the warm-up. The network is dense until then (and charged so).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparserl_jax.layers import LayerTable
from sparserl_jax.sparsity import pruning
from sparserl_jax.sparsity.contract import Events, Evidence, Params


def score(params: Params, evidence: Evidence) -> Params:
    """|g w|."""
    return jax.tree.map(lambda g, w: jnp.abs(g * w), evidence.grad(), params)


def settings(layers: LayerTable, knob: float, events: Events, source: str) -> pruning.Settings:
    """All of it at the first event."""
    return pruning.settings_in_all(layers, knob, events, pruning.at_once(0.0)(events))


# A family of its own, like GraSP and SynFlow: what a family computes at its events is paid by all its members, and only
# GraSP needs second derivatives, only SynFlow a hundred rounds.
FAMILY = pruning.family("snip", score, pruning.over_all)
SNIP = pruning.method(
    "snip",
    FAMILY,
    settings,
    "once, at the first event, keep the largest |gradient * weight|",
    dense_growth=True,
)
