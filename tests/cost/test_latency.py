"""Latency records say what was timed; how fast it was is no matter for a test."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.cost.latency import measure_latency
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction.budget import make_reducer


def timed(**options):
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=10)
    reducer = make_reducer("elip", open_tower(model).shape, schedule="begin=1 keep=.5")
    return model, measure_latency(model.train(), reducer, **options)


@pytest.mark.parametrize(("path", "backend"), [("fused", "flash_attention_for_cpu"), ("math", "math")])
def test_a_record_names_what_was_timed(path, backend):
    model, record = timed(batch_size=2, runs=6, attention=path)
    assert set(record) == {
        *("median_ms", "iqr_ms", "dense_median_ms", "ratio", "ratio_iqr", "runs"),
        *("batch_size", "threads", "attention_backend", "device"),
    }
    assert record["attention_backend"] == backend
    assert (record["batch_size"], record["runs"], record["device"]) == (2, 6, "cpu")
    assert record["threads"] == torch.get_num_threads()
    assert min(record["median_ms"], record["dense_median_ms"], record["ratio"]) > 0 <= record["iqr_ms"]
    low, high = record["ratio_iqr"]
    assert 0 < low <= record["ratio"] <= high
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_time_limit_leaves_five_runs():
    assert timed(runs=1000, seconds=0)[1]["runs"] == 5


def test_too_few_runs_are_refused():
    with pytest.raises(HarnessError, match="at least 5 runs"):
        timed(runs=2)
