"""A reduced model calls the modules that the model itself calls, or says which one it would pass by.

Adapters (LoRA), quantised layers and hooks stand in the place of plain Linears, before or after a model is reduced.
"""

import copy

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import harness
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from tests.hosts.small_towers import BARE, drawn, images

METHODS = [("dense", None), ("elip", 1.0), ("elip_lite", 1.0), ("trips", 1.0), ("mctf", 1.0), ("tome", 1.0)]


class Adapted(nn.Module):
    """A Linear and a low-rank product beside it, as LoRA has it: `weight` is the frozen one's."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        self.weight, self.bias = base.weight, base.bias

    def forward(self, tokens):
        return self.base(tokens) + self.up(self.down(tokens))


def adapted(model: nn.Module) -> nn.Module:
    """The model with an adapter at every Linear of its blocks that it calls as a module."""
    for module in list(model.modules()):
        if isinstance(module, nn.MultiheadAttention):
            continue
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name not in ("head", "proj_out"):
                setattr(module, name, Adapted(child))
    return model


def states(found) -> torch.Tensor:
    found = found[0] if isinstance(found, tuple) else found
    return getattr(found, "last_hidden_state", found)


def methods_of(model: nn.Module) -> list[tuple[str, float | None]]:
    """Those that score by a class token only where there is one."""
    shape = open_tower(model).shape
    return [
        pair
        for pair in METHODS
        if pair[0] in ("dense", "tome")
        or (shape.class_token and not shape.pairwise)
        or (pair[0] == "elip" and shape.class_token)
    ]


def text(model: nn.Module) -> harness.Guide:
    width = open_tower(model).shape.width
    return harness.Guide(torch.randn(2, width, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("name", sorted(BARE))
def test_adapters_are_called_before_and_after_a_model_is_reduced(name):
    plain = drawn(BARE[name])
    torch.manual_seed(1)
    model = adapted(copy.deepcopy(plain)).eval()
    want = states(model(images()))
    assert not torch.equal(want, states(plain(images())))
    for method, ratio in methods_of(model):
        torch.testing.assert_close(states(harness.reduce(model, method, ratio=ratio)(images())), want, msg=method)
    later = harness.reduce(plain, "dense")
    torch.manual_seed(1)
    adapted(later.model)
    torch.testing.assert_close(states(later(images())), want)


@pytest.mark.parametrize("name", ["CLIP", "ViT", "timm ViT", "open_clip", "timm EVA-02 unfused"])
@pytest.mark.parametrize("method", ["elip", "elip_lite", "trips", "mctf", "evit"])
def test_scores_see_the_adapter_as_if_its_product_were_in_the_weights(name, method):
    torch.manual_seed(1)
    model = adapted(drawn(BARE[name])).double().eval()
    merged = copy.deepcopy(model)
    for module in list(merged.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, Adapted):
                child.base.weight.data += child.up.weight @ child.down.weight
                setattr(module, child_name, child.base)
    guide, pixels = text(merged).each(torch.Tensor.double), images().double()
    plain = drawn(BARE[name]).double()
    found, wanted, without = (
        harness.reduce(one, method, ratio=0.6).encode(pixels, guide).states for one in (model, merged, plain)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert not torch.allclose(found, without, atol=1e-3)


def test_hooks_on_what_is_called_are_called():
    model = drawn(BARE["timm ViT"])
    model.blocks[2].attn.qkv.register_forward_hook(lambda module, inputs, output: output * 1.5)
    want = model(images())
    for method, ratio in METHODS:
        torch.testing.assert_close(harness.reduce(model, method, ratio=ratio)(images()), want)


PLACES = {
    "timm ViT": ("", "blocks", "blocks.3", "blocks.3.attn"),
    "CLIP": ("vision_model.encoder.layers.1", "encoder.layers.1", "encoder.layers.1.self_attn", "encoder"),
    "ViT": ("layers.2", "encoder.layer.2", "layers.2.attention", "encoder.layer.2.attention"),
    "open_clip": ("transformer", "transformer.resblocks.1", "transformer.resblocks.1.attn"),
}


@pytest.mark.parametrize("name", sorted(PLACES))
@pytest.mark.parametrize("change", ["hook", "pre_hook", "forward"])
def test_hooks_on_what_is_run_by_its_parts_are_refused(name, change):
    tried = 0
    for place in PLACES[name]:
        model = BARE[name]()
        if place and place not in dict(model.named_modules()):
            continue  # releases of transformers name their parts differently; one of them has to be there
        module = model.get_submodule(place)
        if change == "hook":
            module.register_forward_hook(lambda module, inputs, output: output)
        elif change == "pre_hook":
            module.register_forward_pre_hook(lambda module, inputs: inputs)
        else:
            module.forward = module.forward
        with pytest.raises(HarnessError, match=place.replace(".", r"\.") + r" has a .* would not call"):
            harness.reduce(model, "tome", ratio=0.5)
        tried += 1
    assert tried >= 2


def test_the_hooks_of_transformers_itself_change_nothing():
    model = BARE["CLIP"]().eval()
    model(images(), output_hidden_states=True)
    assert states(harness.reduce(model, "dense")(images())).shape == states(model(images())).shape


def test_a_forward_of_ones_own_is_refused():
    class Doubled(VisionTransformer):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(HarnessError, match="Doubled: its own forward cannot be opened"):
        harness.reduce(Doubled(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2), "dense")
    model = BARE["ViT"]()

    class Tripled(type(model)):
        def forward(self, *inputs, **options):
            return super().forward(*inputs, **options)

    model.__class__ = Tripled
    with pytest.raises(HarnessError, match="a forward \\(Tripled's\\) that is not transformers'"):
        harness.reduce(model, "dense")
