"""The common interface of every token-reduction method.

A method needs nothing but `harness.reduction`. Shapes: B inputs, N tokens (prefix tokens first), P = N - prefix tokens
that a method may reduce, D channels, H heads, d = D / H, n0 patch tokens at the input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from harness.kit.errors import HarnessError
from harness.reduction.kernels import attention
from harness.reduction.stack import Evidence, Stack, StackShape, Trace, drive, sample_keys
from harness.reduction.tokens import Tokens, TokenState


@dataclass(frozen=True)
class Guide:
    """What the text side offers: text_cls (B, D); optionally text_states (B, L, D) and text_mask (B, L).

    notes: what a method noted in the text stack, (B, ...) each and with gradient, for losses that compare both sides.
    shared: what takes image states and text states (..., D) to the space both sides share, with weights that get no
    gradient; None where a host has none.
    """

    text_cls: Tensor
    text_states: Tensor | None = None
    text_mask: Tensor | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    shared: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None

    def rows(self, part: slice) -> Guide:
        """That of some texts."""
        states, mask = self.text_states, self.text_mask
        return Guide(
            self.text_cls[part],
            None if states is None else states[part],
            None if mask is None else mask[part],
            {name: note[part] for name, note in self.notes.items()},
            self.shared,
        )


class MethodConfig(BaseModel):
    """Settings of a method; the defaults are its paper's. Every field is reachable by `--set name=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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
VISION = frozenset({"vision"})


class TokenReducer(nn.Module, Generic[C]):
    """Base class of a method: a subclass names `Config` and overrides `before_block`, or `evidence` and `between`.

    `stacks`: where it works, of vision, text and fusion, as many of them as a host has, at least one (the hooks below
    are called in each, with that stack).
    `needs_text`: uses `guide` where there is one; `without_text` says what it does where there is none.
    `adaptive`: how many tokens are kept depends on the image. `stochastic`: asks for sample keys.
    `needs_dense`: its losses compare with the tokens of the unreduced tower (of the class, or as a reducer is set).
    `only_in_training`: evaluation keeps every token; ratios, token counts and training steps speak of training.
    `tolerance`: how far from the ratio that is asked for the nearest that it reaches may lie.
    A method with parameters learns: it is trained, saved and loaded with its host, and measured with trained ones only.
    """

    KIND: ClassVar[str] = "method"
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    stacks: ClassVar[frozenset[str]] = VISION
    needs_text: ClassVar[bool] = False
    without_text: ClassVar[str | None] = None
    needs_class_token: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    needs_dense: bool = False
    only_in_training: ClassVar[bool] = False
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
    def text_first(self) -> bool:
        """Whether, where two streams read each other, the text's layer runs first and the image's reads its output.

        `between` then stands between the text's attention and its MLP, and may reduce the image beside it before the
        image's layer runs.
        """
        return False

    def planned(self) -> Trace | None:
        """Tokens entering each attention and MLP of the blocks it reduces, prefix included, of a method that leaves the
        vision tower alone; None where running it on a tower that computes nothing tells them.
        """
        return None

    @property
    def scoring_phase(self) -> str:
        """What products of `before_block` count as, unless it says otherwise."""
        return "predictor" if self.learns else "scoring"

    @property
    def proportional_attention(self) -> bool:
        """Whether log sizes are added to the attention logits."""
        return False

    def resized(self, images: Tensor) -> Tensor | None:
        """The images (B, C, h, w) that the tower opens instead of images (B, C, H, W); None: these themselves.

        Rows and columns of patches are `shape.grid`; sizes stay multiples of a patch. A method that does this says in
        `opened` where the tower's own patches live, if that is traced.
        """
        return None

    def evidence(self, block: int) -> frozenset[str]:
        """Names from EVIDENCE_KINDS that `between` needs of this block."""
        return frozenset()

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        """Change what enters block 0, as by a token of the method's own."""
        return state

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        """Reduce on the block's input; products computed here count as `scoring_phase` unless marked otherwise."""
        return state

    def takes_values(self, block: int, state: TokenState) -> bool:
        """Whether `attention` uses v of the tokens that enter; if not, the v given has no rows and costs nothing."""
        return True

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        """The block's self-attention: heads' outputs (B, H, M, d), and the state whose M tokens they are added to.

        q, k, v: (B, H, N, d), unscaled, of the block's input. A method overrides this to mask the softmax itself, to
        compute some rows only, or to reduce keys and rows at once; all products count as main unless marked otherwise.
        """
        return stack.softmax_attention(block, q, k, v, state, self.proportional_attention), state

    def cross_attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, read: Tokens, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        """The block's attention to what its stack reads (fusion): (B, H, N, d), and the state it is added to.

        Keys of tokens that stand count.
        """
        bias = None if read.mask is None else (read.mask > 0.5)[:, None, None, :]
        return attention(q, k, v, bias, stack.attention_dropout(block)), state

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        """Reduce after the attention residual and before the MLP; products computed here count as matching."""
        return state

    def after_block(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        """Reduce what leaves the block, after its MLP; products computed here count as matching."""
        return state

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        """What training adds to the task's losses, by name, from what left the stack (`tokens.notes` has the notes).

        `dense`: what the unreduced tower gives for the same images, without gradient, if `needs_dense`.
        """
        return {}


# Nothing is reduced: what stacks run with in which no method works.
PLAIN: TokenReducer[Any] = TokenReducer(MethodConfig(), StackShape(0, 0, 1, 1, True))


def encode(
    stack: Stack, reducer: TokenReducer[Any], images: Tensor, guide: Guide | None = None, trace: Trace | None = None
) -> Tokens:
    """Run images (B, C, H, W) through a tower, reduced by a method if it is one that works there: its last tokens."""
    if reducer is PLAIN or stack.shape.kind not in reducer.stacks:
        return drive(stack, stack.open(images), PLAIN, trace=trace)
    resized = reducer.resized(images)
    state = stack.open(images) if resized is None else stack.open_resized(resized)
    if resized is None and state.patches != reducer.shape.patches:
        raise HarnessError(
            f"{type(reducer).__name__} was made for {reducer.shape.patches} patches and got {state.patches}: make it "
            "for the tower at this image size"
        )
    if reducer.stochastic:
        state = replace(state, sample_keys=sample_keys(images))
    return drive(stack, state, reducer, guide, trace)
