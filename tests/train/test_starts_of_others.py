"""--init-vision and --init-text take files of other programs as people have them: timm, BERT, a whole ALBEF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForPreTraining, BertModel

from harness.hosts.albef.model import Albef
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.train.request import PretrainRequest
from harness.train.starts import start_sides, world_words
from tests.hosts.test_released import albef_file

WORDS = world_words("albef-tiny")


def spec(**starts: str) -> PretrainRequest:
    return PretrainRequest(model="albef-tiny", data=("scenes-small",), out=Path("never"), **starts)


def started(**starts: Any) -> tuple[Albef, list[str]]:
    torch.manual_seed(1)
    host = build_host("albef-tiny", token_types=2)  # as BERT has, and albef-base
    assert isinstance(host, Albef)
    lines = start_sides(host, "albef", spec(**{name: str(path) for name, path in starts.items()}), WORDS)
    return host, lines


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    content = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(content, path, {"format": "pt"})
    else:
        torch.save(content, path)
    return path


def bert(kind: Any, **changes: Any) -> Any:
    sizes = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 3}
    sizes |= {"vocab_size": len(WORDS), "max_position_embeddings": 48, "type_vocab_size": 2}
    torch.manual_seed(0)
    return kind(BertConfig(**sizes | changes)).eval()


@pytest.mark.parametrize("kind", [BertModel, BertForPreTraining], ids=["without prefix", "bert."])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_text_side_starts_from_bert(tmp_path: Path, kind: Any, suffix: str) -> None:
    model = bert(kind)
    path = saved(tmp_path / f"model.{suffix}", dict(model.state_dict()))
    host, lines = started(init_text=path)
    assert any("tensors loaded" in line for line in lines)
    body = model if kind is BertModel else model.bert
    state = host.state_dict()
    assert torch.equal(state["embeddings.words.weight"], body.embeddings.word_embeddings.weight)
    for layer, side in ((0, "text.0"), (2, "fusion.0")):
        wanted = body.encoder.layer[layer].attention.self.query.weight
        assert torch.equal(state[f"{side}.attention.self.query.weight"], wanted)


def test_a_bert_of_other_words_is_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", dict(bert(BertModel, vocab_size=20).state_dict()))
    with pytest.raises(HarnessError, match=r"word_embeddings.weight is \(20, 96\), expected \(157, 96\)"):
        started(init_text=path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_tower_starts_from_timms_vit_and_from_a_whole_albef(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    other = build_host("albef-tiny")
    tower = {
        name.removeprefix("vision."): one for name, one in other.state_dict().items() if name.startswith("vision.")
    }
    head = {"head.weight": torch.zeros(10, 96), "head.bias": torch.zeros(10)}
    host, _ = started(init_vision=saved(tmp_path / f"vit.{suffix}", tower | head))
    assert torch.equal(host.state_dict()["vision.blocks.3.mlp.fc1.weight"], tower["blocks.3.mlp.fc1.weight"])

    whole = saved(tmp_path / f"albef.{suffix}", albef_file(build_host("albef-tiny", token_types=2)))
    loaded = torch.load(whole) if suffix == "pth" else None
    host, lines = started(init_vision=whole, init_text=whole)
    state = host.state_dict()
    theirs = albef_tensors(whole) if loaded is None else loaded
    assert torch.equal(state["vision.norm.weight"], theirs["visual_encoder.norm.weight"])
    query = "attention.self.query.weight"
    assert torch.equal(state[f"text.1.{query}"], theirs[f"text_encoder.bert.encoder.layer.1.{query}"])
    assert any("of another part of the host" in line for line in lines)


def albef_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
