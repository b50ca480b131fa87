"""What went wrong, in a sentence that names the value, the rule and the way out."""

import difflib
import errno
from collections.abc import Iterable

from cyclopts import CycloptsError
from cyclopts.exceptions import UnknownCommandError

_NO_MEMORY = ("can't allocate memory", "not enough memory")  # what torch says of a CPU's, in a RuntimeError
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}


def of_usage(error: CycloptsError, verbs: Iterable[str]) -> str:
    """What is wrong with a command line, and where its help is.

    Args:
        verbs: whole names of all of them, such as `data check`.
    """
    place = " ".join(("text2video", *(error.command_chain or ())))
    way_out = f"`{place} --help` lists all."
    if isinstance(error, UnknownCommandError):
        # cyclopts' own words would import every verb
        words = " ".join([*(error.command_chain or ()), *(error.unused_tokens or [])[:1]])
        near = difflib.get_close_matches(words, verbs, 1)
        return f"There is no verb {words!r}.{f' Did you mean {near[0]}?' if near else ''} {way_out}"
    error.verbose = False
    return f"{error} {way_out}"


def of_failure(error: Exception) -> str | None:
    """What the machine refused; None for a bug."""
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    if full or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "The memory is full. Try a smaller --batch_size, --frame_size or --num_frames."
    if isinstance(error, OSError) and (error.filename or error.errno in _DISK):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}. Check the path, who may write there, and the free space."
    return None
