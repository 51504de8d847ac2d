"""The form of a method's functions, by shapes alone: nothing is compiled, so plans look at it before they run.

Every function of the Sparsifier contract can be traced with `jax.jit`, and keeps structure, shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparserl_jax.conformance.broken import Broken, require
from sparserl_jax.errors import UserError
from sparserl_jax.layers import Layer, LayerTable
from sparserl_jax.sparsity.contract import Effects, Events, Evidence, Method

MODES = ("learn", "act", "target", "deploy")


def parameters(layers: LayerTable) -> Any:
    """Shapes of a network's parameters, f32, as its module makes them."""
    tree: dict[str, Any] = {}
    for path, shape in layers.shapes.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


def _kind(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"


def _like(expected: Any, found: Any, where: str) -> None:
    """Two trees have the same structure, shapes and dtypes."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (expected, found)]
    require(structures[0] == structures[1], structures[0], structures[1], where)
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True)
    for (path, a), b in pairs:
        require(_kind(a) == _kind(b), _kind(a), _kind(b), f"{where}, {jax.tree_util.keystr(path)}")


def _traced(where: str, fn: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return jax.eval_shape(fn, *arguments)
    except Broken:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
        raise Broken(
            "a function that jax.jit can trace", f"{type(error).__name__}: {reason}", where
        ) from error


def _tuple(found: Any, length: int, where: str) -> tuple[Any, ...]:
    is_tuple = isinstance(found, tuple) and len(found) == length
    require(is_tuple, f"a tuple of {length}", f"a {type(found).__name__}", where)
    return found


def check_functions(method: Method, layers: LayerTable, knob: float, events: Events, source: str) -> None:
    """Every function of a method can be traced on a network and keeps its shapes; masks mirror the parameters.

    Raises:
        Broken: the first thing that is wrong.
        UserError: the knob cannot be had on this network.
    """
    family, key, params = method.family, jax.random.key(0), parameters(layers)
    try:
        settings = jax.tree.map(np.asarray, method.settings(layers, knob, events, source))
    except UserError:
        raise
    except Exception as error:
        raise Broken("settings", f"{type(error).__name__}: {error}", "settings") from error
    for path, leaf in jax.tree_util.tree_leaves_with_path(settings):
        numeric = leaf.dtype.kind in "biuf"
        require(numeric, "arrays of numbers", leaf.dtype, f"settings{jax.tree_util.keystr(path)}")

    begun = _traced(
        "init", lambda k, p, s: _tuple(family.init(k, p, layers, s), 3, "init"), key, params, settings
    )
    _like(params, begun[0], "the parameters of init")
    params, extra, state = begun
    for mode in MODES:

        def effective(p: Any, e: Any, s: Any, k: jax.Array, mode: Any = mode) -> Any:
            return family.effective(p, e, s, mode, k)

        used = _traced(f"effective, mode '{mode}'", effective, params, extra, state, key)
        _like(params, used, f"effective, mode '{mode}'")
    clock = jax.ShapeDtypeStruct((), jnp.int32)
    cost = _traced("penalty", family.penalty, params, extra, state, clock)
    require(np.shape(cost) == (), "one number", _kind(cost), "penalty")
    _like(params, _traced("gradients", family.gradients, params, params, extra, state), "gradients")
    slots = jax.eval_shape(optax.adam(1e-3).init, (params, extra))
    for kept in (slots, None):
        where = "project" if kept is not None else "project without optimiser slots (of a target)"
        after = _traced(where, lambda p, e, o, s, w=where: _tuple(family.project(p, e, o, s), 3, w), *(
            params, extra, kept, state,
        ))  # fmt: skip
        _like((params, extra, kept), after, where)
    if family.refresh is not None:
        _like(state, _traced("refresh", family.refresh, params, extra, state), "the state of refresh")
    _check_evolve(method, layers, params, extra, slots, state)

    # The form is a word, not an array: it is noted while tracing.
    forms: list[Any] = []

    def deployed(p: Any, e: Any, s: Any) -> Any:
        found, masks, form = _tuple(family.deployed(p, e, s), 3, "deployed")
        forms.append(form)
        return found, masks

    left, masks = _traced("deployed", deployed, params, extra, state)
    _like(params, left, "the parameters of deployed")
    full = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bool_), params)
    _like(full, masks, "the masks of deployed")
    require(forms[-1] == "plain", "the form plain, which is all that is stored", forms[-1], "deployed")
    if family.adopt is not None:
        adopt = family.adopt
        adopted = _traced("adopt", lambda p, m, s: _tuple(adopt(p, m, s), 3, "adopt"), params, full, state)
        _like((params, extra, state), adopted, "adopt")
    if family.extra_rate is not None:
        rate = _traced("extra_rate", family.extra_rate, state)
        require(_kind(rate) == "float32[]", "one f32 number", _kind(rate), "extra_rate")
    if family.diagnose is not None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            _traced("diagnose", family.diagnose, params, extra, state)
        ):
            where = f"diagnose{jax.tree_util.keystr(path)}"
            require(_kind(leaf) == "float32[]", "one f32 number", _kind(leaf), where)


def _places(layer: Layer) -> tuple[int, ...]:
    """Axes between batch and units of a layer's activations: of a convolution height and width, here all in one row."""
    return (layer.positions or 1, 1) if layer.kind == "conv" else ()


def _check_evolve(
    method: Method, layers: LayerTable, params: Any, extra: Any, slots: Any, state: Any
) -> None:
    hidden = {
        layer.name: jax.ShapeDtypeStruct((*layer.stack, 8, *_places(layer), layer.units_out), jnp.float32)
        for layer in layers.hidden
    }

    def evolve(key: Any, tick: Any, p: Any, e: Any, o: Any, s: Any, seen: Any, batch: Any) -> Any:
        evidence = Evidence(
            grad=lambda: seen[0],
            hvp=lambda vector: vector,
            activations=lambda: seen[1],
            batch=lambda size: jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), batch),
            init_params=lambda: seen[0],
            episode_return=lambda: jnp.float32(0),
            loss=lambda weights: sum((jnp.sum(w) for w in jax.tree.leaves(weights)), jnp.float32(0)),
        )
        found = _tuple(method.family.evolve(key, tick, p, e, o, s, evidence), 5, "evolve")
        is_effects = isinstance(found[4], Effects)
        require(is_effects, "Effects.of(...) as the fifth", f"a {type(found[4]).__name__}", "evolve")
        return found

    from sparserl_jax.conformance.laboratory import batch

    windows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch(0))
    tick = jax.ShapeDtypeStruct((), jnp.int32)
    after = _traced(
        "evolve", evolve, jax.random.key(0), tick, params, extra, slots, state, (params, hidden), windows
    )
    for name, expected, found in zip(
        ("parameters", "extra", "optimiser slots", "state"),
        (params, extra, slots, state),
        after[:4],
        strict=True,
    ):
        _like(expected, found, f"the {name} of evolve")
    flag: Any = jax.ShapeDtypeStruct((), jnp.bool_)
    _like(Effects(flag, flag, flag), after[4], "the effects of evolve")
