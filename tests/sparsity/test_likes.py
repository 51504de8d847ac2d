"""The reconstructions plad_like and eau_like, by hand and by NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparserl_jax.conformance.laboratory import hasty
from sparserl_jax.errors import UserError
from sparserl_jax.sparsity import METHODS, eau_like, plad_like, promised
from sparserl_jax.sparsity.contract import Evidence
from tests.sparsity.common import draw, rig
from tests.sparsity.test_pruning import EVENTS, TWO, WEIGHTS, flat, seen

TICKS = range(10, 100, 10)
PLAD, EAU = METHODS["plad_like"], METHODS["eau_like"]

# ---- plad_like -----------------------------------------------------------------------------------------------------


def lived(method: Any, layers: Any, weights: Any, knob: float) -> list[tuple[Any, Any, Any]]:
    """(weights, masks, effects) after every event, weights standing still in between."""
    init, evolve = method.family.init, method.family.evolve
    params, _, state = init(
        jax.random.key(0), weights, layers, method.settings(layers, knob, EVENTS, "released")
    )
    event = hasty(
        lambda tick, params, state: evolve(jax.random.key(1), tick, params, {}, None, state, seen(weights))
    )
    found = []
    for tick in TICKS:
        after, _, _, changed, effects = event(np.int32(tick), params, state)
        if bool(effects.happened):
            params, state = after, changed
        found.append((params, flat(state.masks, layers), effects))
    return found


def test_plad_prunes_like_gradual_and_empties_the_replay_at_every_fifth_of_training():
    r = rig("critic")
    weights = draw(r.like, 1)
    plad, gradual = (lived(METHODS[name], r.layers, weights, 0.7) for name in ("plad_like", "gradual"))
    assert [bool(effects.reset_replay) for *_, effects in plad] == [
        tick in (20, 40, 60, 80) for tick in TICKS
    ]
    # Tick 20 removes nothing yet, but empties the replay; rescaling does not change the order of a tensor's weights.
    assert [bool(e.happened) for *_, e in plad] == [tick >= 20 and tick <= 80 for tick in TICKS]
    assert [bool(e.happened) for *_, e in gradual] == [tick >= 30 and tick <= 80 for tick in TICKS]
    for ours, theirs in zip(plad, gradual, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
    promise = promised(PLAD, r.layers, 0.7, EVENTS, "released")
    assert promise.events == sum(bool(e.happened) for *_, e in plad) == 7
    assert [promise.at(k) for k in range(1, 10)] == [[int(m.sum()) for m in masks] for _, masks, _ in plad]


def test_plad_keeps_the_energy_of_every_tensor():
    r = rig("actor")
    weights = draw(r.like, 2)
    had = [float((w**2).sum()) for w in flat(weights, r.layers)]
    for params, masks, _ in lived(PLAD, r.layers, weights, 0.7):
        for tensor, mask, energy, first in zip(flat(params, r.layers), masks, had, flat(weights, r.layers)):
            assert (tensor[~mask] == 0).all()
            assert float((tensor**2).sum()) == pytest.approx(energy, rel=1e-5)
            np.testing.assert_allclose(tensor[mask] / first[mask], (tensor[mask] / first[mask])[0], rtol=1e-5)


def test_rescaling_by_hand_and_of_nothing():
    """Squares 9 + 16 to 16: times 5 / 4. A tensor of which nothing went stays, to the bit; zeros stay zeros."""
    before = {
        "hidden_0": {"kernel": np.float32([[3, 4, 0], [0, 0, 0]]), "bias": np.float32([7, 7, 7])},
        "output": {"kernel": np.float32([[0.1], [0.2], [0.3]]), "bias": np.float32([7])},
    }
    after = {
        **before,
        "hidden_0": {"kernel": np.float32([[0, 4, 0], [0, 0, 0]]), "bias": np.float32([7, 7, 7])},
    }
    found = plad_like.rescaled(before, after, TWO)
    np.testing.assert_allclose(found["hidden_0"]["kernel"], [[0, 5, 0], [0, 0, 0]])
    assert np.array_equal(found["output"]["kernel"], before["output"]["kernel"])
    assert np.array_equal(found["hidden_0"]["bias"], before["hidden_0"]["bias"])
    nothing = jax.tree.map(np.zeros_like, before)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(plad_like.rescaled(before, nothing, TWO)))


# ---- eau_like ------------------------------------------------------------------------------------------------------


def chosen(loss: Any, state: Any, params: Any, layers: Any = TWO) -> tuple[list[np.ndarray], bool]:
    evidence = Evidence(*[None] * 6, loss=loss)
    _, _, _, state, effects = EAU.family.evolve(
        jax.random.key(0), jnp.int32(10), params, {}, None, state, evidence
    )
    return flat(state.masks, layers), bool(effects.happened)


def fresh(removed: tuple[float, ...], least: int) -> Any:
    settings = eau_like.Settings(np.int32(least), np.float32(removed))
    return EAU.family.init(jax.random.key(0), WEIGHTS, TWO, settings)[2]


def live(params: Any) -> Any:
    return sum(jnp.sum(leaf != 0) for leaf in jax.tree.leaves(params)).astype(jnp.float32)


@pytest.mark.parametrize(
    ("loss", "least", "left"),
    [
        (lambda p: live(p), 2, 3),  # the fewer, the better: six of nine go
        (lambda p: -live(p), 2, 9),  # every weight counts
        (lambda p: (live(p) - 6) ** 2, 2, 6),  # the best is in between
        (lambda p: jnp.float32(1), 2, 3),  # equal losses: the sparsest
        (lambda p: jnp.float32(1), 5, 5),  # but no sparser than the knob
        (lambda p: jnp.where(live(p) < 7, jnp.nan, -live(p)), 2, 9),  # what is no number wins nothing
    ],
)
def test_the_candidate_of_least_loss_stays(loss, least, left):
    masks, happened = chosen(loss, fresh((0.67, 0.34, 0.0), least), WEIGHTS)
    everything = np.abs(np.concatenate(flat(WEIGHTS, TWO)))
    expected = everything >= np.sort(everything)[9 - left]
    assert np.concatenate(masks).tolist() == expected.tolist()
    assert happened == (left < 9)


def test_at_its_fastest_a_network_is_at_its_limit_after_half_of_the_events_and_never_beyond():
    r = rig("critic")
    params, _, state = EAU.family.init(
        jax.random.key(0), draw(r.like, 0), r.layers, EAU.settings(r.layers, 0.8, EVENTS, "released")
    )
    total, least = r.layers.weights, r.layers.weights - int(0.8 * r.layers.weights)
    evidence = Evidence(*[None] * 6, loss=lambda p: jnp.float32(0))
    event = hasty(
        lambda tick, params, state: EAU.family.evolve(
            jax.random.key(0), tick, params, {}, None, state, evidence
        )
    )
    left = []
    for tick in TICKS:
        params, _, _, state, _ = event(np.int32(tick), params, state)
        left.append(sum(int(m.sum()) for m in flat(state.masks, r.layers)))
    assert left[-1] == least and left == sorted(left, reverse=True)
    # Nine events: 4.5 of them by a constant factor, rounded in favour of the weights.
    factor = (least / total) ** (2 / 9)
    assert left[0] == pytest.approx(total * factor, abs=1.5) and left[3] == pytest.approx(
        total * factor**4, abs=6
    )
    assert left[3] > left[4] >= left[5] == least


def test_eau_promises_what_is_certain():
    found = promised(EAU, TWO, 0.5, EVENTS, "released")
    assert found.counts == [6, 3] and found.events == 9
    with pytest.raises(UserError, match="sparsity 0.9 leaves 1 weight"):
        promised(EAU, TWO, 0.9, EVENTS, "released")
    with pytest.raises(UserError, match=r"sparsity is -0.5"):
        promised(EAU, TWO, -0.5, EVENTS, "released")


@pytest.mark.parametrize("name", ["plad_like", "eau_like", "l1"])
@pytest.mark.parametrize("over", ["vmap", "map"])
def test_members_of_other_knobs_together_equal_members_alone(name, over):
    method, r = METHODS[name], rig("critic")
    knobs = (0.3, 0.6, 0.8)
    settings = [method.settings(r.layers, knob, EVENTS, "released") for knob in knobs]
    stacked = jax.tree.map(lambda *x: np.stack(x), *settings)
    weights = jax.tree.map(lambda *x: np.stack(x), *(draw(r.like, seed) for seed in range(3)))

    def life(own, fresh):
        params, _, state = method.family.init(jax.random.key(0), fresh, r.layers, own)
        evidence = Evidence(
            *[None] * 6, loss=lambda p: sum(jnp.sum((x - 0.3) ** 2) for x in jax.tree.leaves(p))
        )
        for tick in (40, 80):
            params, _, _, state, _ = method.family.evolve(
                jax.random.key(tick), jnp.int32(tick), params, {}, None, state, evidence
            )
        return params, state.masks

    together = hasty(jax.vmap(life) if over == "vmap" else lambda *x: jax.lax.map(lambda one: life(*one), x))
    found, single = together(stacked, weights), hasty(life)
    for i in range(3):
        alone = single(settings[i], jax.tree.map(lambda x, i=i: x[i], weights))
        for a, b in zip(jax.tree.leaves(alone[1]), jax.tree.leaves(found[1]), strict=True):
            np.testing.assert_array_equal(a, b[i])
        for a, b in zip(jax.tree.leaves(alone[0]), jax.tree.leaves(found[0]), strict=True):
            np.testing.assert_allclose(a, b[i], atol=1e-6)
