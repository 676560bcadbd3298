"""The one error type whose text is meant for the user."""


class HarnessError(Exception):
    """A failure the user can act on: one line naming the value, what was expected and what to do.

    The command line prints the text and exits with status 2; from Python it is an ordinary exception.
    """
