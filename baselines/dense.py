"""No reduction: every token through every block. What all other methods are compared with."""

from harness.reduction import MethodConfig, TokenReducer


class Dense(TokenReducer[MethodConfig]):
    """The unreduced tower."""
