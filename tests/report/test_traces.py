"""The picture of kept patches, of a method that learned with the host's weights."""

from dataclasses import replace

import pytest
import torch

from harness.hosts.ready import load_host
from harness.hosts.weights.own import LearnedMethod
from harness.kit.errors import HarnessError
from harness.reduction.budget import make_reducer
from harness.report.traces import kept_examples, pictured_scenes


def test_a_learned_method_is_drawn_as_it_was_learned_whatever_the_ratio():
    host = load_host("albef-tiny", None, "cpu", "float32")
    with pytest.raises(HarnessError, match="method sit learns, and these weights hold none of it"):
        kept_examples(host, ["sit"], 0.5, pictured_scenes(1))
    torch.manual_seed(0)
    made = make_reducer("sit", host.model.shape, ratio=0.7)
    learned = LearnedMethod("sit", made.config.model_dump(mode="json"), dict(made.state_dict()))
    (example,) = kept_examples(replace(host, learned=learned), ["sit"], 0.5, pictured_scenes(1))
    assert [stage.label for stage in example.methods["sit"]] == ["block 3", "block 6", "block 9"]
