"""What methods may ask of a stack and of a state, beyond keeping tokens."""

import re
from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import (
    MethodConfig,
    TokenReducer,
    TokenState,
    add_to,
    attention_map,
    bipartite,
    encode,
    policy_map,
)
from harness.reduction.budget import make_reducer
from harness.reduction.kernels import attention_path
from harness.reduction.plan import token_counts
from tests.hosts.small_towers import BARE

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}


def vit():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0).eval()


@pytest.mark.parametrize(
    "model", [vit(), CLIPVisionModel(CLIPVisionConfig(**SMALL)), BlipVisionModel(BlipVisionConfig(**SMALL))]
)
def test_parts_of_the_projection_are_the_projection(model):
    tower, tokens = open_tower(model.eval()), torch.randn(2, 5, 24)
    q, k, v = tower.queries_keys_values(1, tokens)
    some, keys = tower.query_and_keys(1, tokens, 3)
    for found, expected in ((some, q[:, :, :3]), (keys, k), (tower.values(1, tokens), v)):
        torch.testing.assert_close(found, expected)


class Late(TokenReducer[MethodConfig]):
    """Takes v itself, and doubles what leaves each block."""

    def takes_values(self, block, state):
        return block == 0

    def attention(self, block, q, k, v, state, stack):
        if block > 0:
            assert v.shape[2] == 0
            v = stack.values(block, state.tokens)
        return attention_map(q, k) @ v, state

    def after_block(self, block, state, evidence):
        return replace(state, tokens=state.tokens * 2)


def test_a_method_may_take_values_late_and_act_after_a_block():
    model = vit()
    tower, images = open_tower(model), torch.randn(2, 3, 32, 32)
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    for block in model.blocks:
        tokens = block(tokens) * 2
    torch.testing.assert_close(encode(tower, Late(MethodConfig(), tower.shape), images).states, model.norm(tokens))


def test_a_pass_says_how_often_it_asked_for_the_attention_path():
    tower, images = open_tower(vit()), torch.randn(1, 3, 32, 32)
    for reducer, times in ((TokenReducer(MethodConfig(), tower.shape), 3), (Late(MethodConfig(), tower.shape), 0)):
        with attention_path("fused") as asked:
            encode(tower, reducer, images)
        assert asked["main"] == times


def test_merging_by_weights():
    tokens = torch.tensor([[[9.0], [1.0], [2.0], [4.0]]])
    weights, source, into, rest = torch.tensor([[3.0, 1.0, 1.0]]), [[0]], [[2]], [[2, 1]]
    left = TokenState(tokens).traced().merge(*map(torch.tensor, (source, into, rest)), weights)
    assert left.tokens.flatten().tolist() == [9.0, (3 * 1 + 4) / 4, 2.0]
    assert left.sizes.tolist() == [[1, 2, 1]]
    assert left.origin.tolist() == [[0, 1, 0]]


def test_add_to_takes_rows_and_numbers():
    values = torch.tensor([[1.0, 2.0, 4.0]])
    source, into = torch.tensor([[0, 2]]), torch.tensor([[1, 1]])
    assert add_to(values, source, into).tolist() == [[1, 7, 4]]
    assert add_to(values.unsqueeze(-1), source, into).flatten().tolist() == [1, 7, 4]


def test_where_inputs_live_can_be_said():
    state = TokenState(torch.zeros(1, 4, 1)).traced().relocated(torch.tensor([[2, 1, 2]]))
    assert state.origin.tolist() == [[2, 1, 2]]


def test_a_policy_of_ones_with_a_bias_is_the_plain_softmax_but_for_eps():
    q, k, sizes = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4), torch.rand(2, 5) + 1
    state = TokenState(torch.zeros(2, 5, 4), sizes=sizes)
    weighed = policy_map(q, k, state.policy, eps=0, own=False, bias=state.log_sizes)
    torch.testing.assert_close(weighed, attention_map(q, k, state.bias(True)))


def test_bipartite_matching_by_hand():
    angles = torch.tensor([[0.0, 1.0, 0.1, 2.0]])
    keys = torch.stack([angles.cos(), angles.sin()], dim=-1)
    source, into, rest = bipartite(keys, 0, 1)  # even: 0 and .1; odd: 1 and 2
    assert (source.tolist(), into.tolist(), rest.tolist()) == ([[2]], [[1]], [[0, 1, 3]])


def test_a_hook_that_returns_no_state_is_named():
    class Forgets(TokenReducer[MethodConfig]):
        Config = MethodConfig

        def between(self, block, state, evidence):
            state.keep(torch.tensor([[0, 1]]))

    tower = open_tower(BARE["timm ViT"]())
    with pytest.raises(HarnessError, match=r"Forgets\.between gave NoneType: return the TokenState"):
        encode(tower, Forgets(MethodConfig(), tower.shape), torch.zeros(1, *tower.images))


def test_a_method_whose_class_raises_is_named(monkeypatch):
    class Broken(TokenReducer[MethodConfig]):
        Config = MethodConfig

        def __init__(self, config, shape):
            super().__init__(config, shape)
            raise IndexError("no such block\nand more")

    get = methods.get
    monkeypatch.setattr(methods, "get", lambda name: Broken if name == "broken" else get(name))
    shape = open_tower(BARE["timm ViT"]()).shape
    with pytest.raises(HarnessError) as caught:
        make_reducer("broken", shape)
    place = f"method broken: {__name__}.Broken cannot be made: "
    assert re.fullmatch(re.escape(place) + r"test_seams\.py, line \d+: IndexError: no such block", str(caught.value))


class NoStart(TokenReducer[MethodConfig]):
    Config = MethodConfig

    def __init__(self, config, shape):
        self.scale = 1.0


class LooseLayers(TokenReducer[MethodConfig]):
    Config = MethodConfig

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.scores = [torch.nn.Linear(shape.width, 1) for _ in range(2)]


class NamedLayers(TokenReducer[MethodConfig]):
    Config = MethodConfig

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.scores = {3: torch.nn.Parameter(torch.zeros(2))}


class LooseTensor(TokenReducer[MethodConfig]):
    Config = MethodConfig

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.scale = torch.ones(2, requires_grad=True)


class OddEvidence(TokenReducer[MethodConfig]):
    Config = MethodConfig

    def evidence(self, block):
        return frozenset({"key"})


class NoEvidence(TokenReducer[MethodConfig]):
    Config = MethodConfig

    def between(self, block, state, evidence):
        return state.keep(evidence.keys[:, 1:].norm(dim=-1).argsort()[:, :4]) if block == 2 else state


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (NoStart, "NoStart: its __init__ does not call super().__init__(config, shape)"),
        (
            OddEvidence,
            "OddEvidence: unknown evidence key: there are attention_received, cls_attention, keys, value_norms",
        ),
        (LooseLayers, "scores holds layers in a list, which are not trained: use torch.nn.ModuleList or ParameterList"),
        (NamedLayers, "scores holds layers in a dict, which are not trained: use torch.nn.ModuleDict or ParameterDict"),
        (LooseTensor, "scale is a tensor that asks for a gradient, and no torch.nn.Parameter: make it one"),
        (NoEvidence, "TypeError: 'NoneType' object is not subscriptable; evidence is what `evidence` names of a block"),
    ],
)
def test_a_method_that_forgets_a_part_is_named_in_one_line(kind, line, monkeypatch):
    get = methods.get
    monkeypatch.setattr(methods, "get", lambda name: kind if name == "broken" else get(name))
    shape = open_tower(BARE["timm ViT"]()).shape
    with pytest.raises(HarnessError) as caught:
        token_counts(make_reducer("broken", shape))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
