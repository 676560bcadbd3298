"""The golden files of mae, moca and aclip fail where a setting, a draw or a gradient is another one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.check.golden.file import read_golden
from harness.check.golden.method import check_method, lines
from tests.check.test_golden import GOLDENS, _edited

CHANGES: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("mae_pretrain", lambda config, _: config.update(norm_pix_loss=False)),
    ("mae_pretrain", lambda _, tensors: tensors["input.noise"].neg_()),
    ("mae_pretrain", lambda _, tensors: tensors["grad.mask_token"].mul_(1.001)),
    ("mae_rawpixel", lambda config, _: config.update(mask_ratio=0.25)),
    ("mae_rawpixel", lambda config, _: config.update(decoder_num_heads=2)),
    ("moca_step", lambda config, _: config.update(kappa=5.0)),
    ("moca_step", lambda config, _: config.update(momentum=0.99)),
    ("moca_step", lambda config, _: config.update(skip_offset=1)),
    ("moca_step", lambda config, _: config.update(avg_pooling=False)),
    ("moca_step", lambda config, _: config.update(early_layer=2)),
    ("moca_step", lambda config, _: config.update(dec_mask_ratio=[0.35, 0.45])),
    ("moca_step", lambda _, tensors: tensors["input.new_word_inner_token"].add_(1)),
    ("moca_step", lambda _, tensors: tensors["output.after.encoder_pred.bn_running_mean"].add_(1e-6)),
    ("aclip_mask", lambda config, _: config.update(ratio=0.6)),
    ("aclip_mask", lambda _, tensors: tensors["input.positions"][:, 2, 0].sub_(1)),
    ("aclip_step", lambda config, _: config.update(ssl_temperature=0.2)),
    ("aclip_step", lambda config, _: config.update(momentum=0.99)),
    ("aclip_step", lambda config, _: config.update(mask_ratio=0)),
    ("aclip_step", lambda _, tensors: tensors["grad.transformer.resblocks.0.attn.in_proj_weight"].mul_(1.001)),
    ("aclip_step", lambda _, tensors: tensors["grad.image_projection"].mul_(1.001)),
]


@pytest.mark.parametrize(("stem", "change"), CHANGES)
def test_a_wrong_setting_or_value_fails(tmp_path: Path, stem: str, change: Callable[[Any, Any], Any]) -> None:
    source = next(path for path in GOLDENS if path.stem == stem)
    [(line, good)] = lines([_edited(source, tmp_path / f"{stem}.safetensors", change)])
    assert not good
    assert "FAIL" in line


@pytest.mark.parametrize(
    ("stem", "least"), [("mae_pretrain", 12), ("moca_step", 28), ("aclip_mask", 4), ("aclip_step", 26)]
)
def test_every_output_and_gradient_of_a_file_is_compared(stem: str, least: int) -> None:
    golden = read_golden(next(path for path in GOLDENS if path.stem == stem))
    errors = check_method(golden)
    assert set(errors) == {*golden.part("output"), *(f"grad.{name}" for name in golden.part("grad"))}
    assert len(errors) >= least
