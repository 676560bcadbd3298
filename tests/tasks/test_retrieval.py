"""Ranks and candidates, on matrices small enough to check by hand."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

from harness.data.formats import Caption, ImageTextSet
from harness.task import TaskData
from harness.tasks.retrieval import NO_RANK, Retrieval, RetrievalOptions, best_ranks, masked, top_mask


def test_rank_of_the_best_relevant_candidate():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    relevant = torch.tensor([[True, False, True], [False, False, True]])
    assert best_ranks(scores, relevant).tolist() == [1, 2]


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([[0.5, 0.5, 0.5]])
    assert best_ranks(scores, torch.tensor([[False, True, False]])).tolist() == [1]
    assert best_ranks(scores, torch.tensor([[True, False, False]])).tolist() == [0]


def test_a_relevant_item_outside_the_candidates_is_a_miss_at_every_cutoff():
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    candidates = masked(scores, torch.tensor([[True, True, False]]))
    assert best_ranks(candidates, torch.tensor([[False, False, True]])).tolist() == [NO_RANK]


def test_top_mask_takes_k_per_query():
    mask = top_mask(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.3]]), 2)
    assert mask.tolist() == [[False, True, True], [True, False, True]]


def test_k_beyond_the_candidates_takes_them_all():
    assert top_mask(torch.rand(2, 3), 16).all()


class Oracle:
    """A model and encoder whose similarities and matching scores are given matrices, rows texts, columns images."""

    def __init__(self, similarity, matching):
        self.similarity, self.matching = similarity, matching
        self.asked = []
        self.host = SimpleNamespace(model=self, tokenizer=self.tokens, device=torch.device("cpu"), dtype=torch.float32)
        self.batch_size, self.progress = 2, self

    @contextmanager
    def bar(self, label, total):
        yield SimpleNamespace(advance=lambda steps: None)

    def tokens(self, texts):
        return torch.arange(len(texts))[:, None], torch.ones(len(texts), 1, dtype=torch.bool)

    def encode_text(self, ids, mask):
        return ids[:, :, None].float()

    def image_states(self):
        return torch.arange(self.similarity.shape[1]).view(-1, 1, 1).float()

    def pair_states(self, index, texts):
        return self.image_states()[index]

    def embed_image(self, states):
        return torch.eye(self.similarity.shape[1])[states.flatten().long()]

    def embed_text(self, texts):
        return self.similarity[texts.states.flatten().long()]

    def match(self, texts, image_states):
        text, image = texts.states[:, 0, 0].long(), image_states[:, 0, 0].long()
        self.asked += list(zip(text.tolist(), image.tolist()))
        return torch.stack([torch.zeros(len(text)), self.matching[text, image]], dim=1)

    def mentioned(self, *_):
        return {}


def recalls(similarity, matching, k):
    images = tuple(Path(f"/data/{name}.png") for name in "abc")
    captions = tuple(Caption(number, image, "text") for number, image in enumerate(images))
    oracle = Oracle(torch.tensor(similarity), torch.tensor(matching))
    data = TaskData(ImageTextSet(images, captions), torch.zeros(3, 1))
    outcome = Retrieval().evaluate(oracle, data, RetrievalOptions(rerank_k=k))
    return {metric: values.tolist() for metric, (_, _, values) in outcome.outcomes.items()}, sorted(oracle.asked)


# Text 0 finds image 0, text 1 finds image 2 and text 2 image 1; image 0 prefers text 0, image 1 text 2, image 2 text 1.
SWAPPED = [[0.9, 0.1, 0.2], [0.3, 0.5, 0.8], [0.1, 0.7, 0.6]]
RIGHT = [[5.0, -5.0, -5.0], [-5.0, 5.0, -5.0], [-5.0, -5.0, 5.0]]


def test_the_dual_encoder_ranks_both_ways_and_the_matching_head_corrects_it():
    found, _ = recalls(SWAPPED, RIGHT, 2)
    assert found["t2i_r1"] == [1, 0, 0]
    assert found["i2t_r1"] == [1, 0, 0]
    assert found["t2i_r1_rerank"] == found["i2t_r1_rerank"] == [1, 1, 1]


def test_a_matching_head_that_is_wrong_makes_it_worse():
    found, _ = recalls(RIGHT, [[-value for value in row] for row in RIGHT], 3)
    assert found["t2i_r1"] == [1, 1, 1]
    assert found["t2i_r1_rerank"] == found["i2t_r1_rerank"] == [0, 0, 0]


def test_directions_have_their_own_candidates_and_share_the_pairs():
    """Texts 0 and 1 prefer image 0, image 1 prefers text 0: with k = 1 the pair (1, 1) is nobody's candidate."""
    similarity = [[0.9, 0.8, 0.0], [0.7, 0.6, 0.0], [0.0, 0.0, 1.0]]
    found, asked = recalls(similarity, RIGHT, 1)
    assert asked == [(0, 0), (0, 1), (1, 0), (2, 2)]
    assert found["t2i_r5_rerank"] == [1, 0, 1]
    assert found["i2t_r5_rerank"] == [1, 0, 1]
