"""MADTP: both sides reduced by their own counts, the program's batch count as a setting, and the alignment loss."""

from dataclasses import replace

import pytest
import torch

from harness.check.method import small_vit
from harness.cost.report import cost_report
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import encode, reducing
from harness.reduction.budget import make_reducer

IDS = torch.tensor([[2, 40, 41, 42, 43, 44, 45, 3], [2, 50, 51, 52, 3, 0, 0, 0], [2, 60, 61, 62, 63, 64, 3, 0]])


def small(name):
    torch.manual_seed(0)
    return build_host(name, depth=4, width=24, heads=3, image_size=32).double().eval()


def made(shape, **settings):
    torch.manual_seed(1)
    return make_reducer("madtp", shape, settings={"alignment_tokens": 5, **settings}).double().eval()


def images(count):
    return torch.randn(count, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def test_of_one_image_the_program_s_count_is_its_own():
    tower = open_tower(small_vit())
    for row in images(3):
        with torch.no_grad():
            own, released = (
                encode(tower, made(tower.shape, temperature=6.0, by_batch=flag), row[None]).states
                for flag in (False, True)
            )
        assert own.shape[1] < 40
        assert torch.equal(own, released)


def test_in_a_batch_the_program_s_count_is_the_largest():
    tower = open_tower(small_vit())
    with torch.no_grad():
        released = encode(tower, made(tower.shape, temperature=6.0, by_batch=True), images(6))
        own = encode(tower, made(tower.shape, temperature=6.0), images(6))
    assert released.mask is None
    assert released.states.shape[1] >= int(own.standing.sum(1).max())
    assert len(set(own.standing.sum(1).tolist())) > 1


def test_a_map_that_is_the_identity_changes_nothing():
    tower = open_tower(small_vit())
    plain, mapped = made(tower.shape, temperature=6.0), made(tower.shape, temperature=6.0, mapped=True)
    assert [name for name, _ in mapped.named_parameters()][1:] == ["maps.vision.weight", "maps.vision.bias"]
    mapped.alignment.data.copy_(plain.alignment)
    mapped.maps["vision"].weight.data.copy_(torch.eye(24))
    mapped.maps["vision"].bias.data.zero_()
    with torch.no_grad():
        one, other = (encode(tower, each, images(2)).states for each in (plain, mapped))
    assert torch.equal(one, other)


@pytest.mark.parametrize("host", ["albef-tiny", "blip-tiny", "meter-tiny", "clip-tiny"])
def test_texts_are_reduced_and_a_batch_equals_its_texts_one_by_one(host):
    model, mask = small(host), IDS > 0
    reducer = made(model.shape, temperature=6.0)
    with torch.no_grad(), reducing(reducer):
        together = model.encode_text(IDS, mask)
        assert int(together.standing.sum()) < int(mask.sum())
        for row in range(len(IDS)):
            length = int(mask[row].sum())
            alone = model.encode_text(IDS[row : row + 1, :length], mask[row : row + 1, :length])
            assert torch.allclose(alone.states[0], together.states[row][together.standing[row]], atol=1e-12)


def test_a_causal_text_keeps_its_last_token():
    """The token at which CLIP's text is pooled is never the pooled one, whatever its importance."""
    model, mask = small("clip-tiny"), IDS > 0
    with torch.no_grad(), reducing(made(model.shape, temperature=1e6)):
        read = model.encode_text(IDS, mask)
    ends = mask.sum(1) - 2
    for row, end in enumerate(ends.tolist()):
        assert (read.origin[row] == read.origin[row, end]).sum() == 1


def test_the_alignment_loss_reaches_both_sides():
    model, mask = small("albef-tiny"), IDS > 0
    reducer = made(model.shape, temperature=6.0).train()
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with reducing(reducer):
        texts = model.text_batch(IDS, mask)
        tokens = encode(open_tower(model.vision), reducer, pixels, model.guide(texts))
    assert reducer.losses(replace(tokens, notes={}), None) == {}
    loss = reducer.losses(tokens, None)["alignment"]
    assert 0 < float(loss.detach()) < 0.2
    loss.backward()
    for side in (model.text[0].attention.self.query.weight, model.vision.patch_embed.proj.weight, reducer.alignment):
        assert float(side.grad.abs().max()) > 0


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"alignment_tokens": 0}, {"least": 0}])
def test_bad_settings_are_refused_in_one_line(settings):
    with pytest.raises(HarnessError, match=next(iter(settings))) as refusal:
        make_reducer("madtp", open_tower(small_vit()).shape, settings=settings)
    assert "\n" not in str(refusal.value)


def test_its_cost_without_images_is_refused():
    with pytest.raises(HarnessError, match="measured on images"):
        cost_report("deit_small_patch16_224", "madtp")
