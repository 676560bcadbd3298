"""The methods compute what the authors' released programs compute, values and gradients."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness.check.golden.method import TOLERANCE, check_file, lines
from harness.kit.errors import HarnessError

GOLDENS = sorted((Path(__file__).parent.parent / "goldens").glob("*.safetensors"))


def test_the_goldens_are_here():
    assert {path.name.split("_")[0] for path in GOLDENS} >= {"elip", "evit", "tome", "madtp", "pumer", "crossget"}


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_golden(path):
    assert check_file(path) < TOLERANCE


def _edited(path: Path, out: Path, change) -> Path:
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open handle is no mapping
    change(config, tensors)
    save_file(tensors, out, {"config": json.dumps(config)})
    return out


@pytest.mark.parametrize(
    ("stem", "change"),
    [
        ("elip_albef_schedule", lambda config, _: config.update(vision_weight=0.81)),
        ("elip_albef_schedule", lambda config, _: config.update(keep_tokens=[57, 40, 25])),
        ("elip_albef_schedule", lambda config, _: config.update(lookahead_layers=[2, 5, 2])),
        ("evit_fuse", lambda config, _: config.update(fuse=False)),
        ("evit_fuse", lambda config, _: config.update(keep_rate=0.71)),
        ("tome_constant", lambda config, _: config.update(proportional_attention=False)),
        (
            "tome_decreasing",
            lambda config, _: config.update(r_per_layer=[8, 7, 6, 5, 4, 4, 3, 2, 2, 1, 1, 0]),
        ),
        ("pitome_deit", lambda config, _: config.update(variant="mae")),
        ("pitome_blip", lambda config, _: config.update(margins=[0.7] * 12)),
        ("tofu_deit", lambda config, _: config.update(variant="mae")),
        ("mctf_eval", lambda config, _: config.update(tau_info=10)),
        ("mctf_plain", lambda config, _: config.update(pooling_type=3)),
        ("mctf_train", lambda config, _: config.update(task_weight=[1, 1, 2])),
        ("dynamicvit_eval", lambda config, _: config.update(token_ratio=[0.7, 0.5, 0.343])),
        ("dynamicvit_train", lambda config, _: config.update(mse_token=False)),
        ("dynamicvit_train", lambda _, tensors: tensors["grad_total.score_predictor.0.out_conv.4.weight"].mul_(1.01)),
        ("tps_eval", lambda config, _: config.update(temperature=2)),
        ("tps_train", lambda _, tensors: tensors["input.gumbel.1"].neg_()),
        ("diffrate_eval", lambda config, _: config["merge_kept_num"].__setitem__(4, 46)),
        ("diffrate_train", lambda config, _: config.update(target_flops=4.1)),
        ("ltmp_eval", lambda _, tensors: tensors["weight.blocks.3.prune_masker.threshold"].add_(0.01)),
        ("ltmp_train", lambda config, _: config.update(tau=0.2)),
        ("madtp_vit", lambda config, _: config.update(temperature=7.0)),
        ("madtp_text_reduce", lambda config, _: config.update(temperature=0.1)),
        ("madtp_vit", lambda _, tensors: tensors["grad.space_dict"].mul_(1.001)),
        ("pumer_meter", lambda config, _: config.update(reduce_layers=[0, 2])),
        ("pumer_meter", lambda config, _: config.update(merge_text=0.1)),
        ("pumer_vilt_tip", lambda config, _: config.update(merge_style="tome")),
        ("pumer_vilt_diff", lambda config, _: config.update(sim_method="qk")),
        ("crossget_clip", lambda config, _: config.update(r_text=2)),
        ("crossget_clip", lambda config, _: config.update(kd_weight=0.5)),
        ("crossget_match_text", lambda config, _: config.update(r=3)),
        ("protoclip_loss", lambda config, _: config.update(target_temperature=-1.0)),
        ("protoclip_loss", lambda config, _: config.update(PBT=False)),
        ("protoclip_loss", lambda config, _: config.update(bn_eps=1e-4)),
        ("protoclip_nopbt", lambda config, _: config.update(w_proto=0.6)),
        ("protoclip_nopbt", lambda _, tensors: tensors["grad.logit_scale_proto"].mul_(1.001)),
        ("protoclip_loss", lambda _, tensors: tensors["output.after.image_projection_head.1.running_var"].mul_(1.001)),
        ("lotlip_loss", lambda config, _: config.update(use_declip_loss=False)),
        ("lotlip_loss", lambda config, _: config.update(declip_lossweight=0.9)),
        ("lotlip_loss", lambda _, tensors: tensors["output.attention_mask"].logical_not_()),
        ("lotlip_loss", lambda _, tensors: tensors["grad.text.proj.weight"].mul_(1.001)),
        ("umt_image", lambda config, _: config.update(mask_ratio=0.75)),
        ("umt_image", lambda config, _: config.update(clip_loss_type="mse")),
        ("umt_image", lambda config, _: config.update(clip_loss_ratio=2.0)),
        ("umt_image", lambda _, tensors: tensors["grad.encoder.patch_embed.proj.weight"].mul_(1.001)),
        ("evit_drop", lambda _, tensors: tensors["output.tokens"].add_(1e-7)),
        ("tome_constant", lambda _, tensors: tensors["input.expected_size"].add_(1)),
        ("elip_albef_schedule", lambda _, tensors: tensors["grad.blocks.5.mlp.fc1.weight"].mul_(1.001)),
    ],
)
def test_a_wrong_setting_or_value_fails(tmp_path, stem, change):
    source = next(path for path in GOLDENS if path.stem == stem)
    name = tmp_path / f"{stem}.safetensors"
    [(line, good)] = lines([_edited(source, name, change)])
    assert not good
    assert "FAIL" in line


def test_settings_in_the_released_programs_words_are_understood(tmp_path):
    source = next(path for path in GOLDENS if path.stem == "tome_decreasing")
    path = _edited(source, tmp_path / "tome.safetensors", lambda config, _: config.pop("r_per_layer"))
    assert check_file(path) < TOLERANCE


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for name in ("text", "bare", "absent"):
        with pytest.raises(HarnessError):
            check_file(tmp_path / f"{name}.safetensors")
