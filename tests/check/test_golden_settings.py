"""What files of the same kinds may hold that no file here does: its settings are understood."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from harness.check.golden.file import Golden, read_golden
from harness.check.golden.method import TOLERANCE, check_method
from harness.reduction import take

GOLDENS = Path(__file__).parent.parent / "goldens"
Tensors = dict[str, torch.Tensor]


def edited(stem: str, change: Callable[[dict[str, Any], Tensors], None], leave: str = "grad") -> Golden:
    """A file with other settings and the outputs that go with them, without the gradients, which nothing here knows."""
    golden = read_golden(GOLDENS / f"{stem}.safetensors")
    tensors = {name: value.clone() for name, value in golden.tensors.items() if not name.startswith(leave)}
    config = dict(golden.config)
    change(config, tensors)
    return dataclasses.replace(golden, config=config, tensors=tensors)


def largest(golden: Golden) -> float:
    return max(check_method(golden).values())


@pytest.mark.parametrize("stem", ["evit_drop", "evit_fuse"])
@pytest.mark.parametrize("whole", [True, False])
def test_evits_rates_may_be_a_list(stem: str, whole: bool) -> None:
    def change(config: dict[str, Any], _: Tensors) -> None:
        rate, blocks = config["keep_rate"], config["drop_layers"]
        each = [rate if block in blocks else 1.0 for block in range(config["depth"])]
        config["keep_rate"] = each if whole else [rate] * len(blocks)

    assert largest(edited(stem, change, leave="nothing")) < TOLERANCE


def test_gtps_none_may_be_null_and_a_selection_may_leave_out_how_heads_are_joined() -> None:
    from harness.check.golden.methods.gtp import settings

    config = read_golden(GOLDENS / "gtp_mixed.safetensors").config
    made = settings(config | {"graph_type": None, "propagation": None, "selection": "CosSim"})
    assert (made["graph"], made["propagation"], made["selection"], made["heads"]) == (
        "Spatial",
        "None",
        "CosSim",
        "Mean",
    )


def test_clusters_of_atc_are_at_most_one_a_patch() -> None:
    from harness.check.golden.methods.atc import settings

    config = read_golden(GOLDENS / "atc_average.safetensors").config
    listed = config | {"reduction_loc": [1, 3], "reduction_ratio": [100, 30]}
    patches = (config["img_size"] // config["patch_size"]) ** 2
    assert settings(listed)["keep_tokens"] == [patches, 30]


@pytest.mark.parametrize("off", [0, 1, 2])
def test_each_of_mctfs_losses_is_off_where_its_switch_is_zero(off: int) -> None:
    names = ("loss_student", "loss_teacher", "loss_consistency")

    def change(config: dict[str, Any], tensors: Tensors) -> None:
        config["task_type"] = [0 if at == off else kind for at, kind in enumerate(config["task_type"])]
        tensors[f"output.{names[off]}"].zero_()
        tensors["output.loss_total"] = torch.stack([tensors[f"output.{name}"] for name in names]).sum()
        if off == 2:  # the program computes nothing of it
            del tensors["output.consistency"]

    assert largest(edited("mctf_train", change)) < TOLERANCE
    without = edited("mctf_train", lambda config, _: config.update(task_type=[1, 1, 0.99]))
    assert largest(without) > TOLERANCE


@pytest.mark.parametrize(
    ("stem", "weight", "losses"),
    [
        ("dynamicvit_train", "ratio_weight", {"loss_ratio": lambda config: 1 / len(config["pruning_loc"])}),
        ("dynamicvit_train", "distill_weight", {"loss_cls_kl": lambda _: 1, "loss_token": lambda _: 1}),
        ("ltmp_train", "reg_scale", {"loss_flops": lambda _: 1}),
        ("diffrate_train", "lambda", {"loss_flops": lambda _: 1}),
    ],
)
def test_a_loss_may_weigh_nothing(stem: str, weight: str, losses: dict[str, Callable[[Any], float]]) -> None:
    def change(config: dict[str, Any], tensors: Tensors) -> None:
        for name, share in losses.items():
            tensors["output.loss_total"] = (
                tensors["output.loss_total"] - config[weight] * share(config) * tensors[f"output.{name}"]
            )
        config[weight] = 0

    assert largest(edited(stem, change)) < TOLERANCE


def test_flip_that_leaves_out_nothing_shuffles() -> None:
    from harness.check.golden.methods.flip import Flip, _load

    def change(config: dict[str, Any], tensors: Tensors) -> None:
        config["mask_ratio"] = 0
        model = Flip(config).double().eval()
        _load(model, {name[7:]: value for name, value in tensors.items() if name.startswith("weight.")})
        with torch.no_grad():
            dense = model.image.forward_features(tensors["input.image"])
        order = tensors["input.noise"].argsort(dim=1) + 1
        tensors["output.tokens"] = take(dense, torch.cat([torch.zeros_like(order[:, :1]), order], dim=1))
        tensors["output.removed"].zero_()
        tensors["output.loss"] = tensors["output.loss_eval"]

    assert largest(edited("flip_step", change)) < TOLERANCE


def test_texts_of_one_caption_have_clips_loss_alone() -> None:
    def change(config: dict[str, Any], tensors: Tensors) -> None:
        config["use_declip_loss"] = True
        tensors["input.text"] = tensors["input.text"][:, 0]
        for name in ("attention_mask", "loss_clip", "loss_declip"):
            tensors.pop(f"output.{name}", None)
        first = tensors["output.single_text_features"]
        tensors["output.text_features"] = first
        views = F.normalize(tensors["input.image_features"], dim=-1).unflatten(0, (len(first), -1))[:, 0]
        logits = tensors["weight.logit_scale"].exp() * views @ first.T
        right = torch.arange(len(first))
        tensors["output.loss"] = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2

    assert largest(edited("lotlip_loss", change)) < TOLERANCE


def test_blocks_of_equal_attention_stand_as_the_release_has_them() -> None:
    from harness.reduction import removed_patches

    attention = torch.zeros(2, 196, dtype=torch.float64)
    attention[:, :40] = torch.rand(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gone = removed_patches(attention, (14, 14), 0.5)
    blocks = F.interpolate(attention.view(2, 1, 14, 14), (7, 7), mode="bilinear").flatten(1)
    kept = torch.argsort(blocks, dim=1, descending=True)[:, : int(49 * 0.5) + 1]
    whole = (~gone).view(2, 7, 2, 7, 2).all(dim=4).all(dim=2).flatten(1)
    assert torch.equal(whole, torch.zeros_like(whole).scatter(1, kept, True))
