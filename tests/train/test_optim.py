"""Facts about the optimizer's groups: what is decayed, and what learns at a multiple of the rate."""

from __future__ import annotations

import pytest
from torch import nn

from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.objectives.parts.recipe import recipe_of
from harness.train.optim import freeze, make_optimizer, set_rate


class Held(nn.Module):
    """A host where objectives hold it."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host = host


def test_vectors_are_not_decayed_and_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 2).requires_grad_(False))
    groups = make_optimizer(model, recipe_of("albef-base", {})).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays == {
        id(model[0].weight): 0.02,
        id(model[0].bias): 0.0,
        id(model[1].weight): 0.0,
        id(model[1].bias): 0.0,
    }


def test_meters_heads_and_co_attention_learn_five_times_as_fast() -> None:
    host = build_host("meter-tiny", depth=1, text_layers=1, fusion_layers=1)
    optimizer = make_optimizer(Held(host), recipe_of("meter-base", {}))
    set_rate(optimizer, 1e-5)
    rates = {id(parameter): round(group["lr"], 12) for group in optimizer.param_groups for parameter in group["params"]}
    parts: dict[float, set[str]] = {1e-5: set(), 5e-5: set()}
    for name, parameter in host.named_parameters():
        parts[rates[id(parameter)]].add(name.split(".")[0])
    heads = {"match_head", "mlm_transform", "mlm_decoder"}
    both = {f"{side}_{part}" for side in ("text", "image") for part in ("transform", "fusion", "pooler")}
    assert parts[5e-5] == heads | both
    assert parts[1e-5].isdisjoint(parts[5e-5])
    assert {"vision", "embeddings", "text"} <= parts[1e-5]


def test_a_multiplier_of_nothing_freezes_and_the_longest_beginning_counts() -> None:
    model = Held(nn.ModuleDict({"tower": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "head": nn.Linear(2, 2)}))
    recipe = recipe_of("albef-base", {"multipliers": {"tower": 0.0, "tower.1.weight": 0.5}})
    freeze(model, recipe)
    asked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert asked == {"host.tower.1.weight", "host.head.weight", "host.head.bias"}
    groups = make_optimizer(model, recipe).param_groups
    factors = {id(parameter): group["factor"] for group in groups for parameter in group["params"]}
    host = dict(model.host.named_parameters())
    assert factors == {
        id(host["tower.1.weight"]): 0.5,
        id(host["head.weight"]): 1.0,
        id(host["head.bias"]): 1.0,
    }


def test_a_star_stands_for_one_part_of_a_name() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([nn.ModuleDict({"b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})])})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, recipe_of("albef-tiny", {"multipliers": {"a.*.b": 3.0}}))
    found = {names[id(one)]: group["factor"] for group in optimizer.param_groups for one in group["params"]}
    assert found == {"a.0.b.weight": 3.0, "a.0.b.bias": 3.0, "a.0.c.weight": 1.0, "a.0.c.bias": 1.0}
    with pytest.raises(HarnessError, match=r"multiplier of a\.\*\.d: no trained parameter's name begins so"):
        make_optimizer(model, recipe_of("albef-tiny", {"multipliers": {"a.*.d": 3.0}}))
    with pytest.raises(HarnessError, match=r"multiplier of \*\.b: no trained parameter's name begins so"):
        make_optimizer(model, recipe_of("albef-tiny", {"multipliers": {"*.b": 3.0}}))


def test_something_must_be_left_to_train_and_multipliers_are_not_negative() -> None:
    model, recipe = nn.Linear(2, 2), recipe_of("albef-tiny", {"multipliers": {"weight": 0, "bias": 0}})
    freeze(model, recipe)
    with pytest.raises(HarnessError, match="0 for every parameter, so that nothing is trained"):
        make_optimizer(model, recipe)
    with pytest.raises(HarnessError, match=r"multipliers\.weight: Input should be greater than or equal to 0"):
        recipe_of("albef-tiny", {"multipliers": {"weight": -1}})


def test_a_multiplier_of_no_parameter_is_refused() -> None:
    with pytest.raises(HarnessError, match="multiplier of crosss: no trained parameter's name begins so"):
        make_optimizer(nn.Linear(2, 2), recipe_of("albef-tiny", {"multipliers": {"weight": 2.0, "crosss": 5.0}}))
