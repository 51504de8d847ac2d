"""Environments by name or by object.

A name is a prefix, an id and options:

    gymnax:Pendulum-v1     gymnax:Pendulum-v1?max_speed=6.0     options: fields of its parameters
    brax:hopper            brax:hopper?backend=mjx              options: arguments of its constructor
    own:LunarLanderLite    own:Treatment-III?doses=3            options: arguments of the suite's own classes
    playground:CartpoleBalance                                  options: fields of its configuration
    gymnasium:Hopper-v5    gymnasium:Ant-v5?frame_skip=2        options: arguments of gymnasium.make; on the host
    mario:SuperMarioBros-7-1-v0                                 options: actions; an emulator of yours, on the host
    my_pkg.envs:Factory    my_pkg.envs:Factory?size=3           options: keyword arguments of the factory

`max_episode_steps` is an option of every environment of these but the last. What follows # is a label, by which
tasks of one suite differ that differ in their dataset: gymnasium:Hopper-v5#medium. It changes no evaluation episode.
"""

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from ..errors import UserError, suggest
from ..references import NoModule, resolve, see_own_folder
from . import brax_adapter, gymnasium_adapter, gymnax_adapter, mario_adapter, own, playground_adapter
from .host import HostEnvironment
from .object_adapter import adapt
from .protocol import Environment

BUILDERS: dict[str, Callable[[str, dict[str, Any], str], Environment]] = {
    "brax": brax_adapter.build,
    "gymnax": gymnax_adapter.build,
    "own": own.build,
    "playground": playground_adapter.build,
}
BUILT: tuple[Any, ...] = (
    gymnax_adapter.GymnaxEnvironment,
    brax_adapter.BraxEnvironment,
    playground_adapter.PlaygroundEnvironment,
    *own.ENVIRONMENTS.values(),
)
"""Classes of what the builders make."""


def make(source: Any) -> Environment | HostEnvironment:
    """An Environment from a name (see above) or from an object, class or factory of the user's.

    What gymnasium made, or a factory that makes a gymnasium.Env, becomes a HostEnvironment.

    Nothing is compiled; `check` does that. The same gymnax, brax or own name gives the same object again, so that
    functions compiled for it are found again. Raises UserError for unknown names (with the nearest known
    one), options that do not exist, unknown kinds of actions, and objects that lack something.
    """
    if isinstance(source, str):
        return _by_name(source)
    if isinstance(source, BUILT) or isinstance(source, HostEnvironment):
        return source
    if _is_factory(source):
        return _from_factory(source, {}, getattr(source, "__name__", repr(source)), None)
    return _from_object(source)


def names() -> list[str]:
    """Every built-in environment, prefix included; those of optional packages and the user's come on top."""
    rooms = {"brax": brax_adapter, "gymnax": gymnax_adapter, "own": own}
    return [f"{prefix}:{name}" for prefix, room in rooms.items() for name in room.names()]


def _by_name(text: str) -> Environment | HostEnvironment:
    plain, label = _labelled(text)
    head, _, query = plain.partition("?")
    prefix, colon, rest = head.partition(":")
    options = _options(query, text)
    if not colon:
        raise _unknown(text)
    name = _name(prefix, rest, tuple(sorted(options.items()))) + label
    if prefix in BUILDERS:
        return _built_in(prefix, rest, tuple(sorted(options.items())), name)
    if prefix == "gymnasium":
        see_own_folder()  # gymnasium imports the module that an id names
        return gymnasium_adapter.build(rest, options, name)
    if prefix == "mario":
        return mario_adapter.build(rest, options, name)
    return _factory(head, options, text)


def _labelled(text: str) -> tuple[str, str]:
    """An environment's name without its label, and the label with its mark, or nothing."""
    plain, mark, label = text.partition("#")
    if mark and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", label):
        raise UserError(
            f"environment '{text}': what follows # is a label of letters, digits, '.', '_' and '-' and comes last, "
            f"behind options, such as '{plain}#medium'."
        )
    return plain, mark + label


def _unknown(text: str) -> UserError:
    known = names()
    # A bare or misspelled prefix should still find the name behind the colon.
    by_end = [name for name in known if name.partition(":")[2].lower() == text.rpartition(":")[2].lower()]
    if by_end:
        return UserError(f"unknown environment '{text}': did you mean '{by_end[0]}'?")
    return suggest(text, known, "environment")


@cache
def _built_in(prefix: str, env_id: str, options: tuple[tuple[str, Any], ...], name: str) -> Environment:
    return BUILDERS[prefix](env_id, dict(options), name)


def _name(prefix: str, env_id: str, options: tuple[tuple[str, Any], ...]) -> str:
    query = "&".join(f"{key}={value}" for key, value in options)
    return f"{prefix}:{env_id}" + (f"?{query}" if query else "")


def _options(query: str, text: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError as error:
        raise UserError(f"environment '{text}': options are written ?name=value&name=value.") from error
    twice = [key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index])]
    if twice:
        raise UserError(f"environment '{text}': option '{twice[0]}' is given twice; drop one of them.")
    return {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float)) else text


def _factory(head: str, options: dict[str, Any], text: str) -> Environment | HostEnvironment:
    try:
        found = resolve(head, f"environment '{text}'", "environment factory")
    except NoModule as error:
        if get_close_matches(head, names(), n=1, cutoff=0.7):
            raise _unknown(head) from error
        raise
    # The text is what makes this environment again, so it is its name in every record.
    return _from_factory(found, options, text, text) if _is_factory(found) else _from_object(found, text)


def _from_factory(
    factory: Any, options: dict[str, Any], text: str, name: str | None
) -> Environment | HostEnvironment:
    """What a user's factory makes; one of gymnasium environments is kept, to make one for each member."""
    made = _call(factory, options, text)
    if _is_instance(made, "gymnasium", "Env"):
        return gymnasium_adapter.GymnasiumEnvironment(lambda: _call(factory, options, text), text)
    return _from_object(made, name)


def _from_object(source: Any, name: str | None = None) -> Environment | HostEnvironment:
    """An object of gymnax ((env, params) or env alone), of brax, of Playground, or the user's own."""
    if isinstance(source, HostEnvironment):
        if name is not None:
            source.spec = replace(source.spec, name=name)
        return source
    if isinstance(source, tuple) and len(source) == 2 and _is_gymnax(source[0]):
        return gymnax_adapter.GymnaxEnvironment(*source, name=name)
    if _is_gymnax(source):
        return gymnax_adapter.GymnaxEnvironment(source, name=name)
    if _is_instance(source, "brax.envs.base", "Env"):
        return brax_adapter.BraxEnvironment(source, name)
    if _is_instance(source, "mujoco_playground", "MjxEnv"):
        return playground_adapter.PlaygroundEnvironment(source, name)
    if _is_instance(source, "gymnasium", "Env"):
        raise UserError(
            f"environment '{name or type(source).__name__}': every member needs a gymnasium environment of its own; "
            "pass the function that makes it, or its name (gymnasium:Hopper-v5)."
        )
    return adapt(source, name)


def _is_factory(found: Any) -> bool:
    """A class or function that returns an environment, not an environment that happens to be callable."""
    return isinstance(found, type) or (callable(found) and not hasattr(found, "reset"))


def _call(factory: Any, options: dict[str, Any], text: str) -> Any:
    try:
        return factory(**options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"environment '{text}': its factory failed ({error!r}); mend it or its options."
        ) from error


def _is_gymnax(source: Any) -> bool:
    return _is_instance(source, "gymnax.environments.environment", "Environment")


def _is_instance(source: Any, module: str, name: str) -> bool:
    """isinstance without importing the library: an object of it can only exist where it was imported."""
    return module in sys.modules and isinstance(source, getattr(sys.modules[module], name, ()))
