"""`check method` names what is wrong with a method, each fault by a line of its own."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.check import method as checks
from harness.kit.entries import Entry
from harness.kit.registry import Registry
from harness.reduction import MethodConfig, Schedule, TokenReducer, split_top


class Staged(MethodConfig):
    schedule: Schedule = Schedule(begin=(4, 8), keep=(0.6, 0.4))


class Half(TokenReducer[Staged]):
    """Keeps the largest of a score; whole, but for what a test changes."""

    Config = Staged

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.counts = dict(zip(config.schedule.begin, config.schedule.counts(shape.patches)))

    def score(self, state):
        return state.patch_tokens.norm(dim=-1)

    def reduced(self, state, count, kept):
        return state.keep(kept)

    def before_block(self, block, state, stack, guide):
        count = self.counts.get(block, state.patches)
        if count >= state.patches:
            return state
        return self.reduced(state, count, split_top(self.score(state), count)[0])


class NanScores(Half):
    def score(self, state):
        return state.patch_tokens.mean(-1).log()


class KeptTwice(Half):
    def reduced(self, state, count, kept):
        return state.keep(torch.zeros_like(kept))


class CutByHand(Half):
    def reduced(self, state, count, kept):
        return replace(state, tokens=state.tokens[:, : state.prefix + count])


class WrongSizes(Half):
    def reduced(self, state, count, kept):
        return state.keep(kept).with_patch_sizes(torch.full_like(state.keep(kept).patch_sizes, 3.0))


class TurnedClass(Half):
    def reduced(self, state, count, kept):
        left = state.keep(kept)
        return replace(left, tokens=torch.cat([-left.tokens[:, :1], left.patch_tokens], dim=1))


class ByTheBatch(Half):
    def score(self, state):
        return (state.patch_tokens - state.patch_tokens.mean(dim=(0, 1))).norm(dim=-1)


class Guided(Half):
    """Keeps the guide for the score."""

    needs_text = True
    without_text = "all tokens"

    def before_block(self, block, state, stack, guide):
        self.guide = guide
        return super().before_block(block, state, stack, guide)


class ByTheBatchInSharedSpace(Guided):
    """Whole where no shared space is."""

    def score(self, state):
        if self.guide.shared is None:
            return super().score(state)
        return self.guide.shared[0](state.patch_tokens) @ self.guide.text_feature.mean(0)


class Learning(Half):
    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.linear = nn.Linear(shape.width, 1)

    def score(self, state):
        return self.linear(state.patch_tokens).squeeze(-1)


class VectorLoss(Learning):
    def losses(self, tokens, dense):
        return {"each": tokens.states.mean(dim=(1, 2))}


class NanLoss(Learning):
    def losses(self, tokens, dense):
        return {"odd": tokens.states.mean() * float("nan")}


class Merging(Half):
    """Merges each token that goes into the first of those that stay."""

    def into(self, state, kept, gone):
        return kept[:, :1].expand_as(gone)

    def reduced(self, state, count, kept):
        gone = (~torch.zeros(len(kept), state.patches, dtype=torch.bool).scatter(1, kept, True)).nonzero()[:, 1]
        gone = gone.view(len(kept), -1)
        return self.left(state.merge(gone, self.into(state, kept, gone), kept))

    def left(self, state):
        return state


class MergedByPlace(Merging):
    """Counts destinations among those that stay, where tokens are to be counted."""

    def into(self, state, kept, gone):
        found = (~(kept[:, :, None] == torch.arange(state.patches)).any(dim=1)).long().argmax(dim=1)
        return found[:, None].expand_as(gone)


class SizesLost(Merging):
    def left(self, state):
        return replace(state, sizes=None)


class ByParity(Half):
    def reduced(self, state, count, kept):
        return state.keep(kept.flip(1) if len(kept) % 2 else kept)


class OtherFallback(Guided):
    """Says that it keeps all without a text, and goes by the norm."""

    def score(self, state):
        if self.guide is None:
            return super().score(state)
        return (state.patch_tokens * self.guide.text_cls[:, None]).sum(-1)


class Raising(Half):
    def score(self, state):
        return state.patch_tokens.size_of_all()


class SingleChannels(Half):
    """Nothing is wrong with it: it looks at one channel, which a tower that only counts must have."""

    def score(self, state):
        return state.patch_tokens[..., 5]


@pytest.fixture
def verdicts(monkeypatch):
    def of(kind):
        fake = Registry("method", lambda: [Entry("own", "", "nowhere")], lambda _: kind)
        monkeypatch.setattr("harness.reduction.budget.methods", fake)
        monkeypatch.setattr(checks, "methods", fake)
        return {line.split()[0]: line.partition("FAIL")[2].strip() for line, good in checks.lines("own") if not good}

    return of


@pytest.mark.parametrize("kind", [Half, Merging, SingleChannels])
def test_a_whole_method_has_no_fault(verdicts, kind):
    assert verdicts(kind) == {}


@pytest.mark.parametrize(
    ("kind", "check", "words"),
    [
        (NanScores, "finite", "NanScores, block 4 (before_block): "),
        (KeptTwice, "conserved", "before_block of block 4 keeps a token more than once"),
        (CutByHand, "conserved", "tokens of patches where 64 were: use keep, merge or pool"),
        (WrongSizes, "conserved", "are not how many patches the tokens hold"),
        (TurnedClass, "conserved", "before_block of block 4 changes the class token or those beside it"),
        (ByTheBatch, "batch_order", "depends on its other images in the batch"),
        (ByTheBatchInSharedSpace, "batch_order", "depends on its other images in the batch"),
        (MergedByPlace, "conserved", "which is not among those that remain (`rest`): indices count the patch tokens"),
        (SizesLost, "conserved", "merges by the tokens' sizes, which are gone since the merge before"),
        (ByParity, "batch_order", "depends on its other images in the batch"),
        (OtherFallback, "text", "without_text says 'all tokens', but without a text 30 of 65 tokens are left"),
        (Raising, "finite", "test_method_faults.py, line "),
        (Raising, "conserved", "as finite"),
        (Learning, "gradients", "reaches its own linear.weight: give it a loss, or a gate on the tokens"),
        (VectorLoss, "gradients", "its loss 'each' has the shape (2,): expected a finite scalar"),
        (NanLoss, "gradients", "its loss 'odd' is nan: expected a finite scalar"),
    ],
)
def test_a_fault_is_named(verdicts, kind, check, words):
    assert words in verdicts(kind)[check]
