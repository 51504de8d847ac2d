"""A user's own object by its name, `my_pkg.my_module:thing`: environments, sparsity methods, recipes."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from typing import Any

from sparserl_jax.errors import UserError, suggest

OWN = "my_pkg.my_module:name"
"""How a reference is written, for messages and lists."""


def unlabelled(name: str) -> str:
    """An environment's name without the label behind it (see `envs/make.py`): what it plays is the same."""
    return name.partition("#")[0]


def plain_name(name: Any) -> bool:
    """Whether a name can stand in paths, archives and patterns on every machine."""
    return isinstance(name, str) and re.fullmatch("[A-Za-z0-9_]*[A-Za-z0-9][A-Za-z0-9_]*", name) is not None


class NoModule(UserError):
    """The module of a reference does not exist."""


def see_own_folder() -> None:
    """Let imports find the working directory, which a console script does not see otherwise."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def resolve(reference: str, what: str, attribute_is: str | None = None) -> Any:
    """The object that `my_pkg.my_module:name` refers to; modules in the working directory are found, too.

    Args:
        reference: module, colon, name.
        what: what is wanted, for messages, e.g. `environment 'my_pkg:Factory'`.
        attribute_is: what the name stands for, where a message should call it otherwise than `what`.

    Raises:
        NoModule: there is no such module.
        UserError: importing it failed, or it has no such name.
    """
    module_name, _, attribute = reference.partition(":")
    see_own_folder()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            path = module_name.endswith(".py") or os.sep in module_name
            mend = f"write it as it is imported ({OWN})" if path else "check its spelling and where you are"
            raise NoModule(
                f"{what}: there is no module '{module_name}' in this folder or among the installed packages; {mend}."
            ) from error
        raise UserError(
            f"{what}: importing {module_name} failed ({error}); install what it needs."
        ) from error
    except Exception as error:
        raise UserError(f"{what}: importing {module_name} failed ({error!r}); mend that module.") from error
    if not hasattr(module, attribute):
        known = [name for name, value in vars(module).items() if _own(name, value, module_name)]
        raise suggest(attribute, known, f"{attribute_is or 'name'} in {module_name}")
    return getattr(module, attribute)


def _own(name: str, value: Any, module_name: str) -> bool:
    """Whether a module offers this name as its own, rather than having imported it."""
    imported = inspect.ismodule(value) or (
        (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ != module_name
    )
    return not name.startswith("_") and not imported
