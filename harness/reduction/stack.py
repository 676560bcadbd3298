"""A stack of blocks that can be opened, and the hooks by which a method reduces inside each block.

A stack is a vision tower, a text encoder, a fusion encoder or a decoder. Shapes: B inputs, N tokens (prefix first),
M queries, D channels, H heads, d = D / H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from harness.kit import recompute
from harness.kit.errors import HarnessError
from harness.reduction.guide import NO_OFFER, Guide, Offer
from harness.reduction.indexing import moved
from harness.reduction.kernels import attention, attention_map
from harness.reduction.phases import phase
from harness.reduction.state import TokenState
from harness.reduction.tokens import Tokens


@dataclass(frozen=True)
class StackShape:
    """What a method may know of a stack: blocks, n0 tokens that it may reduce, protected prefix tokens, channels.

    `kind`: vision, text, fusion or decoder. `patches` of a text depend on it and are 0 here. `causal`: a token reads
    itself and those before it, so that the last one stands for all. `streams`: 2 where texts and images read each other
    in turns. `grid`: rows and columns of the patches, None where they have none. `pairwise`: the attention adds a bias
    of its own to every pair of tokens. `beside`: the other stacks of the host that a method may work in, by kind.
    `offer`: what the host's guide holds; nothing of a tower alone.
    """

    depth: int
    patches: int
    prefix: int
    width: int
    class_token: bool
    name: str = "tower"
    kind: str = "vision"
    heads: int = 1
    causal: bool = False
    streams: int = 1
    grid: tuple[int, int] | None = None
    pairwise: bool = False
    beside: Mapping[str, StackShape] = field(default_factory=dict)
    offer: Offer = NO_OFFER

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of stacks that are there, this one's included."""
        return frozenset({self.kind, *self.beside})


@dataclass(frozen=True)
class Evidence:
    """What a method asked of a block, computed beside fused attention; everything not asked for is None.

    cls_attention: (B, P), head-mean attention of the class token to each token behind the prefix.
    keys: (B, N, d), head-mean of the keys, prefix tokens included; before their places rotate them, where these do.
    attention_received: (B, N), mean over heads and queries of the attention each token receives.
    value_norms: (B, N), norm of each token's value, all heads concatenated.
    """

    cls_attention: Tensor | None = None
    keys: Tensor | None = None
    attention_received: Tensor | None = None
    value_norms: Tensor | None = None


EVIDENCE_KINDS = frozenset(Evidence.__dataclass_fields__)
NOTHING: frozenset[str] = frozenset()
VISION = frozenset({"vision"})
QKV = tuple[Tensor, Tensor, Tensor | None]


@dataclass
class Trace:
    """What one pass did: tokens entering each attention and each MLP, prefix included; origins if asked for.

    origins: by block, where each input lives after it (B, n0). moves: by block, where each token behind the prefix that
    entered it lives after it (B, P). Both count behind the prefix, -1 where it is gone.

    Where images keep different numbers of tokens these are the longest's; `standing` has each block's own, of each
    image (B,): in its attention and in its MLP. `states`: what entered block 0 and what left each block, where a list
    is given for it.
    """

    origins_wanted: bool = False
    attention: list[int] = field(default_factory=list)
    mlp: list[int] = field(default_factory=list)
    origins: list[Tensor] = field(default_factory=list)
    moves: list[Tensor] = field(default_factory=list)
    standing: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    sizes: Tensor | None = None
    states: list[TokenState] | None = None


class Stack(ABC):
    """One loop's view of some blocks, which it neither copies nor changes."""

    def __init__(self, shape: StackShape) -> None:
        self.shape = shape

    @abstractmethod
    def open(self, inputs: Any) -> TokenState:
        """Inputs (images (B, C, H, W), or `Tokens` of texts) -> the state entering block 0."""

    def open_resized(self, inputs: Tensor) -> TokenState:
        """Images of another size than the stack's own, a multiple of its patches, with position tables interpolated."""
        raise HarnessError(f"{self.shape.name} opens images of its own size alone: choose another method or tower")

    @abstractmethod
    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) as they enter the block -> q, k, v of its self-attention, each (B, H, N, d), unscaled."""

    @abstractmethod
    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        """As above, but only the first tokens' q (B, H, queries, d) and all k (B, H, N, d) are computed."""

    def values(self, block: int, tokens: Tensor) -> Tensor:
        """As above, but v (B, H, N, d) alone; stacks that can leave out q and k do."""
        return self.queries_keys_values(block, tokens)[2]

    @abstractmethod
    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        """Project the heads' outputs (B, N, D) and add them to the residual stream (B, N, D)."""

    @abstractmethod
    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        """The MLP with its norm and residual on tokens (B, N, D)."""

    @abstractmethod
    def close(self, state: TokenState) -> Tokens:
        """What leaves the stack, after its last norm where it has one."""

    def attention_dropout(self, block: int) -> float:
        """Dropout on the attention map, 0 in evaluation."""
        return 0.0

    def placed(self, block: int, q: Tensor, k: Tensor, state: TokenState) -> tuple[Tensor, Tensor]:
        """q (B, H, M, d) of the first M tokens and k (B, H, N, d) of all, turned by their places (rotary)."""
        return q, k

    def bias(self, state: TokenState, proportional: bool) -> Tensor | None:
        """What a state's tokens add to the logits of self-attention, broadcasting to (B, H, M, N)."""
        return state.bias(proportional)

    def block_bias(self, block: int, state: TokenState, proportional: bool) -> Tensor | None:
        """`bias`, and what the block itself adds to each pair of tokens (relative positions)."""
        return self.bias(state, proportional)

    def softmax_attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, proportional: bool = False
    ) -> Tensor:
        """The stack's own attention, heads' outputs (B, H, M, d); `proportional`: log sizes are added (ToMe)."""
        return attention(q, k, v, self.block_bias(block, state, proportional), self.attention_dropout(block))

    def cross(self, block: int, state: TokenState, hooks: BlockHooks | None) -> TokenState:
        """Read another stack's tokens, between self-attention and MLP; here: nothing."""
        return state

    def attend(
        self,
        block: int,
        state: TokenState,
        wants: frozenset[str] = NOTHING,
        hooks: BlockHooks | None = None,
    ) -> tuple[TokenState, Evidence]:
        """Attention and residual of one block, with the evidence wanted; by `hooks`'s own attention where it has one.

        Without hooks: the stack's plain attention, as look-ahead scoring runs it.
        """
        if hooks is None or hooks.takes_values(block, state):
            q, k, v = self.queries_keys_values(block, state.tokens)
        else:
            q, k = self.query_and_keys(block, state.tokens, state.tokens.shape[1])
            v = k[:, :, :0]
        proportional = hooks is not None and hooks.proportional_attention
        bias = self.block_bias(block, state, proportional) if wants else None
        content, (q, k) = k, self.placed(block, q, k, state)
        evidence = self._evidence((q, k, v), wants, state.prefix, bias, content)
        if hooks is None:
            attended, left = self.softmax_attention(block, q, k, v, state), state
        else:
            attended, left = hooks.attention(block, q, k, v, state, self)
        heads_last = attended.transpose(1, 2).flatten(2)
        state = replace(left, tokens=self.close_attention(block, left.tokens, heads_last))
        return self.cross(block, state, hooks), evidence

    def feed_forward(self, block: int, state: TokenState) -> TokenState:
        """Norm, MLP and residual of one block."""
        return replace(state, tokens=self.mlp(block, state.tokens))

    def observe(self, block: int, state: TokenState, wants: frozenset[str]) -> Evidence:
        """The evidence of a block that is not run: for cls_attention and keys, one query and the keys only."""
        if "value_norms" in wants:
            q, k, v = self.queries_keys_values(block, state.tokens)
        else:
            queries = state.tokens.shape[1] if "attention_received" in wants else 1
            (q, k), v = self.query_and_keys(block, state.tokens, queries), None
        content, (q, k) = k, self.placed(block, q, k, state)
        return self._evidence((q, k, v), wants, state.prefix, self.block_bias(block, state, False), content)

    def class_attention(self, block: int, state: TokenState) -> Tensor:
        """(B, P), what `observe` gives as cls_attention; stacks whose keys are a plain product leave out the keys."""
        found = self.observe(block, state, frozenset({"cls_attention"})).cls_attention
        assert found is not None
        return found

    def step(
        self, block: int, state: TokenState, hooks: BlockHooks, guide: Guide | None, trace: Trace | None
    ) -> TokenState:
        """One block with the method's hooks around its parts."""
        origin = state.origin if trace is not None else None
        if origin is not None:  # of this block alone, so that its moves are seen
            state = replace(state, origin=None).traced()
        with phase(hooks.scoring_phase):
            state = given_state(hooks, "before_block", hooks.before_block(block, state, self, guide))
        entering = state
        state, evidence = recompute.block(self.attend, block, state, hooks.evidence(block), hooks)
        with phase("matching"):
            state = given_state(hooks, "between", hooks.between(block, state, evidence))
        if origin is not None and trace is not None and state.origin is not None:
            trace.moves.append(state.origin)
            state = replace(state, origin=moved(origin, state.origin))
        if trace is not None:
            record(trace, entering, state)
        state = recompute.block(self.feed_forward, block, state)
        with phase("matching"):
            state = given_state(hooks, "after_block", hooks.after_block(block, state, evidence))
        if trace is not None and trace.states is not None:
            trace.states.append(state)
        return state

    def _evidence(self, qkv: QKV, wants: frozenset[str], prefix: int, bias: Tensor | None, content: Tensor) -> Evidence:
        if not wants:
            return Evidence()
        q, k, v = qkv
        found: dict[str, Tensor] = {}
        with phase("scoring"):
            if "cls_attention" in wants:
                found["cls_attention"] = attention_map(q[:, :, :1], k, bias)[:, :, 0, prefix:].mean(1)
            if "keys" in wants:
                found["keys"] = content.mean(1)
            if "attention_received" in wants:
                found["attention_received"] = attention_map(q, k, bias).mean((1, 2))
            if "value_norms" in wants and v is not None:
                found["value_norms"] = v.transpose(1, 2).flatten(2).norm(dim=-1)
        return Evidence(**found)

    def heads_first(self, projected: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, d)."""
        return projected.unflatten(-1, (self.shape.heads, -1)).transpose(1, 2)


def given_state(hooks: BlockHooks, name: str, found: Any) -> TokenState:
    """What a hook gave; HarnessError where it is no state, as of one that forgets to return it."""
    if not isinstance(found, TokenState):
        raise HarnessError(f"{type(hooks).__name__}.{name} gave {type(found).__name__}: return the TokenState")
    return found


def record(trace: Trace, entering: TokenState, state: TokenState) -> None:
    """Put into a trace what a block's attention and its MLP were entered with."""
    trace.attention.append(entering.tokens.shape[1])
    trace.mlp.append(state.tokens.shape[1])
    if state.origin is not None:
        trace.origins.append(state.origin)
    trace.standing.append((entering.count(), state.count()))


class BlockHooks(nn.Module):
    """What a method may do inside each block of a stack; these defaults reduce nothing.

    `stacks`: the kinds of stacks whose blocks call them.
    """

    stacks: ClassVar[frozenset[str]] = VISION

    @property
    def text_first(self) -> bool:
        """Whether, where two streams read each other, the text's layer runs first and the image's reads its output.

        `between` then stands between the text's attention and its MLP, and may reduce the image beside it before the
        image's layer runs.
        """
        return False

    @property
    def scoring_phase(self) -> str:
        """What products of `before_block` count as, unless it says otherwise."""
        return "scoring"

    @property
    def proportional_attention(self) -> bool:
        """Whether log sizes are added to the attention logits."""
        return False

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


# Nothing is reduced: what stacks run with in which no method works.
PLAIN = BlockHooks()
