"""Every registered method has every property that `check method` looks for, and the check finds faults."""

import pytest
import torch

from harness.check import method as checks
from harness.check.template import write_template
from harness.kit.entries import Entry
from harness.kit.errors import HarnessError
from harness.kit.registry import Registry, methods
from harness.reduction import MethodConfig, TokenReducer


@pytest.mark.parametrize(
    ("name", "prove"),
    [
        pytest.param(name, prove, id=f"{prove.__name__}-{name}")
        for name in methods.names()
        for prove in checks.properties(name)
    ],
)
def test_method(name, prove):
    assert prove(name)


class Shuffling(TokenReducer[MethodConfig]):
    """Not the identity, and dependent on the batch: the mean over it is added."""

    def between(self, block, state, evidence):
        from dataclasses import replace

        return replace(state, tokens=state.tokens + state.tokens.mean(0, keepdim=True))


class Hiding(TokenReducer[MethodConfig]):
    """Cuts the gradient."""

    def between(self, block, state, evidence):
        from dataclasses import replace

        return replace(state, tokens=state.tokens.detach())


@pytest.fixture
def registered(monkeypatch):
    def register(kind):
        fake = Registry("method", lambda: [Entry("faulty", "", "nowhere")], lambda _: kind)
        monkeypatch.setattr("harness.reduction.budget.methods", fake)
        monkeypatch.setattr(checks, "methods", fake)
        return {line.split()[0]: good for line, good in checks.lines("faulty")}

    return register


def test_faults_are_found(registered):
    verdict = registered(Shuffling)
    assert not verdict["identity"]
    assert not verdict["batch_order"]
    assert not registered(Hiding)["gradients"]


def test_an_exception_in_a_method_is_its_verdict(registered):
    class Broken(TokenReducer[MethodConfig]):
        def between(self, block, state, evidence):
            raise RuntimeError("shape mismatch")

    verdict = registered(Broken)
    assert {name for name, good in verdict.items() if good} <= {"saving", "text"}


def test_the_template_is_a_working_method(tmp_path, monkeypatch):
    path = write_template("norm_keep", tmp_path)
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    fake = Registry("method", lambda: [Entry("norm_keep", "", "nowhere")], lambda _: scope["NormKeep"])
    monkeypatch.setattr("harness.reduction.budget.methods", fake)
    monkeypatch.setattr(checks, "methods", fake)
    assert all(good for _, good in checks.lines("norm_keep"))


@pytest.mark.parametrize("name", ["Bad", "with-dash", "elip", ""])
def test_bad_template_names(name, tmp_path):
    with pytest.raises(HarnessError):
        write_template(name, tmp_path)


def test_random_draws_differ_between_images_and_seeds():
    from harness.hosts.parts.towers import open_tower
    from harness.reduction.budget import make_reducer

    reducer = make_reducer("random", open_tower(checks.small_vit()).shape, ratio=0.5)
    keys = torch.tensor([1, 2])
    draw = reducer.draw(0, keys, 64)
    assert not torch.equal(draw[0], draw[1])
    other = make_reducer("random", open_tower(checks.small_vit()).shape, ratio=0.5, settings={"seed": 1})
    assert not torch.equal(other.draw(0, keys, 64), draw)


def test_random_draws_are_uniform():
    from harness.hosts.parts.towers import open_tower
    from harness.reduction.budget import make_reducer

    reducer = make_reducer("random", open_tower(checks.small_vit()).shape, ratio=0.5)
    first = reducer.draw(0, torch.arange(20000) * 7919, 8).argmax(1)
    share = torch.bincount(first, minlength=8) / 20000
    assert (share - 1 / 8).abs().max() < 0.01
