"""Facts about the search for texts: it finds what trying every text finds, whoever its neighbours are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.hosts.parts.generation import best_first, generate
from harness.kit.errors import HarnessError

VOCABULARY, LONGEST, EOS, PAD = 5, 5, 1, 0
FIRST = torch.tensor([[2], [3], [4]])


def language_model(seed: int, sharpness: float = 3.0) -> Callable[[Tensor], Tensor]:
    """A random function from a whole prefix to next-token logits; it never says [PAD]."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(LONGEST + 1, VOCABULARY, 16, dtype=torch.float64, generator=generator)
    head = torch.randn(16, VOCABULARY, dtype=torch.float64, generator=generator)

    def step(ids_BL: Tensor) -> Tensor:
        features = table[torch.arange(ids_BL.shape[1]), ids_BL].sum(1).sin()
        return (sharpness * features @ head).index_fill(1, torch.tensor([PAD]), -float("inf"))

    return step


def every_text(max_length: int, min_length: int) -> list[tuple[int, ...]]:
    """All ends of a text of one first token: closed by EOS, or cut at max_length."""
    new, words = max_length - 1, [token for token in range(VOCABULARY) if token not in (PAD, EOS)]
    closed = [
        (*text, EOS)
        for length in range(new)
        for text in itertools.product(words, repeat=length)
        if length + 2 > min_length
    ]
    return closed + list(itertools.product(words, repeat=new))


def score(
    step: Callable[[Tensor], Tensor], first: Tensor, text: tuple[int, ...], penalty: float, length_penalty: float
) -> float:
    ids, total = first.tolist(), 0.0
    for token in text:
        log_probs = step(torch.tensor([ids])).log_softmax(-1)[0]
        total += float(log_probs[token]) * (penalty if token in ids else 1)
        ids.append(token)
    return total / len(text) ** length_penalty


@pytest.mark.parametrize(
    ("min_length", "penalty", "length_penalty"),
    [(0, 1.0, 1.0), (0, 1.0, 0.0), (4, 1.0, 1.0), (5, 1.0, 0.0), (0, 1.6, 1.0), (4, 1.3, 0.0)],
)
def test_a_search_with_enough_beams_finds_the_best_of_all_texts(min_length, penalty, length_penalty):
    step = language_model(seed=7)
    found = generate(
        step,
        FIRST,
        eos_id=EOS,
        pad_id=PAD,
        max_length=LONGEST,
        min_length=min_length,
        beams=VOCABULARY ** (LONGEST - 1),
        repetition_penalty=penalty,
        length_penalty=length_penalty,
    )
    for first, row in zip(FIRST, found, strict=True):
        best = max(every_text(LONGEST, min_length), key=lambda text: score(step, first, text, penalty, length_penalty))
        assert row.tolist() == [*first.tolist(), *best, *[PAD] * (LONGEST - 1 - len(best))]


@pytest.mark.parametrize("seed", range(5))
def test_one_beam_takes_the_likeliest_token_each_time(seed):
    step = language_model(seed)
    found = generate(step, FIRST, eos_id=EOS, pad_id=PAD, max_length=LONGEST, beams=1)
    for first, row in zip(FIRST, found, strict=True):
        ids = first.tolist()
        while len(ids) < LONGEST and ids[-1] != EOS:
            ids.append(int(step(torch.tensor([ids]))[0].argmax()))
        assert row.tolist() == ids + [PAD] * (LONGEST - len(ids))


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_change_nothing(seed):
    step = language_model(seed)
    setting = {"eos_id": EOS, "pad_id": PAD, "max_length": LONGEST, "beams": 2}
    together = generate(step, FIRST, **setting)
    for row in range(len(FIRST)):
        assert together[row].tolist() == generate(step, FIRST[row : row + 1], **setting)[0].tolist()


def test_no_text_ends_before_the_minimum():
    found = generate(
        lambda ids: torch.tensor([0.0, 9.0, 1.0, 2.0, 3.0]).expand(len(ids), -1),
        FIRST,
        eos_id=EOS,
        pad_id=PAD,
        max_length=LONGEST,
        min_length=3,
        beams=3,
    )
    assert found.tolist() == [[first, 4, 4, EOS, PAD] for first in (2, 3, 4)]


def test_of_equal_tokens_the_lower_id_is_taken():
    found = generate(
        lambda ids: torch.tensor([-9.0, -9.0, 1.0, 1.0, 1.0]).expand(len(ids), -1),
        FIRST,
        eos_id=EOS,
        pad_id=PAD,
        max_length=4,
        beams=3,
    )
    assert found.tolist() == [[first, 2, 2, 2] for first in (2, 3, 4)]


def test_a_prompt_is_kept_and_counts_towards_the_lengths():
    prompt = torch.tensor([[2, 4, 3]])
    found = generate(language_model(1), prompt, eos_id=EOS, pad_id=PAD, max_length=LONGEST, beams=2)
    assert found.shape == (1, LONGEST)
    assert found[0, :3].tolist() == [2, 4, 3]


def test_the_first_of_equal_scores_comes_first():
    scores, places = best_first(torch.tensor([[1.0, 2.0, 1.0, 2.0, 0.0]]), 3)
    assert scores.tolist() == [[2.0, 2.0, 1.0]]
    assert places.tolist() == [[1, 3, 0]]
    assert best_first(torch.zeros(1, 2), 9)[1].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beams": 0}, "beams 0: expected at least 1"),
        ({"max_length": 1}, "maximal length 1: expected more than the 1 first tokens"),
        ({"min_length": 9}, "minimal length 9: expected 0 to the maximal length, 5"),
        ({"repetition_penalty": 0.0}, "repetition penalty 0.0"),
        ({"repetition_penalty": math.nan}, "repetition penalty nan"),
    ],
)
def test_an_impossible_setting_is_refused(setting, message):
    with pytest.raises(HarnessError, match=message):
        generate(language_model(0), FIRST, **{"eos_id": EOS, "pad_id": PAD, "max_length": LONGEST, **setting})
