"""How many tokens a method leaves in every block, found by running it on a stack that computes nothing; and the real
images that are taken where that depends on the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.kit.errors import BrokenMethod, HarnessError, first_line, is_out_of_memory
from harness.kit.sources import place_in
from harness.reduction.driver import encode
from harness.reduction.guide import Guide
from harness.reduction.method import TokenReducer
from harness.reduction.stack import QKV, Evidence, Stack, StackShape, Trace
from harness.reduction.state import TokenState
from harness.reduction.tokens import Tokens


class EmptyStack(Stack):
    """A stack of the right shape whose blocks compute nothing: what `token_counts` runs a method on."""

    def __init__(self, shape: StackShape, width: int) -> None:
        super().__init__(replace(shape, width=width, heads=1))

    def open(self, inputs: Tensor) -> TokenState:
        shape = self.shape
        tokens = inputs.new_ones(inputs.shape[0], shape.prefix + shape.patches, shape.width)
        return TokenState(tokens, prefix=shape.prefix)

    def open_resized(self, inputs: Tensor) -> TokenState:
        """One pixel stands for a patch here."""
        shape, patches = self.shape, inputs.shape[-2] * inputs.shape[-1]
        return TokenState(inputs.new_ones(len(inputs), shape.prefix + patches, shape.width), shape.prefix)

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one_head = tokens.unsqueeze(1)
        return one_head, one_head, one_head

    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        return tokens[:, None, :queries], tokens.unsqueeze(1)

    def softmax_attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, proportional: bool = False
    ) -> Tensor:
        return v

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        return tokens

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        return tokens

    def close(self, state: TokenState) -> Tokens:
        return state.left(state.tokens)

    def _evidence(self, qkv: QKV, wants: frozenset[str], prefix: int, bias: Tensor | None, content: Tensor) -> Evidence:
        k = qkv[1]
        batch, _, tokens, _ = k.shape
        made = {
            "cls_attention": k.new_full((batch, tokens - prefix), 1 / tokens),
            "keys": k[:, 0],
            "attention_received": k.new_full((batch, tokens), 1 / tokens),
            "value_norms": k.new_ones(batch, tokens),
        }
        return Evidence(**{name: made[name] for name in wants})


@dataclass(frozen=True)
class Sample:
    """Real images (I, C, H, W) as a tower reads them, and the texts' guide for methods that use one."""

    images: Tensor
    guide: Guide | None = None

    def rows(self, part: slice) -> Sample:
        """Some of them."""
        return Sample(self.images[part], None if self.guide is None else self.guide.rows(part))


@torch.no_grad()
def token_counts(reducer: TokenReducer[Any]) -> Trace:
    """Tokens entering each attention and MLP of the stack that a method's shape is of.

    Those of evaluation, but of a method that reduces only in training. HarnessError for an adaptive method, whose
    counts depend on the image.
    """
    if reducer.adaptive:
        raise HarnessError(
            f"{type(reducer).__name__} keeps another number of tokens in every image: its counts are measured on images"
        )
    try:
        return reducer.planned() or _by_a_pass(reducer)
    except HarnessError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        kind = type(reducer)
        asked = "; evidence is what `evidence` names of a block" if "NoneType" in str(error) else ""
        place = place_in(error, kind.__module__)
        raise BrokenMethod(
            f"method {kind.__name__}: its tokens cannot be counted: {place}{first_line(error)}{asked}"
        ) from error


def _by_a_pass(reducer: TokenReducer[Any]) -> Trace:
    # A method with parameters computes with them: the stack then has its width, device and dtype.
    parameter = next(reducer.parameters(), None)
    if parameter is not None:
        return _counted(reducer, parameter.detach(), reducer.shape.width)
    try:
        return _counted(reducer, torch.zeros(1), 1)  # many times faster in a wide tower
    except (IndexError, RuntimeError):  # of one that looks at single channels, or at as many as there are heads
        return _counted(reducer, torch.zeros(1), reducer.shape.width)


def _counted(reducer: TokenReducer[Any], like: Tensor, width: int) -> Trace:
    """The tokens of a pass on a stack of some width that computes nothing."""
    shape = reducer.shape
    images = like.new_zeros(1, 3, *(shape.grid or (1, 1)))
    guide = None
    if reducer.needs_text or reducer.needs_momentum:
        guide = shape.offer.stand_in(images.new_zeros(1, width), images.new_zeros(1, shape.patches))
    trace = Trace()
    was_training = reducer.training
    try:
        encode(EmptyStack(shape, width), reducer.train(reducer.only_in_training), images, guide, trace)
    finally:
        reducer.train(was_training)
    return trace
