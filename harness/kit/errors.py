"""The one error type whose text is meant for the user, and warnings."""

from __future__ import annotations

import sys
from functools import cache

from harness.kit.shown import on_one_line


class HarnessError(Exception):
    """A failure the user can act on: one line naming the value, what was expected and what to do.

    The command line prints the text and exits with status 2; from Python it is an ordinary exception. Control
    characters in names that a line tells of are shown, not sent.
    """

    def __init__(self, line: str) -> None:
        super().__init__(on_one_line(line))


class BrokenMethod(HarnessError):
    """The code of a method, which may be a stranger's, raised something else than a HarnessError: no refusal of its."""


def first_line(error: BaseException) -> str:
    """'TypeError: what it says first', of an exception that strangers' code raised."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU (torch's own class, known by its name) or on the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY_WORDS)


@cache
def warn_once(line: str) -> None:
    """The same, a single time however often it comes up in a process."""
    warn_on_stderr(line)


def warn_on_stderr(line: str) -> None:
    """The default way to tell of something passed over: one line on stderr."""
    print(f"warning: {on_one_line(line)}", file=sys.stderr)
