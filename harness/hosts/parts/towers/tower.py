"""What a vision tower is: a view of a ViT, opened block by block, whose blocks are pre-norm.

A tower neither copies nor changes its model. Shapes: B images, N tokens (prefix first), D channels, H heads, d = D / H.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.parts.plain_modules import is_plain, plain_weight
from harness.kit.errors import HarnessError
from harness.reduction import Stack, StackShape, Tokens, TokenState, one_query_map


class VisionTower(Stack):
    """One loop's view of a ViT: open, then per block `attend` and `feed_forward`, then close and `output`.

    `images`: (C, H, W) that the model was built for. `package`: that its classes come from, None where several do.
    """

    package: str | None = None

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

    @abstractmethod
    def by_parts(self) -> Iterable[nn.Module]:
        """The modules of the blocks that are not called but run by their parts, the innermost ones."""

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


class Projection:
    """How a block makes q, k and v (B, N, D') of its normed tokens (B, N, D): by one module, or by one for each."""

    @abstractmethod
    def all(self, tokens: Tensor) -> Sequence[Tensor]:
        """All three."""

    @abstractmethod
    def one(self, tokens: Tensor, part: int) -> Tensor:
        """q, k or v (part 0, 1 or 2) alone."""

    @abstractmethod
    def key_weight(self) -> Tensor | None:
        """(D', D), that keys are the product with, but for a bias; None where they are more than that."""


@dataclass(frozen=True)
class Fused(Projection):
    """One product for all three, (B, N, 3 D').

    `weight` (3 D', D) and `bias` (3 D',) or None are read anew at each call, so that a tower that stays open sees what
    training makes of them. `plain`: whether the product is by these alone, now; otherwise a part is cut from the whole.
    `added`: the bias is added to the product, not within it.
    """

    product: Callable[[Tensor], Tensor]
    weight: Callable[[], Tensor]
    bias: Callable[[], Tensor | None]
    plain: Callable[[], bool] = lambda: True
    added: bool = False

    def all(self, tokens: Tensor) -> Sequence[Tensor]:
        return self.product(tokens).chunk(3, dim=-1)

    def one(self, tokens: Tensor, part: int) -> Tensor:
        if not self.plain():
            return self.all(tokens)[part]
        weight, bias = self.weight().chunk(3)[part], self.bias()
        if bias is None:
            return F.linear(tokens, weight)
        own = bias.chunk(3)[part]
        return F.linear(tokens, weight) + own if self.added else F.linear(tokens, weight, own)

    def key_weight(self) -> Tensor | None:
        return self.weight().chunk(3)[1] if self.plain() else None


@dataclass(frozen=True)
class Separate(Projection):
    """A module for each, of `names` in `holder`, called."""

    holder: nn.Module
    names: tuple[str, str, str]

    def all(self, tokens: Tensor) -> Sequence[Tensor]:
        return [self.one(tokens, part) for part in range(3)]

    def one(self, tokens: Tensor, part: int) -> Tensor:
        found: Tensor = getattr(self.holder, self.names[part])(tokens)
        return found

    def key_weight(self) -> Tensor | None:
        return plain_weight(getattr(self.holder, self.names[1]))


def fused(holder: Any) -> Projection:
    """That of the Linear (3 D', D) `qkv` of a module, or of what stands in its place."""
    return Fused(
        lambda tokens: holder.qkv(tokens),
        lambda: holder.qkv.weight,
        lambda: holder.qkv.bias,
        lambda: is_plain(holder.qkv),
    )


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class PreNormBlock:
    """The parts of a block: x + after_attention(out(attention(norm1(x)))), then x + after_mlp(mlp(norm2(x))).

    They look modules up where they are called: what is put in a module's place later (an adapter) is seen.
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
        weight = parts.projection.key_weight()
        plain = parts.k_norm is _same or isinstance(parts.k_norm, nn.Identity)
        if weight is None or not plain or type(self).placed is not Stack.placed:  # keys are more than their product
            return super().class_attention(block, state)
        normed = parts.norm1(state.tokens)
        query = parts.q_norm(self.heads_first(parts.projection.one(normed[:, :1], 0)))
        bias = self.block_bias(block, state, False)
        return one_query_map(query, weight, normed, bias)[:, :, 0, state.prefix :].mean(1)

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
