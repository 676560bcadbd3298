"""Retrieval under every kind of host: which metrics it gives, and that they are those of asking for each pair alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data.formats import Caption, ImageTextSet
from harness.data.image_store import ImageStore
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import Outcome, TaskData
from harness.hosts.build import build_host
from harness.hosts.host import TextBatch
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host
from harness.hosts.weights.find import assets_of
from harness.kit.distributed import map_shared
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT
from harness.metrics.ranking import Shortlist
from harness.reduction import MethodConfig, StackShape, TokenReducer, Tokens, encode
from harness.reduction.budget import make_reducer
from harness.tasks import retrieval
from harness.tasks.retrieval import Retrieval, RetrievalOptions

Matrix = list[list[float]]
TOWER: dict[str, Any] = {"depth": 3, "width": 24, "heads": 3, "image_size": 32}
SIZES: dict[str, dict[str, int]] = {
    "albef": {"text_layers": 1, "fusion_layers": 1, "projection": 12},
    "blip": {"text_layers": 1, "projection": 12},
    "meter": {"text_layers": 1, "fusion_layers": 1},
    "clip": {"text_layers": 1, "text_width": 24, "projection": 12},
}
FAMILIES = tuple(SIZES)
PLAIN = [*(f"{way}_r{cutoff}" for way in ("t2i", "i2t") for cutoff in (1, 5, 10)), "mean_recall"]
RERANKED = [f"{metric}_rerank" for metric in PLAIN]
IMAGES = tuple(Path(f"/data/{number}.png") for number in range(7))
WORDS = ("red", "blue", "green", "ring", "square", "moon", "left", "right", "top", "bottom", "a", "the")
# Two captions per image, the last image's alone, all different, of 2 to 6 words.
CAPTIONS = tuple(
    Caption(number, IMAGES[number // 2], " ".join(WORDS[(number * step) % 12] for step in range(1, 3 + number % 5)))
    for number in range(13)
)
PIXELS = torch.randn(7, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
ELIP = {"schedule": {"begin": [1], "keep": [0.5], "lookahead": [1]}}


@cache
def small_host(family: str, text_length: int = 48) -> Host:
    """A random host, the same for all tests that leave it as it is."""
    torch.manual_seed(0)
    model = build_host(f"{family}-tiny", **TOWER, **SIZES[family], text_length=text_length).double().eval()
    for parameter in model.parameters():
        # Initial weights are so small that all images look the same; float64 would still tell them apart.
        parameter.data.mul_(2)
    tokenizer = TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, text_length)
    return Host(f"{family}-tiny", model, tokenizer, (), torch.device("cpu"), torch.float64)


def encoder_of(host: Host, method: str = "dense", pixels: Tensor = PIXELS, batch_size: int = 4) -> VisionEncoder:
    settings = ELIP if method == "elip" else None
    reducer = make_reducer(method, open_tower(host.model.vision).shape, settings=settings)
    return VisionEncoder(host, reducer, ImageStore.of(pixels), batch_size, SILENT)


@torch.no_grad()
def measured(encoder: VisionEncoder, order: Sequence[int] = range(7), per_image: int = 2, k: int = 3) -> Outcome:
    """Retrieval among the images in some order; where it is not the usual one, captions stand in reverse."""
    captions = CAPTIONS if list(order) == list(range(7)) else CAPTIONS[::-1]
    data = TaskData(ImageTextSet(tuple(IMAGES[index] for index in order), captions), encoder.images)
    return Retrieval().evaluate(encoder, data, RetrievalOptions(captions_per_image=per_image, rerank_k=k))


def by_sample(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {
        metric: dict(zip(samples, values.tolist(), strict=True))
        for metric, (samples, _, values) in outcome.outcomes.items()
    }


@torch.no_grad()
def each_alone(host: Host, method: str) -> tuple[Matrix, Matrix]:
    """Similarities and matching scores (T, I), one pair at a time; empty for what the host cannot do."""
    model: Any = host.model
    tower, encoder = open_tower(model.vision), encoder_of(host, method)
    plain = [encode(tower, encoder.reducer, image[None]) for image in PIXELS]
    similarity, matching = [], []
    for caption in CAPTIONS:
        texts = model.text_batch(*host.tokenizer([caption.text]))
        if "contrast" in model.abilities:
            similarity.append([float(model.embed_text(texts) @ model.embed_image(states).T) for states in plain])
        if "match" in model.abilities:
            guided = [encode(tower, encoder.reducer, image[None], model.guide(texts)) for image in PIXELS]
            matching.append([float(model.rank(texts, states)) for states in guided])
    return similarity, matching


def in_order(scores: Sequence[float], among: Iterable[int]) -> list[int]:
    """Candidates, the best first, ties to the lower index."""
    return sorted(among, key=lambda index: (-scores[index], index))


def naive(scores: Matrix, candidates: Matrix | None, k: int) -> dict[str, list[float]]:
    """Recalls by sorting whole lists; `candidates` (scores too): only each query's k best by them count."""
    owner = [IMAGES.index(caption.image) for caption in CAPTIONS]
    of_texts = [{image} for image in owner]
    of_images = [{text for text, image in enumerate(owner) if image == query} for query in range(len(IMAGES))]
    found: dict[str, list[float]] = {}
    for way, right, turned in (("t2i", of_texts, False), ("i2t", of_images, True)):
        rows, first = (transposed(matrix) if turned else matrix for matrix in (scores, candidates or scores))
        for cutoff in (1, 5, 10):
            hits = []
            for query, row in enumerate(rows):
                listed = in_order(first[query], range(len(row)))[: len(row) if candidates is None else k]
                hits.append(float(not right[query].isdisjoint(in_order(row, listed)[:cutoff])))
            found[f"{way}_r{cutoff}"] = hits
    return found


def mean_of(found: Mapping[str, Sequence[float]], stage: str) -> float:
    """The mean of a stage's six recalls."""
    return float(np.mean([np.mean(found[f"{way}_r{k}{stage}"]) for way in ("t2i", "i2t") for k in (1, 5, 10)]))


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


@pytest.mark.parametrize(
    ("family", "metrics", "ranked_by"),
    [
        ("albef", PLAIN + RERANKED, "contrast"),
        ("blip", PLAIN + RERANKED, "contrast"),
        ("meter", PLAIN, "matching"),
        ("clip", PLAIN, "contrast"),
    ],
)
def test_a_host_gives_exactly_the_metrics_it_can(family: str, metrics: list[str], ranked_by: str) -> None:
    outcome = measured(encoder_of(small_host(family)))
    assert list(outcome.outcomes) == metrics
    assert outcome.diagnostics["ranked_by"] == ranked_by
    assert ("pairs_reranked" in outcome.diagnostics) == ("t2i_r1_rerank" in metrics)
    assert set(outcome.frame()["metric"]) == set(metrics) <= {one.name for one in Retrieval.quantities}


@pytest.mark.parametrize("method", ["dense", "elip"])
@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_those_of_asking_for_each_pair_alone(family: str, method: str) -> None:
    host = small_host(family)
    similarity, matching = each_alone(host, method)
    expected = naive(similarity or matching, None, 3)
    if similarity and matching:
        expected |= {f"{name}_rerank": hits for name, hits in naive(matching, similarity, 3).items()}
    found = measured(encoder_of(host, method)).outcomes
    values = {metric: values.tolist() for metric, (_, _, values) in found.items()}
    for stage in ("", "_rerank") if similarity and matching else ("",):
        assert np.mean(values.pop(f"mean_recall{stage}")) == pytest.approx(mean_of(expected, stage))
    assert values == expected
    assert any(0 < sum(hits) < len(hits) for hits in expected.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_images_and_captions_changes_nothing(family: str) -> None:
    host, order = small_host(family), [3, 0, 6, 1, 5, 2, 4]
    usual, other = measured(encoder_of(host)), measured(encoder_of(host, pixels=PIXELS[order]), order)
    assert by_sample(other) == by_sample(usual)
    assert other.diagnostics == usual.diagnostics


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_batches_nor_blocks_change_a_result(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = small_host(family)
    usual = by_sample(measured(encoder_of(host, "elip", batch_size=64)))
    assert by_sample(measured(encoder_of(host, "elip", batch_size=1))) == usual
    monkeypatch.setattr(retrieval, "SCORES_PER_BLOCK", 15)
    assert by_sample(measured(encoder_of(host, "elip", batch_size=5))) == usual


@torch.no_grad()
@pytest.mark.parametrize("family", ["albef", "blip", "meter"])
def test_a_pair_scores_the_same_in_every_batch(family: str) -> None:
    host = small_host(family)
    ids, mask = host.tokenizer([caption.text for caption in CAPTIONS])
    texts, pairs = TextBatch(ids, mask, host.model.encode_text(ids, mask)), torch.tensor([0, 5, 8, 30, 31, 80, 90])
    together, alone = (
        retrieval.pair_scores(encoder_of(host, "elip", batch_size=size), texts, pairs // 7, pairs % 7)
        for size in (64, 1)
    )
    assert together.dtype == torch.float64
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    assert together.unique().numel() == len(pairs)


def test_text_guided_methods_encode_each_wanted_pair_once() -> None:
    encoder = encoder_of(small_host("albef"), "elip")
    outcome = measured(encoder, k=2)
    assert encoder.encoded_images == 7
    assert 13 * 2 <= encoder.encoded_pairs == outcome.diagnostics["pairs_reranked"] <= 13 * 2 + 7 * 2


def test_matching_alone_encodes_every_pair_once() -> None:
    encoder = encoder_of(small_host("meter"), "elip")
    measured(encoder)
    assert (encoder.encoded_images, encoder.encoded_pairs) == (0, 13 * 7)


def test_captions_that_were_cut_are_counted() -> None:
    longest = max(len(caption.text.split()) for caption in CAPTIONS)
    assert longest == 6
    cut = sum(len(caption.text.split()) > 4 for caption in CAPTIONS)
    host = small_host("albef", text_length=6)
    for _ in range(2):
        assert measured(encoder_of(host)).diagnostics["truncated_texts"] == cut
    assert "truncated_texts" not in measured(encoder_of(small_host("albef"))).diagnostics


def test_a_host_that_can_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    host = small_host("blip")
    monkeypatch.setattr(type(host.model), "abilities", frozenset({"caption"}))
    with pytest.raises(HarnessError, match=r"blip-tiny can neither contrast nor match \(it can caption\)"):
        measured(encoder_of(host))


def test_data_without_captions_is_refused() -> None:
    encoder = encoder_of(small_host("clip"))
    with pytest.raises(HarnessError, match="the data has no captions"):
        Retrieval().evaluate(encoder, TaskData(ImageTextSet(IMAGES), encoder.images), RetrievalOptions())


def test_weights_that_give_no_numbers_fail_the_cell() -> None:
    for family, broken in (("clip", "image_projection.weight"), ("albef", "match_head.bias")):
        host = deepcopy(small_host(family))
        host.model.get_parameter(broken).data.fill_(torch.nan)
        with pytest.raises(HarnessError, match="NaN or infinite"):
            measured(encoder_of(host))


class Oracle:
    """Model, tokenizer and encoder with given similarities and matching scores: rows are texts, columns images."""

    abilities = frozenset({"contrast", "match"})
    truncated = 0

    def __init__(self, similarity: Tensor, matching: Tensor) -> None:
        self.similarity, self.matching = similarity, matching
        self.images = ImageStore.of(torch.zeros(similarity.shape[1], 3, 1, 1))
        self.text_guided, self.reducer = False, TokenReducer(MethodConfig(), StackShape(1, 1, 1, 1, True))
        self.asked: list[tuple[int, int]] = []
        self.host = SimpleNamespace(model=self, tokenizer=self, device=torch.device("cpu"), dtype=torch.float32)
        self.batch_size = 2

    def map_shared(self, count: int, compute: Any, unit: str, **_: Any) -> Tensor:
        return map_shared(count, 2, lambda part: compute(torch.arange(part.start, part.stop)), SILENT, unit)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return torch.arange(len(texts))[:, None], torch.ones(len(texts), 1, dtype=torch.bool)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tokens:
        return Tokens(ids[:, :, None].float(), mask)

    def tokens(self, index: Tensor, keep: bool) -> Tokens:
        return Tokens(index.view(-1, 1, 1).float())

    def pair_tokens(self, index: Tensor, texts: TextBatch) -> Tokens:
        return self.tokens(index, True)

    def embed_image(self, image: Tokens) -> Tensor:
        return torch.eye(self.similarity.shape[1])[image.states.flatten().long()]

    def embed_text(self, texts: TextBatch) -> Tensor:
        return self.similarity[texts.states.flatten().long()]

    def rank(self, texts: TextBatch, tokens: Tokens) -> Tensor:
        text, image = texts.states[:, 0, 0].long(), tokens.states[:, 0, 0].long()
        self.asked += list(zip(text.tolist(), image.tolist(), strict=True))
        return self.matching[text, image]

    def mentioned(self, *_: Any) -> dict[str, Any]:
        return {}

    def throughput(self, unit: str, samples: int) -> None:
        assert (unit, samples) == ("queries", sum(self.similarity.shape))


def recalls(similarity: Matrix, matching: Matrix, k: int) -> tuple[dict[str, list[float]], list[tuple[int, int]]]:
    images = tuple(Path(f"/data/{name}.png") for name in "abc")
    captions = tuple(Caption(number, image, "text") for number, image in enumerate(images))
    oracle: Any = Oracle(torch.tensor(similarity), torch.tensor(matching))
    data = TaskData(ImageTextSet(images, captions), oracle.images)
    outcome = Retrieval().evaluate(oracle, data, RetrievalOptions(rerank_k=k))
    return {metric: values.tolist() for metric, (_, _, values) in outcome.outcomes.items()}, sorted(oracle.asked)


# Text 0 finds image 0, text 1 finds image 2 and text 2 image 1; image 0 prefers text 0, image 1 text 2, image 2 text 1.
SWAPPED = [[0.9, 0.1, 0.2], [0.3, 0.5, 0.8], [0.1, 0.7, 0.6]]
RIGHT = [[5.0, -5.0, -5.0], [-5.0, 5.0, -5.0], [-5.0, -5.0, 5.0]]


def test_the_dual_encoder_ranks_both_ways_and_the_matching_head_corrects_it() -> None:
    found, _ = recalls(SWAPPED, RIGHT, 2)
    assert found["t2i_r1"] == [1, 0, 0]
    assert found["i2t_r1"] == [1, 0, 0]
    assert found["t2i_r1_rerank"] == found["i2t_r1_rerank"] == [1, 1, 1]


def test_the_mean_recall_is_the_mean_of_the_six() -> None:
    found, _ = recalls(SWAPPED, RIGHT, 2)
    assert np.mean(found["mean_recall"]) == pytest.approx((1 / 3 + 1 + 1 + 1 / 3 + 1 + 1) / 6)
    assert np.mean(found["mean_recall_rerank"]) == 1


def test_the_mean_recall_counts_directions_not_queries() -> None:
    """Four texts, three of the first image and right but for the last; the second image takes a text of the first."""
    of_texts = Shortlist(torch.tensor([[0, 1]] * 4), torch.tensor([[0.9, 0.1]] * 4))
    of_images = Shortlist(torch.arange(4).expand(2, 4), torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.9, 0.1, 0.1, 0.2]]))
    samples = (["0", "1", "2", "3"], ["a", "a", "a", "b"]), (["a", "b"], ["a", "b"])
    found = retrieval.recalls({"": (of_texts, of_images)}, torch.tensor([0, 0, 0, 1]), *samples)
    names, clusters, values = found["mean_recall"]
    assert np.mean(values) == pytest.approx((3 / 4 + 1 + 1 + 1 / 2 + 1 + 1) / 6)
    assert names == ["t2i 0", "t2i 1", "t2i 2", "t2i 3", "i2t a", "i2t b"]
    assert clusters == ["a", "a", "a", "b", "a", "b"]


def test_a_matching_head_that_is_wrong_makes_it_worse() -> None:
    found, _ = recalls(RIGHT, [[-value for value in row] for row in RIGHT], 3)
    assert found["t2i_r1"] == [1, 1, 1]
    assert found["t2i_r1_rerank"] == found["i2t_r1_rerank"] == [0, 0, 0]


def test_directions_have_their_own_candidates_and_share_the_pairs() -> None:
    """Texts 0 and 1 prefer image 0, image 1 prefers text 0: with k = 1 the pair (1, 1) is nobody's candidate."""
    similarity = [[0.9, 0.8, 0.0], [0.7, 0.6, 0.0], [0.0, 0.0, 1.0]]
    found, asked = recalls(similarity, RIGHT, 1)
    assert asked == [(0, 0), (0, 1), (1, 0), (2, 2)]
    assert found["t2i_r5_rerank"] == [1, 0, 1]
    assert found["i2t_r5_rerank"] == [1, 0, 1]
