"""`harness.reduce`: other image sizes, gradient checkpointing, guides, and one budget only."""

import pytest
import timm
import torch

import harness
from harness.kit.errors import HarnessError
from harness.reduction import Trace, encode


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=96, depth=6, **options).eval()


SCHEDULES = {"elip": "begin=1,3,4 keep=.9,.7,.5 lookahead=1,1,1", "evit": "begin=1,3 keep=.8,.6", "tome": None}


@pytest.mark.parametrize("method", SCHEDULES)
@pytest.mark.parametrize("size", [(96, 96), (160, 160), (64, 96), (32, 32)])
def test_the_ratio_is_of_the_tokens_that_are_there(method, size):
    reduced = harness.reduce(vit(dynamic_img_size=True), method, ratio=0.7, schedule=SCHEDULES[method])
    images = torch.randn(2, 3, *size)
    guide = harness.Guide(torch.randn(2, 192)) if method == "elip" else None
    count = size[0] // 16 * (size[1] // 16)
    if count < 16:
        with pytest.raises(HarnessError, match=r"is not reachable|keeps more tokens"):
            reduced(images, guide)
        return
    trace = Trace()
    reducer = reduced._fitting(count)
    with torch.no_grad():
        reduced(images, guide)
        encode(reduced.tower, reducer, images, guide, trace)
    assert sum(kept - 1 for kept in trace.mlp) / 6 / count == pytest.approx(0.7, abs=0.02)
    assert max(trace.mlp) <= count + 1


def test_images_of_another_size_are_refused_where_the_method_was_made_for_one():
    reduced = harness.reduce(vit(dynamic_img_size=True), "tome", r=2)
    with pytest.raises(HarnessError, match="was made for 36 patches and got 100"):
        encode(reduced.tower, reduced.reducer, torch.randn(1, 3, 160, 160))


def test_gradient_checkpointing_of_the_model_is_honoured():
    def mlp_passes(model, blocks):
        passes = []
        hooks = [block.mlp.register_forward_pre_hook(lambda *_: passes.append(1)) for block in blocks]
        model(torch.randn(2, 3, 96, 96)).sum().backward()
        for hook in hooks:
            hook.remove()
        return len(passes)

    model = vit().train()
    plain = harness.reduce(model, "tome", r=2)
    model.set_grad_checkpointing(True)
    saving = harness.reduce(model, "tome", r=2)
    assert mlp_passes(plain, plain.model.blocks) == 6
    assert mlp_passes(saving, saving.model.blocks) == 12


def test_a_missing_guide_is_said_once_and_strict_refuses_it(capsys):
    images = torch.randn(1, 3, 96, 96)
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    with torch.no_grad():
        reduced(images)
        reduced(images)
    assert capsys.readouterr().err.count("without a guide keeps all tokens") == 1
    with pytest.raises(HarnessError, match="without a guide keeps all tokens"):
        harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"], strict=True)(images)


def test_a_guide_of_another_width_is_one_line():
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    with pytest.raises(HarnessError, match="guide of width 768: expected the tower's, 192"):
        reduced(torch.randn(1, 3, 96, 96), harness.Guide(torch.randn(1, 768)))


def test_a_setting_and_a_ratio_do_not_both_set_the_budget():
    with pytest.raises(HarnessError, match=r"r=8\.0 and ratio 0\.7 both set its budget"):
        harness.reduce(vit(), "tome", r=8, ratio=0.7)
    with pytest.raises(HarnessError, match=r"keep_rate=0\.5 and ratio 0\.7 both set its budget"):
        harness.reduce(vit(), "evit", keep_rate=0.5, ratio=0.7, blocks=(1, 3))
