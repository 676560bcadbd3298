"""Every registered method in towers, sizes and ratios that are drawn at random; `--hypothesis-profile nightly` draws
many, and so does `check method NAME --draws 200`.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.check import drawn
from harness.check.drawn import RATIOS, TOWERS, Case, Fault, check_case, compiles, subject
from harness.kit.entries import Entry
from harness.kit.registry import Registry, methods
from harness.reduction import MethodConfig, TokenReducer

DRAWS = 1 if settings().max_examples <= 100 else 50
PHASES = (Phase.explicit, Phase.generate) if DRAWS == 1 else tuple(Phase)
IN_VISION = [name for name in methods.names() if "vision" in methods.get(name).stacks]
PLAIN = Case("timm", 0.7, 2, 5)
CASES = st.builds(
    Case,
    tower=st.sampled_from(sorted(TOWERS)),
    ratio=st.sampled_from(RATIOS),
    batch=st.integers(2, 4),
    seed=st.integers(0, 2**16),
)


@pytest.mark.parametrize("name", IN_VISION)
@given(case=CASES)
# A draw that fails says which it was; making it smaller takes minutes and is for the night.
@settings(max_examples=DRAWS, deadline=None, derandomize=DRAWS == 1, database=None, phases=PHASES)
def test_drawn_towers(name, case):
    assert check_case(name, case).startswith(("holds", "refused: "))


@pytest.mark.parametrize("name", [name for name in IN_VISION if name != "dense"])
def test_the_plain_tower_is_not_refused(name):
    # Few patches make coarse budgets: not every ratio is near one.
    said = (check_case(name, replace(PLAIN, ratio=ratio)) for ratio in (0.7, 0.6, 0.8, 0.5, 0.9))
    assert "holds" in said


# One graph takes seconds to trace: of each way to reduce one method, and all of them at night.
@pytest.mark.parametrize("name", IN_VISION if DRAWS > 1 else ["elip", "mctf", "diffrate"])
def test_fixed_counts_compile_to_one_graph(name):
    compiles(subject(name, PLAIN, PLAIN.ratio if name != "dense" else 1.0))


class Faulty(TokenReducer[MethodConfig]):
    """Drops one patch in the last block; each subclass has one fault beside it."""

    class Config(MethodConfig):
        off: bool = False

        def bent(self, gamma):
            return self.model_copy(update={"off": gamma == 0})

    tolerance = 1.0

    def between(self, block, state, evidence):
        if self.config.off or block < 11:
            return state
        return self.spoiled(state.keep(torch.arange(state.patches - 1).expand(len(state.tokens), -1)))


class Recounting(Faulty):
    def spoiled(self, state):
        return state.with_patch_sizes(torch.full_like(state.patch_sizes, 2))


class Touching(Faulty):
    def spoiled(self, state):
        return replace(state, tokens=state.tokens + 1)


class Reading(Faulty):
    def spoiled(self, state):
        return state if float(state.tokens.sum()) < 1e9 else state.keep(state.patches)


class Averaging(Faulty):
    def spoiled(self, state):
        return state.with_patch_tokens(state.patch_tokens - state.patch_tokens.mean(0, keepdim=True))


class Narrowing(Faulty):
    def spoiled(self, state):
        return replace(state, tokens=state.tokens.to(torch.bfloat16)) if torch.is_autocast_enabled("cpu") else state


class Idle(Faulty):
    def between(self, block, state, evidence):
        return state


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Recounting, "sizes"),
        (Touching, "class token"),
        (Reading, "values"),
        (Averaging, "other images|its order"),
        (Narrowing, "bfloat16"),
        (Idle, "no tensor gets smaller"),
    ],
)
def test_faults_are_found(kind, fault, monkeypatch):
    registry = Registry("method", lambda: [Entry("faulty", "", "nowhere")], lambda _: kind)
    monkeypatch.setattr("harness.reduction.budget.methods", registry)
    monkeypatch.setattr(drawn, "make_reducer", made_of(kind))
    with pytest.raises(Fault, match=fault):
        check_case("faulty", PLAIN)


def made_of(kind):
    from harness.reduction.budget import make_reducer

    def made(name, shape, **options):
        if name == "dense":
            return kind(kind.Config(off=True), shape)
        return make_reducer(name, shape, **options)

    return made
