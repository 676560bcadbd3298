"""The common interface of every token-reduction method.

A method needs nothing but `harness.reduction`. Shapes: B inputs, N tokens (prefix tokens first), P = N - prefix tokens
that a method may reduce, D channels, H heads, d = D / H, n0 patch tokens at the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.kit.errors import HarnessError
from harness.reduction.stack import VISION, BlockHooks, StackShape, Trace
from harness.reduction.tokens import Tokens


class MethodConfig(BaseModel):
    """Settings of a method; the defaults are its paper's. Every field is reachable by `--set name=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def bent(self, gamma: float) -> Self:
        """The same setting at another budget: gamma 0 keeps every token, larger gamma keeps fewer, monotonically.

        The default bends a `schedule` field by one exponent. Raises HarnessError where a method has one budget only.
        """
        schedule = getattr(self, "schedule", None)
        if schedule is None:
            if gamma == 0:
                return self
            raise HarnessError("this method keeps every token: it has no ratio but 1")
        return self.model_copy(update={"schedule": schedule.bend(gamma)})

    def aimed(self, ratio: float) -> Self:
        """The same setting whose losses aim at a token ratio, that `bent` was solved for; most have no such aim."""
        return self

    def with_schedule(self, schedule: Any) -> Self:
        """The same setting with another shape; HarnessError where the method has no stages."""
        if "schedule" not in type(self).model_fields:
            raise HarnessError(f"{type(self).__name__} takes no schedule: leave --schedule out or at 'paper'")
        return self.model_copy(update={"schedule": schedule})


C = TypeVar("C", bound=MethodConfig)


class TokenReducer(BlockHooks, Generic[C]):
    """Base class of a method: a subclass names `Config` and overrides hooks of `BlockHooks`, as `before_block`, or
    `evidence` and `between`.

    `stacks`: where it works, of vision, text and fusion, as many of them as a host has, at least one (the
    hooks are called in each, with that stack).
    `needs_text`: uses `guide` where there is one; `without_text` says what it does where there is none.
    `needs_momentum`: selects in training by `guide.image_attention`, which objectives with a momentum tower offer.
    `adaptive`: how many tokens are kept depends on the image. `stochastic`: asks for sample keys.
    `needs_dense`: its losses compare with the tokens of the unreduced tower (of the class, or as a reducer is set).
    `only_in_training`: evaluation keeps every token; ratios, token counts and training steps speak of training.
    `sizes_count_patches`: a token's size, where there is one, is the number of patches in it; False where the method's
    own formula says otherwise.
    `tolerance`: how far from the ratio that is asked for the nearest that it reaches may lie.
    A method with parameters learns: it is trained, saved and loaded with its host, and measured with trained ones only.
    """

    KIND: ClassVar[str] = "method"
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    stacks: ClassVar[frozenset[str]] = VISION
    needs_text: ClassVar[bool] = False
    without_text: ClassVar[str | None] = None
    needs_momentum: ClassVar[bool] = False
    needs_class_token: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    needs_dense: bool = False
    only_in_training: ClassVar[bool] = False
    sizes_count_patches: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.01

    def __init__(self, config: C, shape: StackShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape

    @property
    def learns(self) -> bool:
        """Whether it has parameters."""
        return next(self.parameters(), None) is not None

    @property
    def scoring_phase(self) -> str:
        return "predictor" if self.learns else "scoring"

    def planned(self) -> Trace | None:
        """Tokens entering each attention and MLP of the blocks it reduces, prefix included, of a method that leaves the
        vision tower alone; None where running it on a tower that computes nothing tells them.
        """
        return None

    def remarks(self) -> Sequence[str]:
        """Lines on what this tower cannot give of a setting as it is asked for; a user sees them once."""
        return ()

    def resized(self, images: Tensor) -> Tensor | None:
        """The images (B, C, h, w) that the tower opens instead of images (B, C, H, W); None: these themselves.

        Rows and columns of patches are `shape.grid`; sizes stay multiples of a patch. A method that does this says in
        `opened` where the tower's own patches live, if that is traced.
        """
        return None

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        """What training adds to the task's losses, by name, from what left the stack (`tokens.notes` has the notes).

        `dense`: what the unreduced tower gives for the same images, without gradient, if `needs_dense`.
        """
        return {}
