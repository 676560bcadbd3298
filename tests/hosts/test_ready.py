"""Facts about hosts that are ready to evaluate: sizes, and what is told of the weights they are filled from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, Specials
from harness.hosts.ready import account, load_host
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.own import save_weights
from harness.hosts.weights.released import LoadReport
from harness.objectives.albef import AlbefObjective
from harness.objectives.parts.recipe import recipe_of
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer


@pytest.fixture(scope="module")
def their_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers' CLIP of clip-tiny's sizes, with a vocabulary."""
    torch.manual_seed(0)
    shared = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 3, "hidden_act": "gelu"}
    vision = {**shared, "image_size": 64, "patch_size": 8, "num_hidden_layers": 12}
    text = {**shared, "vocab_size": 157, "max_position_embeddings": 48, "num_hidden_layers": 3}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96)).save_pretrained(folder)
    shutil.copy(assets_of("albef-tiny") / VOCABULARY_FILE, folder)
    return folder


def test_a_released_file_is_accounted_for_in_one_line_on_stderr(
    their_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = load_host("clip-tiny", their_clip, "cpu", "float64")
    tensors = len(host.model.state_dict())
    told = capsys.readouterr().err
    expected = f"warning: weights {their_clip}/model.safetensors: {tensors} tensors loaded, 0 of them resized\n"
    assert told == expected


def test_another_image_size_resizes_the_position_table(their_clip: Path) -> None:
    told: list[str] = []
    host = load_host("clip-tiny", their_clip, "cpu", "float32", image_size=96, warn=told.append)
    assert host.model.config.image_size == 96
    assert host.model.encode_image(torch.zeros(1, 3, 96, 96)).states.shape == (1, 1 + 12 * 12, 96)
    assert [line.rpartition(", ")[2] for line in told] == ["1 of them resized"]


def test_our_own_files_are_loaded_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    load_host("albef-tiny", None, "cpu", "float32")
    assert capsys.readouterr().err == ""


def test_a_host_and_its_method_are_trained_saved_loaded_and_evaluated_as_one(tmp_path: Path) -> None:
    """They travel as two arguments; an objective is one module of both, and a file of weights holds both."""
    torch.manual_seed(0)
    model = build_host("albef-tiny")
    reducer: TokenReducer[Any] = make_reducer("dynamicvit", model.shape, ratio=0.7)
    objective = AlbefObjective(
        model, reducer, Specials(pad=0, begin=2, end=3, mask=4, unknown=1), recipe_of("albef-tiny", {})
    )
    for training in (True, False):
        objective.train(training)
        assert (model.training, reducer.training) == (training, training)
    held = {id(parameter) for parameter in objective.parameters()}
    assert all(id(parameter) in held for part in (model, reducer) for parameter in part.parameters())
    save_weights(model, tmp_path / "model.safetensors", "albef-tiny", torch.float32, ("dynamicvit", reducer))
    host = load_host("albef-tiny", tmp_path / "model.safetensors", "cpu", "float32")
    loaded = host.method("dynamicvit", reducer.config)
    assert (host.model.training, loaded.training) == (False, False)
    for own, other in ((model, host.model), (reducer, loaded)):
        assert own.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in own.state_dict().items())


def test_what_was_not_loaded_and_what_was_not_there_are_counted_by_reason() -> None:
    report = LoadReport(
        loaded=["a", "b", "c"],
        resized=["b (1, 2) -> (1, 5)"],
        left_out={"a_m": "momentum twin", "b_m": "momentum twin", "x": "double of a", "y": "double of b", "z": "queue"},
        missing=["head.weight", "head.bias"],
        reasons={"head.weight": "files of retrieval lack it", "head.bias": "files of retrieval lack it"},
    )
    assert account(report) == (
        "3 tensors loaded, 1 of them resized; 5 not loaded (2: momentum twin; 2: double of one that was; 1: queue); "
        "2 not in the file, left as initialised (2: files of retrieval lack it)"
    )


def test_only_the_commonest_reasons_are_told() -> None:
    left = {f"{kind}{number}": f"reason {kind}" for kind in range(5) for number in range(5 - kind)}
    assert account(LoadReport(left_out=left)) == (
        "0 tensors loaded, 0 of them resized; 15 not loaded (5: reason 0; 4: reason 1; 3: reason 2; …)"
    )
