"""Autocast, gradient checkpointing and compiled graphs do not change what a method does."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.hosts.parts.towers import open_tower
from harness.kit.recompute import recomputing
from harness.reduction import encode
from harness.reduction.budget import make_reducer

FIXED = ["pitome", "tofu", "mctf", "dynamicvit", "tps", "diffrate"]
NAMES = [*FIXED, "ltmp"]


def built(name, training):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 12, "num_heads": 3, "num_classes": 0}
    model = VisionTransformer(**sizes).eval()
    tower = open_tower(model)
    return model, tower, make_reducer(name, tower.shape).train(training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_keeps_dtypes(name, training):
    _, tower, reducer = built(name, training)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encode(tower, reducer, torch.randn(2, 3, 32, 32))
    assert tokens.states.dtype == torch.float32
    assert bool(tokens.states[tokens.standing].isfinite().all())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_gives_the_same_gradients(name, training):
    found = []
    for again in (False, True):
        model, tower, reducer = built(name, training)
        torch.manual_seed(1)
        with recomputing(again):
            tokens = encode(tower, reducer, torch.randn(2, 3, 32, 32))
            tokens.states[tokens.standing].square().mean().backward()
        own = [parameter.grad for parameter in reducer.parameters() if parameter.grad is not None]
        found.append([model.patch_embed.proj.weight.grad, *own])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


@pytest.mark.parametrize("name", FIXED)
def test_fixed_counts_compile_to_one_graph(name):
    _, tower, reducer = built(name, False)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(lambda images: encode(tower, reducer, images).states, fullgraph=True, backend="eager")
        assert torch.equal(compiled(images), encode(tower, reducer, images).states)
