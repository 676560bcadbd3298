"""The `cost --json` object: its keys, what it holds for ELIP, its text, and its errors."""

import json

import pytest
import timm

from harness.cost.cost import Cost, extra_parts
from harness.cost.report import cost_report
from harness.kit.errors import HarnessError
from harness.kit.registry import costs
from harness.report.cost_text import render_cost

PHASES = {f"{name}_gmacs" for name in ("main", "scoring", "matching", "predictor", "total")}


def test_keys_are_the_contracts():
    report = cost_report("test_vit", "elip", image_size=48, schedule="begin=1,2 keep=.8,.5", latency=True)
    assert list(report) == [
        *(
            "model",
            "method",
            "config",
            "image_size",
            "params_m",
            "ratio",
            "tokens_per_block",
            "tokens_per_mlp",
        ),
        *("forward", "train_step", "dense", "parts", "memory", "latency"),
    ]
    assert set(report["forward"]) == set(report["train_step"]) == PHASES
    assert set(report["dense"]) == {"forward_gmacs", "train_step_gmacs"}
    assert set(report["memory"]) == {"train_mib_per_image", "train_mib_fixed", "attention", "source"}
    assert {"median_ms", "iqr_ms", "dense_median_ms", "ratio", "runs"} <= set(report["latency"])
    assert report["parts"] is None
    json.dumps(report)


def test_elip_on_vit_base_at_256_pixels():
    report = cost_report("vit_base_patch16_224", "elip", image_size=256, gib=24)
    assert report["tokens_per_block"] == report["tokens_per_mlp"] == [257] * 2 + [232] * 2 + [168] * 6 + [104] * 2
    assert report["ratio"] == pytest.approx(0.71, abs=0.005)
    # facts/published_figures.yaml, exact_vit_base_256
    assert report["forward"]["total_gmacs"] == pytest.approx(28.508, rel=1e-3)
    for part in ("forward", "train_step"):
        total = sum(value for name, value in report[part].items() if name != "total_gmacs")
        assert report[part]["total_gmacs"] == pytest.approx(total, rel=1e-12)
    assert report["forward"]["scoring_gmacs"] > 0
    assert report["dense"] == {
        "forward_gmacs": pytest.approx(23.197, rel=1e-3),
        "train_step_gmacs": pytest.approx(69.44, rel=1e-3),
    }
    assert report["train_step"]["total_gmacs"] <= 0.885 * report["dense"]["train_step_gmacs"]
    assert report["memory"]["largest_batch"] > 200
    text = render_cost(report)
    assert "257 x2, 232 x2, 168 x6, 104 x2" in text
    assert "scoring" in text
    assert "122.9%" in text
    assert "largest batch" in text
    assert len(text.splitlines()) < 25
    assert max(map(len, text.splitlines())) < 110


@pytest.mark.parametrize("method", ["random", "elip", "tome"])
def test_ratio_one_costs_what_dense_costs(method):
    schedule = None if method == "tome" else "begin=1,2 keep=.8,.5"
    report = cost_report("test_vit", method, ratio=1.0, schedule=schedule)
    assert report["forward"]["total_gmacs"] == report["dense"]["forward_gmacs"]
    assert report["train_step"]["total_gmacs"] == report["dense"]["train_step_gmacs"]


def test_a_budget_of_macs():
    report = cost_report("test_vit", "evit", ratio=0.7, match="macs", settings={"blocks": [1, 3]})
    assert report["forward"]["total_gmacs"] / report["dense"]["forward_gmacs"] == pytest.approx(0.7, abs=0.01)


def test_a_built_tower_is_reported_as_it_is():
    model = timm.create_model("test_vit", num_classes=0)
    report = cost_report(model, "evit", settings={"blocks": [1]}, name="mine", attention="math")
    assert (report["model"], report["memory"]["attention"]) == ("mine", "math")
    assert report["params_m"] == sum(parameter.numel() for parameter in model.parameters()) / 1e6
    with pytest.raises(HarnessError, match="image size 64: mine was built for"):
        cost_report(model, "dense", name="mine", image_size=64)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "vit_base_patch16_225",
            {},
            "unknown model 'vit_base_patch16_225': did you mean vit_base_patch16_224",
        ),
        ("resnet18", {}, "model resnet18 is a ResNet: expected a timm VisionTransformer"),
        ("vit_small_patch16_18x2_224", {}, "ParallelThingsBlock blocks"),
        (
            "vit_base_patch16_224",
            {"image_size": 250},
            "image size 250: expected a multiple of the patch size 16",
        ),
        ("vit_base_patch16_224", {"attention": "flash"}, "attention 'flash': expected fused or math"),
        ("vit_base_patch16_224", {"match": "flops"}, "match 'flops': expected tokens or macs"),
        ("vit_base_patch16_224", {"ratio": 0.0}, "ratio 0.0: expected a number above 0"),
        ("vit_base_patch16_224", {"ratio": 0.01, "method": "elip"}, "ratio 0.01 is not reachable"),
        ("vit_base_patch16_224", {"method": "elipp"}, "unknown method 'elipp': did you mean elip"),
        ("vit_base_patch16_siglip_224", {"method": "elip"}, "needs a class token"),
    ],
)
def test_bad_input_ends_in_one_line(model, options, message):
    with pytest.raises(HarnessError, match=message) as caught:
        cost_report(model, options.pop("method", "dense"), **options)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(HarnessError, match="device cuda: torch finds no GPU here"):
        cost_report("test_vit", "dense", device="cuda")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", None])
def test_a_cost_that_is_no_finite_number_is_named(value, monkeypatch):
    class Odd(Cost):
        """Nothing."""

        def measure(self, model, reducer, report, sample):
            return {"fee": value}

    monkeypatch.setattr(costs, "names", lambda: ["odd"])
    monkeypatch.setattr(costs, "get", lambda name: Odd)
    with pytest.raises(HarnessError, match=f"cost odd: fee is {value!r}, expected a finite number"):
        extra_parts(None, None, {}, None)
