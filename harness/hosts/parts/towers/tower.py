"""What a vision tower is: a view of a ViT, opened block by block, whose blocks are pre-norm.

A tower neither copies nor changes its model. Shapes: B images, N tokens (prefix first), D channels, H heads, d = D / H.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.reduction import Stack, StackShape, Tokens, TokenState, one_query_map


class VisionTower(Stack):
    """One loop's view of a ViT: open, then per block `attend` and `feed_forward`, then close and `output`.

    `images`: (C, H, W) that the model was built for.
    """

    def __init__(self, model: nn.Module, shape: StackShape, images: tuple[int, int, int]) -> None:
        super().__init__(shape)
        self.model = model
        self.images = images

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N, D) entering block 0."""

    @abstractmethod
    def finish(self, tokens: Tensor) -> Tensor:
        """The final norm, where the model applies it to all tokens."""

    def normed(self, tokens: Tokens) -> Tensor:
        """The states of what left the tower, (B, N, D), after the model's last norm, which `finish` may leave out."""
        return tokens.states

    @abstractmethod
    def output(self, tokens: Tokens) -> Any:
        """What the model's own forward returns, from what left the tower."""

    @abstractmethod
    def pooled(self, tokens: Tokens) -> Tensor:
        """(B, D'), what the model makes of an image before its classifier, if it has one."""

    def embed_resized(self, images: Tensor) -> Tensor:
        """The same for images of another size, with the position table interpolated as the model does it."""
        raise HarnessError(f"{self.shape.name} opens images of its own size alone: choose another method or tower")

    @property
    def patch_projection(self) -> nn.Module:
        """The convolution that makes a token of a patch; HarnessError where the tower names none."""
        raise HarnessError(f"{self.shape.name} names no projection of its patches: choose another tower")

    @property
    def recomputes(self) -> bool:
        """Whether the model asks for gradient checkpointing."""
        return False

    def sized_for(self, images: Tensor) -> StackShape:
        """The tower's shape with the patches of images (B, C, H, W), where the model takes other sizes than its own."""
        return self.shape

    def gridded(self, rows: int, columns: int) -> StackShape:
        """The tower's shape with a grid of so many patches."""
        return replace(self.shape, patches=rows * columns, grid=(rows, columns))

    def check(self, images: Tensor) -> None:
        """HarnessError for what is no batch of images of this tower's size; of any size where it takes such."""
        channels, height, width = self.images
        fits = images.dim() == 4 and images.shape[1] == channels
        if not fits or not self.takes(int(images.shape[-2]), int(images.shape[-1])):
            found = " x ".join(map(str, images.shape))
            raise HarnessError(
                f"images of {found}: {self.shape.name} takes B x {channels} x {height} x {width}; resize them"
            )

    def takes(self, height: int, width: int) -> bool:
        """Whether images of so many pixels can be opened."""
        return (height, width) == self.images[1:]

    def open(self, inputs: Tensor) -> TokenState:
        self.check(inputs)
        return TokenState(self.embed(inputs), prefix=self.shape.prefix)

    def open_resized(self, inputs: Tensor) -> TokenState:
        return TokenState(self.embed_resized(inputs), prefix=self.shape.prefix)

    def close(self, state: TokenState) -> Tokens:
        return state.left(self.finish(state.tokens))


@dataclass(frozen=True)
class Projection:
    """How a block makes q, k and v of its normed tokens: three weights (D', D) and biases (D',) or None, read anew at
    each call, so that a tower that stays open sees what training makes of them.

    `fused`: one product for all three. `added`: the bias is added to the product, not within it.
    """

    weights: Callable[[], Sequence[Tensor]]
    biases: Callable[[], Sequence[Tensor | None]]
    fused: Callable[[Tensor], Tensor] | None = None
    added: bool = False

    def all(self, tokens: Tensor) -> Sequence[Tensor]:
        """q, k and v (B, N, D') of normed tokens (B, N, D)."""
        if self.fused is not None:
            return self.fused(tokens).chunk(3, dim=-1)
        return [self.one(tokens, part) for part in range(3)]

    def one(self, tokens: Tensor, part: int) -> Tensor:
        """q, k or v (part 0, 1 or 2) alone."""
        weight, bias = self.weights()[part], self.biases()[part]
        if self.added and bias is not None:
            return F.linear(tokens, weight) + bias
        return F.linear(tokens, weight, bias)


def fused(linear: nn.Linear) -> Projection:
    """That of one Linear (3 D', D)."""

    def biases() -> Sequence[Tensor | None]:
        return (None, None, None) if linear.bias is None else linear.bias.chunk(3)

    return Projection(lambda: linear.weight.chunk(3), biases, linear)


def separate(q: nn.Linear, k: nn.Linear, v: nn.Linear) -> Projection:
    """That of three Linears."""
    return Projection(lambda: (q.weight, k.weight, v.weight), lambda: (q.bias, k.bias, v.bias))


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class PreNormBlock:
    """The parts of a block: x + after_attention(out(attention(norm1(x)))), then x + after_mlp(mlp(norm2(x))).

    `out`: the heads' outputs (B, N, D') and the block's normed input -> (B, N, D). `after_…`: layer scale, drop path.
    """

    norm1: Callable[[Tensor], Tensor]
    projection: Projection
    out: Callable[[Tensor, Callable[[], Tensor]], Tensor]
    norm2: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]
    after_attention: Callable[[Tensor], Tensor] = _same
    after_mlp: Callable[[Tensor], Tensor] = _same
    q_norm: Callable[[Tensor], Tensor] = _same
    k_norm: Callable[[Tensor], Tensor] = _same
    dropout: Callable[[], float] = lambda: 0.0


class PreNormTower(VisionTower):
    """A tower whose blocks are given by their parts."""

    blocks: Sequence[PreNormBlock]

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.blocks[block]
        q, k, v = (self.heads_first(part) for part in parts.projection.all(parts.norm1(tokens)))
        return parts.q_norm(q), parts.k_norm(k), v

    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        parts = self.blocks[block]
        normed = parts.norm1(tokens)
        q, k = parts.projection.one(normed[:, :queries], 0), parts.projection.one(normed, 1)
        return parts.q_norm(self.heads_first(q)), parts.k_norm(self.heads_first(k))

    def class_attention(self, block: int, state: TokenState) -> Tensor:
        parts = self.blocks[block]
        plain = parts.k_norm is _same or isinstance(parts.k_norm, nn.Identity)
        if not plain or type(self).placed is not Stack.placed:  # keys are changed after the product
            return super().class_attention(block, state)
        normed = parts.norm1(state.tokens)
        query = parts.q_norm(self.heads_first(parts.projection.one(normed[:, :1], 0)))
        bias = self.block_bias(block, state, False)
        return one_query_map(query, parts.projection.weights()[1], normed, bias)[:, :, 0, state.prefix :].mean(1)

    def values(self, block: int, tokens: Tensor) -> Tensor:
        parts = self.blocks[block]
        return self.heads_first(parts.projection.one(parts.norm1(tokens), 2))

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        parts = self.blocks[block]
        return tokens + parts.after_attention(parts.out(attended, lambda: parts.norm1(tokens)))

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        parts = self.blocks[block]
        return tokens + parts.after_mlp(parts.mlp(parts.norm2(tokens)))

    def attention_dropout(self, block: int) -> float:
        return self.blocks[block].dropout() if self.model.training else 0.0
