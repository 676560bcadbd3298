"""Facts about aclip: which patches are seen, what is shown to whom, its slips by name, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.hosts.parts.towers import open_tower
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives import choose
from harness.objectives.aclip import Cropped
from harness.objectives.parts import views
from harness.objectives.parts.attention_mask import in_view, window
from harness.objectives.parts.objective import Moment
from harness.objectives.parts.views import GlobalBatchNorm, simclr_loss
from harness.reduction import PLAIN, drive, kept_blocks, kept_patches, removed_patches
from tests.objectives.masked import images, made, pairs


def cropped() -> Cropped:
    """Four images whose views lie in the left and the right half of the wider crop."""
    plain = pairs()
    boxes = torch.tensor([[0, 0, 64, 32], [0, 32, 64, 32], [0, 0, 64, 64]]).expand(4, -1, -1)
    return Cropped(images(12).unflatten(0, (4, 3)), boxes, plain.ids, plain.mask, plain.sample_ids)


def test_blocks_with_the_largest_attention_stay() -> None:
    attention = torch.zeros(1, 64)
    attention[0, [0, 1, 8, 9]] = torch.tensor([4.0, 0.0, 0.0, 0.0])  # the first block: mean 1
    attention[0, 63] = 3.0
    removed = removed_patches(attention, (8, 8), 0.1)
    assert kept_blocks((8, 8), 0.1) == 2
    assert (~removed[0]).nonzero().flatten().tolist() == [0, 1, 8, 9, 54, 55, 62, 63]
    assert kept_patches(removed, 8).tolist() == [[0, 1, 8, 9, 54, 55, 62, 63]]
    assert kept_blocks((14, 14), 0.5) == 25


def test_equal_blocks_are_taken_in_raster_order() -> None:
    removed = removed_patches(torch.ones(2, 16), (4, 4), 0.5)
    assert kept_patches(removed, 12).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]] * 2


def test_a_view_takes_its_part_of_the_attention_and_zeros_where_it_leaves_the_crop() -> None:
    attention = torch.arange(16.0).repeat(2, 1)
    boxes = torch.tensor([[10, 20, 32, 32], [10, 52, 32, 32]])
    wide = torch.tensor([[10, 20, 32, 32], [10, 20, 32, 32]])
    same, outside = in_view(attention, boxes, wide, (4, 4))
    torch.testing.assert_close(same, attention[0], atol=0.3, rtol=0)
    assert not outside.any()


def test_a_window_may_lie_outside_on_every_side() -> None:
    plane = torch.arange(1.0, 10.0).view(1, 3, 3)
    assert window(plane, -1, 1, 3, 3).tolist() == [[[0, 0, 0], [2, 3, 0], [5, 6, 0]]]
    assert window(plane, 1, 1, 1, 1).tolist() == [[[5]]]
    for top, left in ((5, 0), (-9, 0), (0, 4), (0, -7)):
        assert window(plane, top, left, 2, 2).tolist() == [[[0, 0], [0, 0]]]


def test_the_attention_is_the_mean_over_all_blocks_and_heads() -> None:
    objective = made("aclip", family="albef")
    followed = objective.follow(images(), cropped().boxes, 1.0)
    vision = objective.host.vision
    tokens, rows = vision.norm_pre(vision._pos_embed(vision.patch_embed(images()))), []
    for block in vision.blocks:
        q, k, _ = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, 2, 12)).unbind(2)
        scores = torch.einsum("bmhd,bnhd->bhmn", q, k) / 12**0.5
        rows.append(scores.softmax(-1)[:, :, 0, 1:])
        tokens = block(tokens)
    torch.testing.assert_close(followed.attention, torch.stack(rows).mean(dim=(0, 2)))
    assert followed.kept.shape == (8, 36)
    assert followed.removed.sum(dim=1).tolist() == [28] * 8


def test_the_follower_sees_every_token_and_the_student_the_kept_ones_under_a_reduction() -> None:
    objective = made("aclip", method="tome", ratio=0.7, sizes={"depth": 12})
    followed = objective.follow(cropped().pixels[:, 2], cropped().boxes, 0.9)
    assert followed.attention.shape == (4, 64)
    seen = objective.see(images(8), followed.kept)
    assert seen.tokens.states.shape[1] < 37
    assert seen.tokens.sizes is not None
    assert seen.tokens.sizes.sum(dim=1).tolist() == [37] * 8
    losses = objective(cropped(), Moment())
    assert set(losses) == {"contrast_1", "contrast_2", "simclr", "byol"}


def test_without_the_mask_views_are_seen_whole() -> None:
    objective = made("aclip", {"mask": False})
    followed = objective.follow(images(), cropped().boxes, 1.0)
    seen = objective.see(images(8), followed.kept)
    tower = open_tower(objective.host.vision)
    torch.testing.assert_close(seen.tokens.states, drive(tower, tower.open(images(8)), PLAIN).states)


def test_simclr_gets_the_first_view_twice_as_released_or_both() -> None:
    slip, both = made("aclip"), made("aclip", {"same_view_simclr": False})
    both.load_state_dict(slip.state_dict())
    one, two = slip(cropped(), Moment()), both(cropped(), Moment())
    assert not torch.equal(one["simclr"], two["simclr"])
    assert torch.equal(one["byol"], two["byol"])


def test_simclr_of_equal_views_has_every_negative_twice() -> None:
    rows = F.normalize(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)
    logits = rows @ rows.T / 0.1
    others = logits[~torch.eye(5, dtype=torch.bool)].view(5, 4)
    every = torch.cat([torch.full((5, 1), 10.0, dtype=torch.float64), others, others], dim=1)
    torch.testing.assert_close(simclr_loss(rows, rows, 0.1), (every.logsumexp(1) - 10.0).mean())


def test_the_patch_embedding_stays_and_followers_are_in_the_checkpoint() -> None:
    objective = made("aclip")
    sum(objective(cropped(), Moment()).values()).backward()
    patches = objective.host.vision.get_parameter("embeddings.patch_embedding.weight")
    assert patches.grad is None
    assert not patches.requires_grad
    assert (
        made("aclip", {"freeze_patches": False})
        .host.vision.get_parameter("embeddings.patch_embedding.weight")
        .requires_grad
    )
    state = objective.state_dict()
    assert any(name.startswith("follower.model.") for name in state)
    assert "projector_follower.model.1.running_mean" in state
    assert not any(parameter.requires_grad for parameter in objective.follower.parameters())


def test_the_followers_norms_go_by_the_batch_and_its_momentum_rises_to_one() -> None:
    objective = made("aclip", {"momentum": 0.0})
    before = objective.projector_follower.model[1].running_mean.clone()
    for parameter in objective.host.vision.parameters():
        parameter.data.add_(0.01)
    moved = objective.follower.model.state_dict()["encoder.layers.0.mlp.fc1.weight"].clone()
    objective(cropped(), Moment(done=1.0))
    assert torch.equal(objective.follower.model.state_dict()["encoder.layers.0.mlp.fc1.weight"], moved)
    assert not torch.equal(objective.projector_follower.model[1].running_mean, before)
    objective(cropped(), Moment(done=0.0))
    own = objective.host.vision.state_dict()["encoder.layers.0.mlp.fc1.weight"]
    assert torch.equal(objective.follower.model.state_dict()["encoder.layers.0.mlp.fc1.weight"], own)


def test_norms_of_two_processes_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = nn.BatchNorm1d(3).double()(rows)
    norm = GlobalBatchNorm(3).double()
    monkeypatch.setattr(views.distributed, "world", lambda: 2)
    monkeypatch.setattr(views.distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "gather_with_gradient", lambda own: rows)
    torch.testing.assert_close(norm(rows[3:]), plain[3:])
    norm.eval()
    torch.testing.assert_close(
        norm(rows[3:]),
        rows[3:] / (norm.running_var + norm.eps).sqrt() - norm.running_mean / (norm.running_var + norm.eps).sqrt(),
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "meter"}, "objective aclip: Meter has no contrast of images and texts; take a host that has one"),
        ({"sizes": {"image_size": 56}}, "masks blocks of 2 x 2 patches by class attention, and .* has 7 x 7 patches"),
        ({"settings": {"keep": 1.0}}, "objective aclip: keep: Input should be less than 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(HarnessError, match=reason) as caught:
        made("aclip", **changes)
    assert "\n" not in str(caught.value)


def test_its_batches_are_its_own() -> None:
    with pytest.raises(HarnessError, match="objectives clip and aclip: need different batches"):
        choose("clip-tiny", "clip+aclip")
