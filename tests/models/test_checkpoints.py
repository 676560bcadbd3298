"""Facts about weights on disk: they come back as they went, and bad files are named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.data.scene_text import ANSWERS
from harness.errors import HarnessError
from harness.models.albef import Albef, build_albef
from harness.models.checkpoints import (
    load_model,
    read_answers,
    read_weights,
    save_weights,
    tensors_digest,
    weights_file,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Albef, Path, str]:
    torch.manual_seed(3)
    model = build_albef("tiny")
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    return model, path, save_weights(model, path, "albef-tiny")


def test_weights_come_back_in_float32_rounded_to_float16(saved: tuple[Albef, Path, str]) -> None:
    model, path, digest = saved
    loaded = load_model("albef-tiny", path)
    assert loaded.weights_digest == digest
    assert not loaded.model.training
    for key, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.state_dict()[key].half().float())


def test_metadata_names_the_model(saved: tuple[Albef, Path, str]) -> None:
    metadata = read_weights(saved[1])[1]
    assert (metadata["architecture"], metadata["preset"], metadata["sha256"]) == ("albef", "tiny", saved[2])


def test_the_digest_sees_every_bit_and_no_order() -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.zeros(2)}
    assert tensors_digest(tensors) == tensors_digest(dict(reversed(tensors.items())))
    assert tensors_digest(tensors) != tensors_digest(tensors | {"b": torch.tensor([0.0, 1e-30])})
    assert tensors_digest(tensors) != tensors_digest(tensors | {"b": torch.zeros(2, 1)})


def test_shipped_weights_load_and_fit_the_package() -> None:
    loaded = load_model("albef-tiny")
    assert loaded.answers == ANSWERS == read_answers("albef-tiny")
    assert weights_file("albef-tiny").stat().st_size <= 8_000_000
    assert loaded.weights_digest == read_weights(loaded.weights)[1]["sha256"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"absent.safetensors: no such file"):
        load_model("albef-tiny", tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 1000, -1000])
def test_a_truncated_file_is_named(tmp_path: Path, saved: tuple[Albef, Path, str], kept: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(saved[1].read_bytes()[:kept])
    with pytest.raises(HarnessError, match="not a whole safetensors file") as caught:
        load_model("albef-tiny", path)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are no weights" * 100)
    with pytest.raises(HarnessError, match="not a whole safetensors file"):
        load_model("albef-tiny", path)


def test_weights_of_another_model_are_named_by_their_first_differences(
    tmp_path: Path, saved: tuple[Albef, Path, str]
) -> None:
    tensors = dict(read_weights(saved[1])[0])
    tensors["temperature"] = torch.zeros(2)
    tensors["stranger"] = tensors.pop("match_head.bias")
    save_file(tensors, tmp_path / "other.safetensors")
    expected = r"lacks match_head.bias; has unknown stranger; temperature is \(2,\), expected \(\)"
    with pytest.raises(HarnessError, match=expected):
        load_model("albef-tiny", tmp_path / "other.safetensors")


def test_many_differences_are_counted(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(HarnessError, match=r"of another model: .* and \d+ more$"):
        load_model("albef-tiny", tmp_path / "other.safetensors")


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(HarnessError, match=r"'albef-huge'.*albef-tiny"):
        load_model("albef-huge")


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        save_weights(build_albef("tiny"), tmp_path / "file" / "model.safetensors", "albef-tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
