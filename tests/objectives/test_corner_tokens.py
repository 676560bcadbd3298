"""Facts about LoTLIP's texts: who reads whom, that words never see a corner, and which texts an image goes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.cost.host import NO_WORDS
from harness.data.pair_batch import PairBatch
from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import TextTokenizer
from harness.hosts.weights.find import assets_of
from harness.kit.errors import HarnessError
from harness.objectives import choose
from harness.objectives.lotlip import LotlipObjective
from harness.objectives.parts.contrast import pair_contrast
from harness.objectives.parts.corner_tokens import causal_corner_mask, corner_mask, long_text_contrast, texts_of_images
from harness.objectives.parts.recipe import recipe_of
from harness.reduction.budget import make_reducer

SIZES = {"albef": {"fusion_layers": 1}, "blip": {}, "clip": {}}


def made(family: str, method: str = "dense", **settings: Any) -> LotlipObjective:
    torch.manual_seed(0)
    host = build_host(f"{family}-tiny", depth=2, text_layers=2, **SIZES[family])
    reducer = make_reducer(method, host.shape)
    choice = choose(f"{family}-tiny", "lotlip", {"lotlip": settings})
    objective = choice.make(host, reducer, NO_WORDS, recipe_of(f"{family}-tiny", {})).double().eval()
    assert isinstance(objective, LotlipObjective)
    return objective


def test_who_reads_whom() -> None:
    standing = torch.tensor([[1, 1, 1, 1, 0]])
    special = torch.tensor([True, True, False, False, False])
    expected = [
        [1, 0, 1, 1, 0],  # [CLS]: itself and the words
        [0, 1, 1, 1, 0],  # the corner token: itself and the words
        [1, 0, 1, 1, 0],  # a word: [CLS] and the words
        [1, 0, 1, 1, 0],
        [1, 0, 1, 1, 0],  # padding reads as a word does, and is read by none
    ]
    assert corner_mask(standing, special)[0].int().tolist() == expected
    behind = torch.tensor([False, False, False, True, True])
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    assert causal_corner_mask(torch.ones(1, 5), behind)[0].int().tolist() == expected


@pytest.mark.parametrize("family", SIZES)
def test_the_first_feature_is_how_the_host_reads_a_text_without_corner_tokens(family: str) -> None:
    objective = made(family)
    ids = torch.tensor([[2, 10, 11, 12, 3, 0, 0], [2, 20, 21, 22, 23, 24, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7]).bool()
    features = objective.features(ids, mask)
    assert features.shape[:2] == (2, 3)
    own = objective.host.embed_text(objective.host.text_batch(ids, mask))
    torch.testing.assert_close(features[:, 0], own, atol=1e-12, rtol=0)
    assert (features[:, 1] - features[:, 2]).abs().min() > 0
    alone = objective.features(ids[:1, :5], mask[:1, :5])
    torch.testing.assert_close(alone, features[:1], atol=1e-12, rtol=0)


def test_texts_are_the_short_one_and_groups_of_the_others() -> None:
    objective = made("albef", long_texts=2, joined=2)
    words = TextTokenizer(assets_of("albef-tiny") / "vocab.txt", 48)
    texts = [("red circle", "blue ring", "white moon", "green cross", "red ring"), ("red moon", "blue cross")]
    batch = PairBatch(torch.zeros(2, 3, 64, 64), [one[0] for one in texts], ["a", "b"], torch.arange(2), 0, [], texts)
    read = objective.read(batch, words)
    said = [[words._bert.decode(row[stands]) for row, stands in zip(*each)] for each in zip(read.ids, read.mask)]
    assert said[0] == [
        "[CLS] red circle [SEP]",
        "[CLS] blue ring [SEP] white moon [SEP]",
        "[CLS] green cross [SEP] red ring [SEP]",
    ]
    assert said[1][1:] == ["[CLS] blue cross [SEP] blue cross [SEP]"] * 2


def test_a_loss_is_the_sum_of_contrasts_over_the_number_of_texts() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(4, 2, 5, generator=generator), dim=-1)
    features = torch.nn.functional.normalize(torch.randn(4, 3, 2, 5, generator=generator), dim=-1)
    every, scale = texts_of_images(features), torch.tensor(3.0)
    assert every.shape == (4, 5, 5)
    assert torch.equal(every[:, 3], features[:, 2, 0])
    each = torch.stack(
        [torch.stack([pair_contrast(images[:, j], every[:, k], scale) for k in range(5)]) for j in (0, 1)]
    )
    found = long_text_contrast(images, every, scale, (2.0, 0.5))
    torch.testing.assert_close(found["short"], 2 * each[0, 0] / 5)
    torch.testing.assert_close(found["long"], 0.5 * (each.sum() - each[0, 0]) / 5)


def test_what_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(HarnessError, match="objectives albef and lotlip: need different batches"):
        choose("albef-tiny", "albef+lotlip")
    with pytest.raises(HarnessError, match="objective lotlip with CrossGET: it reduces texts"):
        made("clip", "crossget")
    host = build_host("meter-tiny", depth=2, text_layers=1, fusion_layers=1)
    with pytest.raises(HarnessError, match="Meter has no contrast"):
        choose("meter-tiny", "lotlip").make(
            host, make_reducer("dense", host.shape), NO_WORDS, recipe_of("meter-tiny", {})
        )
