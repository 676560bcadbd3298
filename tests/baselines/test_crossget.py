"""CrossGET: published cost, both towers, padding without part, sizes that add up, and the loss that joins both."""

import pytest
import torch

from harness.check.method import small_vit
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import encode, reducing
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

IDS = torch.tensor([[2, 40, 41, 42, 43, 44, 45, 46, 47, 3], [2, 50, 51, 52, 53, 54, 3, 0, 0, 0]])


def made(shape, **settings):
    torch.manual_seed(1)
    reducer = make_reducer("crossget", shape, settings=settings).double().eval()
    for parameter in reducer.parameters():
        torch.nn.init.normal_(parameter)
    return reducer


def small(name="clip-tiny"):
    torch.manual_seed(0)
    return build_host(name, depth=4, width=24, heads=3, image_size=32).double().eval()


def test_every_block_merges_r_and_the_cross_token_counts():
    reducer = make_reducer("crossget", open_tower(small_vit()).shape, settings={"r_image": 5})
    assert token_counts(reducer).mlp == [*(66 - 5 * block for block in range(1, 12)), 7]  # (11 - 2) // 2 at the end


def test_sizes_sum_to_the_inputs_and_the_cross_token():
    tower = open_tower(small_vit())
    with torch.no_grad():
        tokens = encode(tower, made(tower.shape, r_image=5), torch.randn(2, 3, 64, 64, dtype=torch.float64))
    assert tokens.sizes[:, 0].tolist() == [1, 1]
    assert tokens.sizes.sum(1).tolist() == [66, 66]


@pytest.mark.parametrize("host", ["albef-tiny", "blip-tiny", "meter-tiny", "clip-tiny"])
def test_a_batch_of_texts_equals_its_texts_one_by_one(host):
    model, mask = small(host), IDS > 0
    with torch.no_grad(), reducing(made(model.shape, r_image=2, r_text=1)):
        together = model.encode_text(IDS, mask)
        for row in range(2):
            length = int(mask[row].sum())
            alone = model.encode_text(IDS[row : row + 1, :length], mask[row : row + 1, :length])
            assert alone.states.shape[1] < length + 1
            assert torch.allclose(alone.states[0], together.states[row][together.standing[row]], atol=1e-12)


def test_a_causal_text_keeps_its_end_token_alone():
    model, mask = small(), IDS > 0
    with torch.no_grad(), reducing(made(model.shape, r_image=2, r_text=3)):
        read = model.encode_text(IDS, mask)
    for row, end in enumerate((mask.sum(1) - 2).tolist()):
        assert int((read.origin[row] == read.origin[row, end]).sum()) == 1


def test_the_loss_draws_both_towers_cross_tokens_together():
    model = small()
    reducer = made(model.shape, r_image=2).train()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with reducing(reducer):
        guide = model.guide(model.text_batch(IDS, IDS > 0))
        tokens = encode(open_tower(model.vision), reducer, images, guide)
    assert reducer.losses(encode(open_tower(model.vision), reducer, images), None) == {}
    losses = reducer.losses(tokens, None)
    assert float(losses["cross"].detach()) > 0
    losses["cross"].backward()
    for parameter in reducer.parameters():
        assert float(parameter.grad.abs().max()) > 0
    # The projections into the shared space and its norms learn nothing of it.
    assert model.image_projection.weight.grad is None
    assert model.text_projection.weight.grad is None


def test_the_same_cross_tokens_have_no_divergence():
    import importlib

    from harness.kit.registry import methods

    distillation = importlib.import_module(methods.get("crossget").__module__).distillation
    one, other = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 5).double()
    assert float(distillation(one, one)) == pytest.approx(0, abs=1e-15)
    assert float(distillation(one, other)) == pytest.approx(float(distillation(other, one)))


@pytest.mark.parametrize("settings", [{"r_image": -1}, {"r_text": -1}, {"kd_weight": 1}])
def test_bad_settings_are_refused_in_one_line(settings):
    with pytest.raises(HarnessError, match=next(iter(settings))) as refusal:
        make_reducer("crossget", open_tower(small_vit()).shape, settings=settings)
    assert "\n" not in str(refusal.value)
