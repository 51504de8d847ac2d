"""The one exception a user's mistake raises."""

import contextlib
import errno
from collections.abc import Iterator

ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers by which a system says that a place may not be read or written."""
PLACE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
"""Error numbers by which a system says that a path is none, or leads through what is no folder."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers by which a system says that nothing more can be written."""


class UserError(ValueError):
    """A mistake the user can mend: one sentence saying what is wrong, where, and how to mend it.

    The command line prints the sentence and exits with code 2; nothing has been compiled or written by then.
    """


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Put the place of a mistake in front of a sentence that does not know it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def extra(name: str) -> str:
    """How to add an optional dependency; the package is on no index, so from its clone."""
    return f"in the clone of sparserl_jax, make install EXTRA={name} (or pip install -e .[{name}])"


def suggest(word: str, known: list[str], what: str) -> UserError:
    """Error for an unknown `word`, with the nearest of the `known` names."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}."
    return UserError(f"unknown {what} '{word}': {hint}")
