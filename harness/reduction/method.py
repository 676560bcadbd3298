"""The common interface of every token-reduction method, and the one loop that drives it on every tower.

A method needs nothing but `harness.reduction`. Shapes: B images, N tokens (prefix tokens first),
P = N - prefix patch-derived tokens, D channels, H heads, n0 patch tokens at the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from harness.kit import recompute
from harness.kit.errors import HarnessError
from harness.reduction.tokens import TokenState, phase


@dataclass(frozen=True)
class TowerShape:
    """What a method may know of a tower: blocks, n0 patch tokens, protected prefix tokens, channels."""

    depth: int
    patches: int
    prefix: int
    width: int
    class_token: bool
    name: str = "tower"


@dataclass(frozen=True)
class Guide:
    """What the text side offers: text_cls (B, D); optionally text_states (B, L, D) and text_mask (B, L)."""

    text_cls: Tensor
    text_states: Tensor | None = None
    text_mask: Tensor | None = None


@dataclass(frozen=True)
class Evidence:
    """What a method asked of a block, computed beside fused attention; everything not asked for is None.

    cls_attention: (B, P), head-mean attention of the class token to each patch-derived token.
    keys: (B, N, D/H), head-mean of the keys, prefix tokens included.
    attention_received: (B, N), mean over heads and queries of the attention each token receives.
    """

    cls_attention: Tensor | None = None
    keys: Tensor | None = None
    attention_received: Tensor | None = None


EVIDENCE_KINDS = frozenset(Evidence.__dataclass_fields__)


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

    def with_schedule(self, schedule: Any) -> Self:
        """The same setting with another shape; HarnessError where the method has no stages."""
        if "schedule" not in type(self).model_fields:
            raise HarnessError(f"{type(self).__name__} takes no schedule: leave --schedule out or at 'paper'")
        return self.model_copy(update={"schedule": schedule})


class Looking(Protocol):
    """The part of a tower that look-ahead scoring may use (see harness.hosts.parts.towers.VisionTower)."""

    def attend(
        self, block: int, state: TokenState, wants: frozenset[str], proportional: bool = False
    ) -> tuple[TokenState, Evidence]: ...
    def feed_forward(self, block: int, state: TokenState) -> TokenState: ...
    def observe(self, block: int, state: TokenState, wants: frozenset[str]) -> Evidence: ...


C = TypeVar("C", bound=MethodConfig)


class TokenReducer(nn.Module, Generic[C]):
    """Base class of a method: a subclass names `Config` and overrides `before_block` or `evidence` and `between`.

    `needs_text`: uses `guide` where there is one; `without_text` says what it does where there is none.
    `proportional_attention`: the tower adds log sizes to the attention logits. `stochastic`: asks for sample keys.
    """

    KIND: ClassVar[str] = "method"
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs_text: ClassVar[bool] = False
    without_text: ClassVar[str | None] = None
    needs_class_token: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    def __init__(self, config: C, shape: TowerShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape

    @property
    def proportional_attention(self) -> bool:
        return False

    def evidence(self, block: int) -> frozenset[str]:
        """Names from EVIDENCE_KINDS that `between` needs of this block."""
        return frozenset()

    def before_block(self, block: int, state: TokenState, tower: Looking, guide: Guide | None) -> TokenState:
        """Reduce on the block's input; products computed here count as scoring unless marked otherwise."""
        return state

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        """Reduce after the attention residual and before the MLP; products computed here count as matching."""
        return state

    def auxiliary_loss(self) -> Tensor | None:
        """A loss that training adds, for methods with parameters."""
        return None


@dataclass
class Trace:
    """What one pass did: tokens entering each attention and each MLP, prefix included; origins if asked for."""

    origins_wanted: bool = False
    attention: list[int] = field(default_factory=list)
    mlp: list[int] = field(default_factory=list)
    origins: list[Tensor] = field(default_factory=list)
    sizes: Tensor | None = None


class Tower(Looking, Protocol):
    """A tower that `encode` can drive."""

    @property
    def shape(self) -> TowerShape: ...
    def embed(self, images: Tensor) -> Tensor: ...
    def finish(self, tokens: Tensor) -> Tensor: ...


def encode(
    tower: Tower,
    reducer: TokenReducer[Any],
    images: Tensor,
    guide: Guide | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Run images (B, C, H, W) through the tower with the method: tokens (B, N', D) after the final norm."""
    state = TokenState(tower.embed(images), prefix=tower.shape.prefix)
    if reducer.stochastic:
        state = replace(state, sample_keys=sample_keys(images))
    if trace is not None and trace.origins_wanted:
        state = state.traced()
    for block in range(tower.shape.depth):
        with phase("scoring"):
            state = reducer.before_block(block, state, tower, guide)
        entering = state.tokens.shape[1]
        state, evidence = recompute.block(
            tower.attend, block, state, reducer.evidence(block), reducer.proportional_attention
        )
        with phase("matching"):
            state = reducer.between(block, state, evidence)
        if trace is not None:
            trace.attention.append(entering)
            trace.mlp.append(state.tokens.shape[1])
            if state.origin is not None:
                trace.origins.append(state.origin)
        state = recompute.block(tower.feed_forward, block, state)
    if trace is not None:
        trace.sizes = state.sizes
    return tower.finish(state.tokens)


def sample_keys(images: Tensor) -> Tensor:
    """One int64 per image from its bits alone, so that random methods do not depend on batch or order."""
    bits = images.contiguous().view(
        torch.int32 if images.element_size() == 4 else torch.int64 if images.element_size() == 8 else torch.int16
    )
    return bits.flatten(1).long().sum(1)
