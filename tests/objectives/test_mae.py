"""Facts about mae: what a patch's values are, which errors count, and what the decoder reads under a reduction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.check.golden.file import read_golden
from harness.kit.errors import HarnessError
from harness.objectives import choose
from harness.objectives.mae import normalised, patch_values
from harness.objectives.parts.objective import Moment
from harness.objectives.parts.token_decoder import sin_cos_table
from tests.objectives.masked import images, made, pairs

GOLDENS = Path(__file__).parents[1] / "goldens"


def masked(objective: Any, **changes: Any) -> Any:
    noise = torch.rand(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return objective.masked_pixels(changes.pop("pixels", images()), changes.pop("noise", noise))


def test_a_patchs_values_go_by_row_column_and_channel() -> None:
    pixels = torch.arange(3 * 4 * 4.0).view(1, 3, 4, 4)
    values = patch_values(pixels, 2)
    assert values.shape == (1, 4, 12)
    assert values[0, 1].tolist() == [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]


def test_normalised_values_have_mean_0_and_deviation_1_by_n_minus_1() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    expected = (values - 2.5) / (5 / 3 + 1e-6) ** 0.5
    torch.testing.assert_close(normalised(values), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("stem", ["mae_pretrain", "mae_rawpixel"])
def test_the_table_of_positions_is_the_released_one(stem: str) -> None:
    golden = read_golden(GOLDENS / f"{stem}.safetensors")
    side = golden.config["img_size"] // golden.config["patch_size"]
    for name in ("pos_embed", "decoder_pos_embed"):
        theirs = golden.tensors[f"weight.{name}"]
        table = sin_cos_table(theirs.shape[-1], (side, side)).double()
        torch.testing.assert_close(table, theirs, rtol=0, atol=1e-7)


def test_the_pixels_that_are_seen_count_as_input_alone() -> None:
    objective = made("mae")
    found = masked(objective)
    assert found.hidden.sum(dim=1).tolist() == [48] * 4
    assert found.tokens.states.shape == (4, 17, 24)
    errors = (found.prediction - normalised(found.target)).square().mean(-1)
    torch.testing.assert_close(found.loss, errors[found.hidden == 1].mean())
    changed = images()
    patch = int((found.hidden[0] == 1).nonzero()[0])
    row, column = 8 * (patch // 8), 8 * (patch % 8)
    changed[0, :, row : row + 8, column : column + 8] += torch.randn(3, 8, 8, dtype=torch.float64)
    again = masked(objective, pixels=changed)
    assert torch.equal(again.prediction, found.prediction)
    assert again.loss != found.loss


def test_draws_follow_seed_epoch_and_sample_not_the_step() -> None:
    objective = made("mae", {"contrast_weight": 0.0})
    one = objective(pairs(), Moment(seed=1, epoch=1, step=3))
    assert set(one) == {"pixels"}
    assert torch.equal(objective(pairs(), Moment(seed=1, epoch=1, step=4))["pixels"], one["pixels"])
    assert not torch.equal(objective(pairs(), Moment(seed=1, epoch=2, step=3))["pixels"], one["pixels"])


@pytest.mark.parametrize("method", ["tome", "topk"])
def test_the_decoder_reads_merged_tokens_at_their_patches_and_mask_tokens_where_patches_are_gone(method: str) -> None:
    sizes = {"depth": 12}
    whole, reduced = made("mae", sizes=sizes), made("mae", method=method, ratio=0.6, sizes=sizes)
    read: list[Any] = []
    for objective in (whole, reduced):
        objective.decoder.register_forward_pre_hook(lambda _, given: read.append(given))
    first, second = masked(whole), masked(reduced)
    assert second.tokens.states.shape[1] < first.tokens.states.shape[1] == 17
    (_, _, seen, _), (_, states, here, places) = read
    assert torch.equal(places, torch.arange(64).expand(4, -1))
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(seen, first.hidden == 0)
    origin = second.tokens.origin
    if method == "tome":
        assert torch.equal(here, seen)
        assert second.tokens.sizes.sum(dim=1).tolist() == [17] * 4
    else:
        assert (here.sum(dim=1) < 16).all()
        assert not (here & ~seen).any()
    for image, patch in here.nonzero()[:20].tolist():
        assert torch.equal(states[image, patch], second.tokens.states[image, 1 + origin[image, patch]])
    second.loss.backward()
    assert reduced.host.vision.get_parameter("embeddings.patch_embedding.weight").grad.abs().sum() > 0


def test_it_sums_with_the_hosts_own_objective_and_trains_a_host_with_a_temperature() -> None:
    objective = made("mae", family="albef")
    losses = objective(pairs(), Moment())
    assert set(losses) == {"contrast", "pixels"}
    objective.host.temperature.data.fill_(5.0)
    objective.after_step()
    assert objective.host.temperature == 1.0
    assert choose("clip-tiny", "clip+0.5*mae", {"mae": {"contrast_weight": 0}}).name == "clip+0.5*mae"


def test_a_host_without_contrast_is_refused_unless_only_pixels_are_asked_for() -> None:
    with pytest.raises(HarnessError, match="objective mae: Meter has no contrast of images and texts; take a host"):
        made("mae", family="meter")
    objective = made("mae", {"contrast_weight": 0.0}, family="meter")
    assert set(objective(pairs(), Moment())) == {"pixels"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mask_ratio": 0.999}, "objective mae: mask_ratio 0.999 leaves none of 64 patches"),
        ({"mask_ratio": 1.5}, "objective mae: mask_ratio: Input should be less than 1"),
        ({"decoder_width": 30, "decoder_heads": 2}, "decoder_width 30: expected a multiple of 4"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(HarnessError, match=reason):
        made("mae", settings)


def test_the_decoders_default_width_is_two_thirds_of_the_towers_in_heads_of_32() -> None:
    objective = made("mae", {"decoder_width": None, "decoder_heads": None}, sizes={"width": 96, "heads": 3})
    assert objective.decoder.width == 64
    assert objective.decoder.blocks[0].attn.num_heads == 2
