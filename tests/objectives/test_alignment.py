"""Facts about UTA: which patches are seen, what merged tokens are aligned with, who may teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cost.host import NO_WORDS
from harness.hosts.build import build_host
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.objectives import choose
from harness.objectives.parts.alignment import Sources, damage, output_blocks, token_distances, visible_by_importance
from harness.objectives.parts.objective import Moment, Pairs
from harness.objectives.parts.patch_masks import attention_order, block_order
from harness.objectives.parts.recipe import recipe_of
from harness.objectives.uta import UtaObjective
from harness.reduction import Tokens
from harness.reduction.budget import make_reducer

MOMENT = Moment(seed=1, epoch=2)


def made(family: str = "clip", method: str = "dense", ratio: float | None = None, **settings: Any) -> UtaObjective:
    torch.manual_seed(0)
    host = build_host(f"{family}-tiny", depth=4 if ratio is None else 12, text_layers=1)
    choice = choose(f"{family}-tiny", "uta", {"uta": settings})
    reducer = make_reducer(method, host.shape, ratio=ratio)
    objective = choice.make(host, reducer, NO_WORDS, recipe_of(f"{family}-tiny", {}))
    assert isinstance(objective, UtaObjective)
    return objective


def pairs(count: int = 4) -> Pairs:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 100, (count, 5), generator=generator)
    pixels = torch.randn(count, 3, 64, 64, generator=generator)
    return Pairs(pixels, ids, torch.ones_like(ids).bool(), torch.arange(count) * 7 - 3)


def test_a_merged_token_has_the_mean_of_its_patches_and_one_without_any_nothing() -> None:
    # Five patches: 0 and 3 live in token 1, 2 in token 0, 1 is gone, 4 in token 3; token 2 holds none.
    tokens = Tokens(torch.zeros(1, 5, 2), origin=torch.tensor([[1, -1, 0, 1, 3]]))
    sources = Sources.of(tokens)
    assert sources.count.tolist() == [[1, 2, 0, 1]]
    values = torch.tensor([[[2.0], [100.0], [5.0], [4.0], [7.0]]])
    assert sources.mean(values).squeeze().tolist() == [5.0, 3.0, 0.0, 7.0]


def test_distances_are_zero_or_least_for_equal_vectors_and_l2_is_twice_the_cosine() -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 3, 6), dim=-1)
    cosine, l2, mse = (token_distances(first, second, kind) for kind in ("cosine", "l2", "mse"))
    torch.testing.assert_close(l2, 2 + 2 * cosine)
    torch.testing.assert_close(6 * mse, l2)
    torch.testing.assert_close(token_distances(first, first, "cosine"), -torch.ones(3))
    smooth = token_distances(3 * first, 3 * second, "smooth_l1")
    sizes = 3 * (first - second).abs()
    torch.testing.assert_close(smooth, torch.where(sizes < 1, sizes.square() / 2, sizes - 0.5).mean(dim=-1))


def test_outputs_are_counted_back_from_the_last_block() -> None:
    assert output_blocks(12, 3, 2) == (7, 9, 11)


@pytest.mark.parametrize("kind", ["blocks", "attention"])
def test_the_patches_that_are_seen_depend_on_the_sample_alone(kind: str) -> None:
    samples = torch.arange(40) * 31 - 5
    weights = torch.rand(40, 64, generator=torch.Generator().manual_seed(0))

    def order(at: slice, moment: Moment = MOMENT) -> torch.Tensor:
        if kind == "blocks":
            return block_order(samples[at], (8, 8), moment)
        return attention_order(weights[at], samples[at], moment)

    whole = order(slice(None))
    assert (whole.sort(dim=1).values == torch.arange(64)).all()
    assert torch.equal(order(slice(7, 9)), whole[7:9])
    assert not torch.equal(order(slice(None), Moment(seed=1, epoch=3)), whole)
    seen = visible_by_importance(whole, 0.75, 40)
    assert seen.shape == (40, 16)
    assert (seen.diff(dim=1) > 0).all()


def test_blocks_stay_together_and_attention_draws_in_proportion() -> None:
    seen = visible_by_importance(block_order(torch.arange(200), (8, 8), MOMENT), 0.75, 200)
    grid = torch.zeros(200, 64).scatter(1, seen, 1).view(200, 8, 8)
    beside = (grid[:, :, 1:] * grid[:, :, :-1]).sum() + (grid[:, 1:] * grid[:, :-1]).sum()
    by_chance = 200 * 112 * (16 / 64) * (15 / 63)
    assert beside > 2 * by_chance
    weights = torch.tensor([[3.0, 1.0]]).expand(4000, 2)
    first = attention_order(weights, torch.arange(4000), MOMENT)[:, 0]
    assert (first == 0).double().mean().item() == pytest.approx(0.75, abs=0.02)


def test_a_student_that_is_its_teacher_has_the_teachers_tokens_for_targets() -> None:
    objective = made("albef", mask_ratio=0.0, outputs=2)
    taught, attention = objective.teacher.look(pairs().pixels, objective.taught_by)
    assert len(taught) == 2
    torch.testing.assert_close(taught[0].norm(dim=-1), torch.ones(4, 65))
    assert attention.shape == (4, 64)
    host = objective.teacher.host
    own = host.embed_image(host.encode_image(pairs().pixels))
    torch.testing.assert_close(taught[-1][:, 0], own)


@pytest.mark.parametrize(("method", "ratio"), [("dense", None), ("tome", 0.6), ("evit", 0.6), ("elip", 0.6)])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.5])
def test_every_token_that_is_left_is_aligned(method: str, ratio: float | None, mask_ratio: float) -> None:
    objective = made(method=method, ratio=ratio, mask_ratio=mask_ratio)
    batch = pairs()
    seen = objective.seen(batch, torch.rand(4, 64), MOMENT)
    [left] = objective.student(batch, seen)
    held = Sources.of(left).count
    visible = 64 if seen is None else 32
    assert held.sum(dim=1).max() <= visible
    assert (held > 0).all() or method == "evit"
    assert held.shape[1] == visible if method == "dense" else held.shape[1] < visible
    loss = objective(batch, MOMENT)["alignment"]
    assert -1 <= loss.item() <= 1
    loss.backward()
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


def test_damage_is_nothing_without_a_reduction_and_what_a_token_turned_by_with_one() -> None:
    dense = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    whole = Tokens(dense * 3, origin=torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(damage(whole, dense), torch.zeros(1, 2))
    # Patches 0 and 1 are merged into a token that points as their mean does; 2 is turned by 60 degrees.
    states = torch.tensor([[[0.0, 2.0], [1.0, 1.0], [3**0.5, 1.0], [9.0, 9.0]]])
    merged = Tokens(states, torch.tensor([[True, True, True, False]]), origin=torch.tensor([[0, 0, 1]]))
    torch.testing.assert_close(damage(merged, dense), torch.tensor([[0.25, 1.0]]))


def test_what_cannot_teach_or_be_masked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"]))
    for name, sizes in (("clip-tiny", {"image_size": 32}), ("meter-tiny", {})):
        save_weights(build_host(name, depth=1, text_layers=1, **sizes), tmp_path / "model.safetensors", name)
        reason = "has no space that" if sizes == {} else "reads 32 pixels in patches of 8, the host 64"
        with pytest.raises(HarnessError, match=f"teacher {tmp_path}: {reason}"):
            made(teacher=str(tmp_path))
    with pytest.raises(HarnessError, match="weights nobody: no such file or folder"):
        made(teacher="nobody")
    with pytest.raises(HarnessError, match=r"14 outputs every 1 blocks: more than student and teacher have \(4 and 12"):
        made(outputs=14)
    with pytest.raises(HarnessError, match="objective uta: DynamicViT cannot be fitted to the 32 patches"):
        made(method="dynamicvit", ratio=0.6)
