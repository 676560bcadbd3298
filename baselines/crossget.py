"""CrossGET: a cross token in each tower says which tokens matter, and those that matter least merge (ICML 2024).

Rests on the released program for CLIP (sdc17/CrossGET, CLIP/clip/reducer.py, model.py; arXiv 2305.17455). The other
modality enters by the loss alone, which draws both towers' cross tokens together. The cross token leaves the tower as
its last token. In a BERT, whose class token stands for the text, that takes the end token's part.

By default padding takes no part in a text; the program merges what stands behind the end token too (`padding_merges`).
Two tokens that are each other's best always tie in the ranking: here the lower index comes first, in the program
torch's default sort decides (`unstable_sort`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    Guide,
    MethodConfig,
    Pooled,
    Stack,
    StackShape,
    TokenReducer,
    Tokens,
    TokenState,
    phase,
    take,
)

CROSS, OF_TEXT, END = "crossget_cross", "crossget_text_cross", "crossget_end"
MATCH = ("crossget_source", "crossget_into", "crossget_weights")
MERGES = "crossget_merges"


class CrossGETConfig(MethodConfig):
    """r_image, r_text: tokens merged per block, fractions spread evenly (the program: 16 and 0); kd_weight: w of the
    program's (1 - w) task + w distillation, here the task plus w / (1 - w) of it.
    """

    r_image: float = Field(default=16, ge=0)
    r_text: float = Field(default=0, ge=0)
    kd_weight: float = Field(default=0.5, ge=0, lt=1)
    padding_merges: bool = False
    unstable_sort: bool = False

    def bent(self, gamma: float) -> "CrossGETConfig":
        of_text = self.r_text * gamma / self.r_image if self.r_image else gamma
        return self.model_copy(update={"r_image": float(gamma), "r_text": of_text})


class CrossGET(TokenReducer[CrossGETConfig]):
    """Between attention and MLP of every block, by cosines of the block's keys and the guiding token's query."""

    Config = CrossGETConfig
    stacks = frozenset({"vision", "text"})
    needs_class_token = True

    def __init__(self, config: CrossGETConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        sides = {"vision": shape} | {kind: side for kind, side in shape.beside.items() if kind in self.stacks}
        zeros = {kind: nn.Parameter(torch.zeros(side.depth, side.width)) for kind, side in sides.items()}
        self.cross = nn.ParameterDict(zeros)

    @property
    def proportional_attention(self) -> bool:
        return True

    @property
    def works(self) -> bool:
        """Whether there is anything to merge; without, no tower gets a cross token."""
        return self.config.r_image > 0 or self.config.r_text > 0

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if not self.works:
            return state
        state = state.full_without_data()
        if stack.shape.causal:
            state = state.noted(**{END: state.patch_standing.sum(dim=1, keepdim=True) - 1})
        if stack.shape.kind == "text" and self.config.padding_merges:
            state = replace(state, mask=None)
        of_text = None if guide is None or stack.shape.kind != "vision" else guide.notes.get(CROSS)
        if of_text is not None and guide is not None:
            space = compared_in(guide)
            state = state.noted(**{OF_TEXT: of_text if space is None else space[1](of_text)})
        return state.append(Pooled(state.tokens[:, :1], None, None)).packed()

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if not self.works:
            return state
        kind, place = stack.shape.kind, last(state)
        source = place if kind == "vision" else summary(state, stack)
        cross = take(state.tokens, source).detach() + self.cross[kind][block]
        width = state.tokens.shape[2]
        moved = state.tokens.scatter(1, place.unsqueeze(-1).expand(-1, -1, width), cross.to(state.tokens.dtype))
        state = replace(state, tokens=moved)
        if not self.training:
            return state
        space = None if kind == "text" or guide is None else compared_in(guide)
        seen = cross if space is None else space[0](cross)
        before = [state.notes[CROSS]] if CROSS in state.notes else []
        return state.noted(**{CROSS: torch.cat([*before, seen], dim=1)})

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        attended, state = super().attention(block, q, k, v, state, stack)
        vision = stack.shape.kind == "vision"
        rate = self.config.r_image if vision else self.config.r_text
        keys, queries = (heads.transpose(1, 2).flatten(2) for heads in (k, q))
        place, guiding = last(state), summary(state, stack)
        # The tokens of the prefix, the cross token and, in a causal text, the end token stay.
        kept = state.prefix + 1 + stack.shape.causal
        count = min(int((block + 1) * rate) - int(block * rate), (keys.shape[1] - kept) // 2)
        if not self.works or count <= 0:
            return attended, state
        protected = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device)
        protected = protected.scatter(1, torch.cat([torch.zeros_like(place), place, guiding], dim=1), True)
        protected[:, : state.prefix] = True
        if state.standing is not None:
            protected = protected | ~state.standing
        query = take(queries, place if vision else guiding)
        with phase("matching"):
            found = match(keys, query, protected, count, stable=not self.config.unstable_sort)
        notes = dict(zip(MATCH, found))
        if state.standing is not None:
            own = ((state.count() - kept) // 2).clamp(min=0).unsqueeze(1)
            notes[MERGES] = torch.arange(count, device=own.device) < own
        return attended, state.noted(**notes)

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        if MATCH[0] not in state.notes:
            return state
        notes = dict(state.notes)
        source, into, weights = (notes.pop(name) for name in MATCH)
        merges = notes.pop(MERGES, None)
        return merged(replace(state, notes=notes), source, into, weights, merges)

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        image, text = tokens.notes.get(CROSS), tokens.notes.get(OF_TEXT)
        if image is None or text is None or image.shape[2] != text.shape[2]:
            return {}
        blocks = min(image.shape[1], text.shape[1])
        weight = self.config.kd_weight / (1 - self.config.kd_weight)
        return {"cross": weight * distillation(image[:, -blocks:], text[:, -blocks:])}


def compared_in(guide: Guide) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None:
    """The space in which both towers' cross tokens are compared: CLIP's shared one, whose texts have a width of their
    own; the states' where a guide has those of words (the released program for BLIP).
    """
    return guide.shared if guide.text_states is None else None


def last(state: TokenState) -> Tensor:
    """(B, 1), where the cross token stands in the sequence: behind all others that stand."""
    return state.count().unsqueeze(1) - 1


def summary(state: TokenState, stack: Stack) -> Tensor:
    """(B, 1), where the token stands that stands for the whole: the end of a causal text, else the class token."""
    if END not in state.notes:
        return state.tokens.new_zeros(len(state.tokens), 1, dtype=torch.long)
    assert state.origin is not None
    return state.origin.gather(1, state.notes[END]) + state.prefix


@torch.no_grad()
def match(
    keys: Tensor, query: Tensor, protected: Tensor, count: int, stable: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """keys (B, N, D), query (B, 1, D), protected (B, N) -> sources and destinations (B, count), weights (B, count, 2).

    Sources: lowest importance - best similarity, the best among tokens that stand behind it when ranked by theirs.
    """
    keys, query = F.normalize(keys, dim=-1), F.normalize(query, dim=-1)
    similarity = keys @ keys.transpose(1, 2)
    # A product of matrices may differ from its own transpose in the last bit, which would decide ties.
    similarity = (similarity + similarity.transpose(1, 2)) / 2
    alone = torch.eye(keys.shape[1], dtype=torch.bool, device=keys.device)
    similarity = similarity.masked_fill(alone | protected.unsqueeze(1) | protected.unsqueeze(2), -torch.inf)
    best = similarity.amax(dim=2)
    order = torch.sort(best, dim=1, descending=True, stable=stable).indices
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    behind = rank.unsqueeze(1) > rank.unsqueeze(2)
    importance = (keys @ query.transpose(1, 2)).squeeze(2)
    cost = importance - similarity.masked_fill(~behind, -torch.inf).amax(dim=2)
    source = torch.sort(cost, dim=1, stable=True).indices[:, :count]
    sources = torch.zeros_like(protected).scatter(1, source, True)
    into = take(similarity.masked_fill(sources.unsqueeze(1), -torch.inf), source).argmax(dim=2)
    return source, into, torch.stack([importance.gather(1, source), importance.gather(1, into)], dim=2).softmax(dim=2)


def merged(state: TokenState, source: Tensor, into: Tensor, weights: Tensor, merges: Tensor | None) -> TokenState:
    """Each destination (B, R) plus 2 w_s source + (2 w_d - 1) destination, weighted by sizes, which add; order stays.

    merges: (B, R), which of the sources do merge, where padding takes no part.
    """
    source, into = source - state.prefix, into - state.prefix
    does = torch.ones_like(source, dtype=torch.bool) if merges is None else merges
    source, into = source.clamp(min=0), torch.where(does, into, source).clamp(min=0)
    sizes, factors = state.patch_sizes, 2 * weights * does.unsqueeze(2)
    weighted = state.patch_tokens * sizes.unsqueeze(2)
    moved = factors[:, :, :1] * take(weighted, source)
    moved = moved + (factors[:, :, 1:] - does.unsqueeze(2).to(factors.dtype)) * take(weighted, into)
    total = weighted.scatter_add(1, into.unsqueeze(2).expand_as(moved), moved)
    sizes = sizes.scatter_add(1, into, sizes.gather(1, source) * does)
    place = torch.arange(state.patches, device=source.device).expand(len(source), -1)
    gone = torch.zeros_like(place, dtype=torch.bool).scatter(1, source, does)
    # Those that stay come first, as many in every row as padding takes part; a ragged batch hides the rest.
    rest = torch.sort(gone.to(torch.int8), dim=1, stable=True).indices
    rest = rest[:, : state.patches - source.shape[1]] if merges is None else place
    reduced = state.merge(source, into, rest)
    tokens = take(total / sizes.unsqueeze(2), rest)
    before = sizes.new_ones(len(sizes), state.prefix) if state.sizes is None else state.sizes[:, : state.prefix]
    reduced = replace(reduced.with_patch_tokens(tokens), sizes=torch.cat([before, sizes.gather(1, rest)], dim=1))
    return reduced if merges is None else reduced.hide(~gone).packed()


def distillation(image: Tensor, text: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the softmaxed cross tokens (B, L, P) of both sides, the mean over B and L."""
    p, q = image.softmax(dim=-1), text.softmax(dim=-1)
    m = (p + q) / 2
    return ((m * (m.log() - p.log())).sum(-1) + (m * (m.log() - q.log())).sum(-1)).mean() / 2
