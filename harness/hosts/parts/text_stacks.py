"""Text, fusion and decoder layers as stacks that the loop drives: BERT's, CLIP's, and METER's two streams.

Shapes: B texts, L tokens, N image tokens, M tokens that are read, D width, H heads, d = D / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.hosts.parts.clip_blocks import ClipBlocks
from harness.kit import recompute
from harness.reduction import (
    PLAIN,
    BlockHooks,
    Guide,
    Stack,
    StackShape,
    Tokens,
    TokenState,
    Trace,
    drive,
    phase,
    working_in,
)
from harness.reduction.stack import given_state, record


def through(stack: Stack, inputs: Any, guide: Guide | None = None) -> Tokens:
    """Drive inputs through a stack of the text side, with the method that works in its kind now, if any."""
    reducer = working_in(stack.shape.kind)
    state = stack.open(inputs)
    return drive(stack, state, PLAIN) if reducer is None else drive(stack, state.traced(), reducer, guide)


class TextStack(Stack):
    """What stacks of the text side share: they open `Tokens`, and leave the final norm to their host."""

    def __init__(self, layers: Any, kind: str, name: str, heads: int, width: int, causal: bool) -> None:
        # How many tokens there are depends on the text: a method sees it in the state.
        super().__init__(StackShape(len(layers), 0, 1, width, True, name, kind, heads, causal))
        self.layers = layers

    def open(self, inputs: Any) -> TokenState:
        """`Tokens` -> the state entering block 0."""
        return TokenState(inputs.states, 1, inputs.sizes, inputs.origin, mask=inputs.mask)

    def close(self, state: TokenState) -> Tokens:
        return state.left(state.tokens)

    def bias(self, state: TokenState, proportional: bool) -> Tensor | None:
        """As of every stack; in a causal one a token reads itself and those before it only."""
        bias = state.bias(proportional)
        if not self.shape.causal:
            return bias
        length = state.tokens.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=state.tokens.device).tril()
        if bias is None or bias.dtype == torch.bool:
            return earlier if bias is None else bias & earlier
        return bias.masked_fill(~earlier, -float("inf"))


class BertStack(TextStack):
    """Post-norm BERT layers, which may read other tokens by cross-attention.

    `read`: what they read, in turns where there are several (ALBEF's pairs of fusion layers). `lenders`: layers that
    lend cross-attention and MLP to those that have self-attention alone (BLIP's decoder).
    """

    def __init__(
        self,
        layers: Any,
        kind: str = "text",
        *,
        read: Sequence[Tokens] = (),
        causal: bool = False,
        lenders: Any = None,
    ) -> None:
        attention = layers[0].attention.self
        width = attention.query.in_features
        super().__init__(layers, kind, "BERT", attention.heads, width, causal)
        self.read = read
        self.lenders = layers if lenders is None else lenders

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.layers[block].attention.self
        return (
            self.heads_first(own.query(tokens)),
            self.heads_first(own.key(tokens)),
            self.heads_first(own.value(tokens)),
        )

    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        own = self.layers[block].attention.self
        return self.heads_first(own.query(tokens[:, :queries])), self.heads_first(own.key(tokens))

    def values(self, block: int, tokens: Tensor) -> Tensor:
        return self.heads_first(self.layers[block].attention.self.value(tokens))

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        closed: Tensor = self.layers[block].attention.output(attended, tokens)
        return closed

    def attention_dropout(self, block: int) -> float:
        dropout: nn.Dropout = self.layers[block].attention.self.dropout
        return dropout.p if dropout.training else 0.0

    def cross(self, block: int, state: TokenState, hooks: BlockHooks | None) -> TokenState:
        if not self.read:
            return state
        read, cross = self.read[block % len(self.read)], self.lenders[block].crossattention
        q = self.heads_first(cross.self.query(state.tokens))
        k, v = self.heads_first(cross.self.key(read.states)), self.heads_first(cross.self.value(read.states))
        attended, state = (hooks or PLAIN).cross_attention(block, q, k, v, state, read, self)
        return replace(state, tokens=cross.output(attended.transpose(1, 2).flatten(2), state.tokens))

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        output: Tensor = self.lenders[block].mlp(tokens)
        return output


class PairStack(BertStack):
    """BERT layers each of which reads two images at once (BLIP's for NLVR2, `harness.hosts.blip.layers`)."""

    def cross(self, block: int, state: TokenState, hooks: BlockHooks | None) -> TokenState:
        first, second = self.read
        return replace(state, tokens=self.layers[block].crossattention(state.tokens, first, second))


class CoAttentionStack(BertStack):
    """METER's two streams, texts and image tokens: in a layer each reads what the other one was before it.

    The image's stream is the state's `beside`. A method's hooks see the text's stream and may change both; one that
    asks for the text first (`BlockHooks.text_first`) lets the image read what the text's layer made.
    """

    def __init__(self, text_layers: Any, image_layers: Any) -> None:
        super().__init__(text_layers, "fusion")
        self.shape = replace(self.shape, streams=2)
        self.image_layers = image_layers

    def open(self, inputs: Any) -> TokenState:
        """`Tokens` of texts and of images -> the texts' state, the images' beside it."""
        text, image = (super(CoAttentionStack, self).open(tokens) for tokens in inputs)
        return replace(text, beside=replace(image, prefix=inputs[1].prefix))

    def step(
        self, block: int, state: TokenState, hooks: BlockHooks, guide: Guide | None, trace: Trace | None
    ) -> TokenState:
        with phase(hooks.scoring_phase):
            state = given_state(hooks, "before_block", hooks.before_block(block, state, self, guide))
        entering, image = state, state.beside
        assert image is not None
        text_stack = self.reading(self.layers, image)
        attended, evidence = recompute.block(text_stack.attend, block, state, hooks.evidence(block), hooks)
        if not hooks.text_first:
            image = self.attend_image(block, image, state, hooks)
        with phase("matching"):
            state = given_state(hooks, "between", hooks.between(block, replace(attended, beside=image), evidence))
        if trace is not None:
            record(trace, entering, state)
        fed, image = recompute.block(text_stack.feed_forward, block, state), state.beside
        assert image is not None
        if hooks.text_first:
            image = self.attend_image(block, image, fed, hooks)
        image_stack = BertStack(self.image_layers, "fusion")
        left = replace(fed, beside=recompute.block(image_stack.feed_forward, block, image))
        with phase("matching"):
            return given_state(hooks, "after_block", hooks.after_block(block, left, evidence))

    def attend_image(self, block: int, image: TokenState, text: TokenState, hooks: BlockHooks) -> TokenState:
        """The image's attention to itself and to the text as it stands."""
        stack = self.reading(self.image_layers, text)
        attended: TokenState = recompute.block(stack.attend, block, image, frozenset(), hooks)[0]
        return attended

    def reading(self, layers: Any, other: TokenState) -> BertStack:
        """One stream's layers, reading the other stream as it stands; its mask with the fractions a method gave it."""
        read = replace(other.left(other.tokens), mask=other.mask)
        return BertStack(layers, "fusion", read=(read,))


class ClipTextStack(ClipBlocks, TextStack):
    """CLIP's text blocks, in which a token reads itself and those before it."""

    def __init__(self, blocks: Any, heads: int, width: int) -> None:
        super().__init__(blocks, "text", "CLIP", heads, width, causal=True)
