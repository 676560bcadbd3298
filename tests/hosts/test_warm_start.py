"""Facts about a BLIP whose text side starts from an ALBEF's: what is taken, what is new, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.hosts.blip.from_albef import start_text_from_albef
from harness.hosts.blip.model import Blip
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError

SIZES = {"depth": 2, "width": 24, "heads": 3, "projection": 12}


@pytest.fixture
def albef() -> dict[str, Tensor]:
    """An ALBEF of one text and two fusion layers, its tower left out."""
    torch.manual_seed(0)
    state = build_host("albef-tiny", text_layers=1, fusion_layers=2, **SIZES).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("vision.")}


def blip(layers: int = 3) -> Blip:
    host = build_host("blip-tiny", text_layers=layers, **SIZES)
    assert isinstance(host, Blip)
    return host


def test_both_stacks_become_one_for_encoder_and_decoder(albef: dict[str, Tensor]) -> None:
    host = blip()
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    report = start_text_from_albef(host, albef, "albef")
    found = host.state_dict()
    assert set(report.loaded) | set(report.left_out) == set(albef)
    for theirs, ours in (("text.0", "0"), ("fusion.0", "1"), ("fusion.1", "2")):
        for part in ("attention.self.query.weight", "attention.output.LayerNorm.bias"):
            assert torch.equal(found[f"encoder.{ours}.{part}"], albef[f"{theirs}.{part}"])
            assert torch.equal(found[f"decoder.{ours}.{part}"], albef[f"{theirs}.{part}"])
        assert torch.equal(
            found[f"encoder.{ours}.intermediate.dense.weight"], albef[f"{theirs}.intermediate.dense.weight"]
        )
    cross = "crossattention.self.key.weight"
    assert torch.equal(found[f"encoder.2.{cross}"], albef[f"fusion.1.{cross}"])
    assert not found["encoder.0.crossattention.output.dense.weight"].any()
    assert torch.equal(found["match_head.weight"], albef["match_head.weight"])
    assert all(torch.equal(found[name], before[name]) for name in found if name.startswith("vision."))


def test_words_that_albef_lacks_start_as_its_first_token(albef: dict[str, Tensor]) -> None:
    host = blip()
    start_text_from_albef(host, albef, "albef")
    words = host.embeddings.words.weight
    assert torch.equal(words[: len(albef["embeddings.words.weight"])], albef["embeddings.words.weight"])
    assert torch.equal(words[host.config.enc_id], words[host.config.cls_id])
    assert torch.equal(words[host.config.dec_id], words[host.config.cls_id])


def test_another_number_of_layers_is_refused(albef: dict[str, Tensor]) -> None:
    with pytest.raises(HarnessError, match="albef: 3 text layers for a BLIP of 4; expected as many"):
        start_text_from_albef(blip(4), albef, "albef")
