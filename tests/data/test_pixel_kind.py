"""Pictures of another kind than a host was trained on are told apart; the world's own are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.pixel_kind import KIND_FILE, Pictures, PixelKind, describe, kind_beside
from harness.data.scenes import write_scenes
from harness.hosts.weights.find import assets_of
from harness.kit.errors import HarnessError

from ..photographs import photograph_like


def array_of(picture: Image.Image) -> Pictures:
    """(3, H, W) in 0..1."""
    return (np.asarray(picture.convert("RGB"), dtype=np.float32) / 255).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "val", 60, 7)
    return np.stack([array_of(Image.open(path)) for path in sorted((folder / "images").iterdir())])


def test_the_numbers_are_what_they_are_called() -> None:
    half = np.zeros((1, 3, 4, 4))
    half[:, 0, :, 2:] = 1  # the right half is red: one of three steps to the right is an edge, none below
    mean, sd, flat = np.split(describe(half)[0], [3, 6])
    assert mean.tolist() == [0.5, 0, 0]
    assert sd.tolist() == pytest.approx([np.std([0.0, 1.0] * 8, ddof=1), 0, 0])
    assert flat.item() == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("host", ["albef-tiny", "blip-tiny"])
def test_the_shipped_hosts_know_scenes_and_no_photographs(host: str, scenes: Pictures) -> None:
    kind = kind_beside(assets_of(host) / "model.safetensors")
    assert kind is not None
    assert kind.data == "scenes"
    assert kind.unlike(scenes) == 0
    photographs = np.stack([array_of(photograph_like(seed)) for seed in range(20)])
    assert kind.unlike(photographs) == 1
    assert kind.unlike(np.concatenate([scenes[:15], photographs[:5]])) == 0.25
    assert kind_beside(assets_of(host) / "nlvr2" / "model.safetensors") == kind  # those of a task belong to it


def test_a_kind_is_that_of_its_own_pictures_and_is_read_back(scenes: Pictures, tmp_path: Path) -> None:
    kind = PixelKind.of("mine", scenes)
    assert kind.unlike(scenes) == 0
    assert kind.unlike(1 - scenes * 0.1) == 1
    assert kind_beside(tmp_path / "model.safetensors") is None
    kind.save(tmp_path)
    assert kind_beside(tmp_path / "model.safetensors") == kind
    (tmp_path / KIND_FILE).write_text('{"data": "mine"}')
    with pytest.raises(HarnessError, match="does not say what pictures"):
        kind_beside(tmp_path / "model.safetensors")
