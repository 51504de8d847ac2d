"""A policy file is enough: with NumPy alone, as the page on policies prints it, and under `jax.jit`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import sparserl_jax

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "results/quick/records/gymnax-Pendulum-v1"
OBSERVATIONS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["set-s0800-seed000", "tiny-s0970-seed001"])
def test_what_the_page_prints_acts_as_the_policy_does(name: str):
    page = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    (code,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "np.load" in text)
    found: dict[str, Any] = {}
    exec(re.sub(r"np\.load\(.*?\)", f"np.load({str(RUN / name / 'policy.npz')!r})", code), found)
    policy = sparserl_jax.load(RUN / name)
    np.testing.assert_allclose(found["act"](OBSERVATIONS), policy(OBSERVATIONS), atol=1e-5)


@pytest.mark.parametrize(
    ("run", "action"),
    [
        ("quick_sac/records/gymnax-Pendulum-v1/set-s0800-seed000", lambda x: 2 * np.tanh(x[:, :1])),
        ("quick_tickets/records/gymnax-Pendulum-v1/clone_dense-s0000-seed4000", lambda x: 2 * np.tanh(x)),
        ("fttpo_treatment/records/own-Treatment-III/bc-s0000-seed19000", lambda x: np.tanh(x[:, :1])),
        ("ppo_classic/records/gymnax-Pendulum-v1/set-s0800-seed000", lambda x: 2 * np.clip(x, -1, 1)),
        ("quick_dqn/records/gymnax-CartPole-v1/static-s0800-seed2000", lambda x: x.argmax(-1)),
    ],
)
def test_what_the_page_says_of_other_agents_is_so(run: str, action):
    """Of their outputs, made by hand; Pendulum's actions are in [-2, 2]."""
    policy = sparserl_jax.load(ROOT / "results" / run)
    x = np.random.default_rng(1).normal(size=(20, policy.description["obs_dim"])).astype(np.float32)
    out = x
    for layer in ("hidden_0", "hidden_1", "output"):
        weights = policy.params["mlp"][layer]
        out = out @ weights["kernel"] + weights["bias"]
        out = out if layer == "output" else np.maximum(out, 0)
    np.testing.assert_allclose(action(out), policy(x), atol=1e-5)


def test_a_policy_acts_in_float32_on_every_device_unless_the_caller_says_otherwise(monkeypatch):
    policy = sparserl_jax.load(RUN / "set-s0800-seed000")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "HIGHEST" in str(jax.make_jaxpr(policy)(OBSERVATIONS))
    with jax.default_matmul_precision("default"):
        assert "HIGHEST" not in str(jax.make_jaxpr(policy)(OBSERVATIONS))


def test_a_policy_may_be_compiled():
    policy = sparserl_jax.load(RUN / "set-s0800-seed000")
    np.testing.assert_allclose(jax.jit(policy)(OBSERVATIONS), policy(OBSERVATIONS), atol=1e-6)
