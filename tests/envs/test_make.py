"""Environments are found by name or taken as objects; unknown names come back with the nearest known one."""

import dataclasses
import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

from sparserl_jax import envs
from sparserl_jax.errors import UserError
from tests.reference import probes


def test_names_lists_what_can_be_made():
    names = envs.names()
    assert "gymnax:Pendulum-v1" in names and "brax:hopper" in names
    assert "gymnax:CartPole-v1" in names and not any("MNIST" in name for name in names)


LISTED = [name for name in envs.names() if name.startswith("gymnax:")]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.slow
def test_every_listed_gymnax_environment_passes_the_entry_check(name):
    assert envs.check(name).spec.name == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gymnax:Pendulm-v1", "did you mean 'gymnax:Pendulum-v1'"),
        ("Pendulum-v1", "did you mean 'gymnax:Pendulum-v1'"),
        ("gimnax:Pendulum-v1", "did you mean 'gymnax:Pendulum-v1'"),
        ("hopper", "did you mean 'brax:hopper'"),
        ("brax:hoper", "did you mean 'brax:hopper'"),
        (
            "brax:hopper?backend=mjxx",
            "unknown backend of environment 'brax:hopper' 'mjxx': did you mean 'mjx'",
        ),
        ("brax:hopper?weight=2", "not one brax takes"),
        ("brax:hopper?backend", "options are written"),
        ("brax:hopper?backend=mjx&backend=spring", "option 'backend' is given twice"),
        ("gymnax:Pendulum-v1?max_sped=3", "did you mean 'max_speed'"),
        ("own:LunarLander", "did you mean 'own:LunarLanderLite'"),
        ("LunarLanderLite", "did you mean 'own:LunarLanderLite'"),
        ("own:LunarLanderLite?max_step=9", "did you mean 'max_episode_steps'"),
        ("gymnax:Pendulum-v1?max_episode_steps=0", "max_episode_steps is 0"),
        ("tests.reference.probes:Constnt", "did you mean 'Constant'"),
        ("tests.reference.probes:Constant?size=3", "its factory failed"),
        ("no_such_package.envs:Factory", "there is no module 'no_such_package.envs'"),
        ("tests.reference.probes:GAMMA", "unknown environment factory in tests.reference.probes"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_hint(name, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", "\\?")) as refusal:
        envs.make(name)
    assert "\n" not in str(refusal.value)


def test_a_module_that_fails_to_import_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "failing_envs.py").write_text("import not_installed_here\n")
    with pytest.raises(UserError, match="importing failing_envs failed.*not_installed_here"):
        envs.make("failing_envs:Factory")


def test_factory_by_name_gets_its_options_and_keeps_the_text_as_its_name(monkeypatch):
    module = ModuleType("users_envs")
    module.Factory = lambda limit, scale=1.0, fast=False: probes_with(limit, scale, fast)
    monkeypatch.setitem(sys.modules, "users_envs", module)
    env = envs.make("users_envs:Factory?limit=7&scale=0.5&fast=true")
    assert env.spec.max_episode_steps == 7 and env.user.options == (7, 0.5, True)
    assert env.spec.name == "users_envs:Factory?limit=7&scale=0.5&fast=true"


def probes_with(limit, scale, fast):
    probe = probes.Constant()
    probe.spec = envs.EnvSpec("inner", 1, 1, (-1.0,), (1.0,), limit)
    probe.options = (limit, scale, fast)
    return probe


def test_objects_classes_and_factories_are_all_taken():
    probe = probes.Both()
    assert envs.make(probe).spec == probe.spec
    assert envs.make(probes.Both).spec == probe.spec
    assert envs.make(lambda: probe) == envs.make(probe) and hash(envs.make(probe)) == hash(envs.make(probe))
    assert envs.make(probe) != envs.make(probes.Both())
    assert envs.make(envs.make(probe)) == envs.make(probe)


def test_the_same_name_is_the_same_object_so_that_nothing_is_compiled_again():
    assert envs.make("gymnax:Pendulum-v1") is envs.make("gymnax:Pendulum-v1")
    traced = []

    @jax.jit
    def program(key):
        traced.append(True)
        return envs.evaluate(envs.make("gymnax:Pendulum-v1"), key, lambda obs: jnp.zeros(1), 2)

    program(jax.random.key(0)), program(jax.random.key(1))
    assert len(traced) == 1


def test_a_label_is_part_of_the_name_and_changes_nothing_else(monkeypatch):
    plain, labelled = (
        envs.make(f"gymnax:Pendulum-v1?max_speed=6.0{label}") for label in ("", "#medium-replay")
    )
    assert labelled.spec == dataclasses.replace(
        plain.spec, name="gymnax:Pendulum-v1?max_speed=6.0#medium-replay"
    )
    assert envs.make("gymnax:Pendulum-v1#b") is envs.make("gymnax:Pendulum-v1#b")
    module = ModuleType("labelled_mine")
    module.Both = probes.Both
    monkeypatch.setitem(sys.modules, "labelled_mine", module)
    assert envs.make("labelled_mine:Both#a.b").spec.name == "labelled_mine:Both#a.b"


@pytest.mark.parametrize("label", ["", "a b", "a#b", "-a", "a/b"])
def test_labels_that_are_none_are_refused(label):
    with pytest.raises(UserError, match="what follows # is a label of letters"):
        envs.make(f"gymnax:Pendulum-v1#{label}")


def test_protocol_is_met_by_what_make_returns():
    assert isinstance(envs.make("gymnax:Pendulum-v1"), envs.Environment)


def test_old_words_in_the_models_of_brax_are_not_the_users_business(tmp_path, monkeypatch, capfd):
    """MuJoCo prints them and leaves a MUJOCO_LOG.TXT in the working directory."""
    monkeypatch.chdir(tmp_path)
    envs.make("brax:walker2d")
    assert not list(tmp_path.iterdir()) and "deprecated" not in "".join(capfd.readouterr())
