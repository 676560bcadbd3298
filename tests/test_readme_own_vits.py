"""The commands that the README shows for a ViT of one's own, run as they stand there, in a folder with such files."""

from __future__ import annotations

import json
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image

from harness.cli.main import main
from tests.hosts.small_towers import TIMM
from tests.hosts.test_weight_files import open_clip_folder, their_clip

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## A ViT of your own")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^python -m harness (run .*)$", SECTION, re.MULTILINE)
FILES = ("timm/vit_base_patch16_224", "transformers/dinov2-base/", "clip-base")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name: my.pth, dinov2-base/, open_clip/ and IMAGES/."""
    torch.manual_seed(0)
    # timm's ViT by its name, as narrow and for as small images as a test has time for.
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **TIMM))
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        path = tmp_path / "IMAGES" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    torch.save(timm.create_model("vit_base_patch16_224").state_dict(), tmp_path / "my.pth")
    sizes = {"hidden_size": 24, "num_hidden_layers": 12, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    dino = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    dino.save_pretrained(tmp_path / "dinov2-base")
    open_clip_folder(tmp_path / "open_clip", their_clip("gelu", depth=12, patch=4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_a_command_for_each_kind() -> None:
    assert [shlex.split(line)[2] for line in COMMANDS] == list(FILES)


@pytest.mark.parametrize("line", COMMANDS, ids=FILES)
def test_the_readmes_command_measures_a_vit_of_ones_own(
    line: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.cost.latency import measure_latency

    def of_two_images(*given: Any, **named: Any) -> Any:
        return measure_latency(*given, **named | {"batch_size": 2, "runs": 5, "seconds": 0.0})

    # For the time that the test takes.
    monkeypatch.setattr("harness.cost.report.measure_latency", of_two_images)
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(line), "--json", "--quiet"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    records = {(one["spec"]["method"], one["spec"]["ratio"]): one for one in json.loads(out)}
    assert set(records) == {("dense", 1.0), *((method, ratio) for method in ("tome", "evit") for ratio in (0.7, 0.5))}
    for (_, ratio), record in records.items():
        assert record["cost"]["ratio"] == pytest.approx(ratio, abs=0.03)
        quality = record["quality"]["features"]
        assert set(quality) == {"cosine", "nearest", "neighbours", "knn"}
        assert ratio < 1 or quality["cosine"]["value"] > 1 - 1e-6
    assert "guessed" not in err
