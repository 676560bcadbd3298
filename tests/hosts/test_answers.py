"""Facts about answers that a decoder says: their losses word by word, and the ranking of a closed list."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.answers import AT_ONCE, IGNORED, answer_word_losses, labels_of, rank_answers, token_losses

QUESTIONS, WORDS = 3, 7


def targets() -> AnswerTargets:
    """Four answers of 4, 3, 5 and 3 tokens: two to question 0, none to question 1, two to question 2."""
    ids = torch.tensor([[2, 5, 4, 3, 0], [2, 6, 3, 0, 0], [2, 4, 4, 5, 3], [2, 5, 3, 0, 0]])
    return AnswerTargets(
        rows=torch.tensor([0, 2, 2, 0]),
        ids=ids,
        mask=ids != 0,
        weights=torch.tensor([0.6, 0.3, 0.7, 0.4], dtype=torch.float64),
        scores=torch.zeros(QUESTIONS, 9),
    )


def logits(seed: int) -> Tensor:
    return torch.randn(4, 5, WORDS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(outputs: Tensor, soft: Tensor | None, alpha: float, smoothing: float) -> list[float]:
    """The definition, one word of one answer at a time."""
    found, one = [0.0] * QUESTIONS, targets()
    for answer, question in enumerate(one.rows.tolist()):
        length = int(one.mask[answer].sum())
        for place in range(length - 1):
            exps = [math.exp(value) for value in outputs[answer, place].tolist()]
            costs = [-math.log(value / sum(exps)) for value in exps]
            word = int(one.ids[answer, place + 1])
            hard = (1 - smoothing) * costs[word] + smoothing * sum(costs) / WORDS
            if soft is not None:
                wanted = [math.exp(value) for value in soft[answer, place].tolist()]
                softly = sum(part / sum(wanted) * cost for part, cost in zip(wanted, costs))
                hard = (1 - alpha) * hard + alpha * softly
            found[question] += hard * float(one.weights[answer])
    return found


def test_a_word_that_is_one_of_v_equals_costs_log_v() -> None:
    labels = torch.tensor([[2, 1, 3, IGNORED]])
    losses = token_losses(torch.zeros(1, 4, 5), labels)
    torch.testing.assert_close(losses, torch.tensor([[math.log(5), math.log(5), 0.0]]))


def test_smoothing_takes_from_the_target_what_it_gives_to_all() -> None:
    """p = (1/2, 1/4, 1/4); with smoothing 0.3 the target's probability is 0.7 + 0.1, that of the others 0.1."""
    output = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.0, 0.0]]]).log()
    losses = token_losses(output, torch.tensor([[1, 0]]), smoothing=0.3)
    torch.testing.assert_close(losses, torch.tensor([[0.8 * math.log(2) + 0.2 * math.log(4)]]))


def test_labels_leave_padding_out() -> None:
    one = targets()
    assert labels_of(one.ids, one.mask)[0].tolist() == [2, 5, 4, 3, IGNORED]
    assert torch.equal(labels_of(one.ids, one.mask.long()), labels_of(one.ids, one.mask))


@pytest.mark.parametrize(("alpha", "smoothing"), [(0.0, 0.0), (0.4, 0.0), (1.0, 0.0), (0.0, 0.1), (0.4, 0.1)])
def test_losses_are_the_definition_s(alpha: float, smoothing: float) -> None:
    outputs, soft = logits(0), logits(1) if alpha else None
    found = answer_word_losses(outputs, targets(), soft, alpha, smoothing)
    expected = torch.tensor(naive(outputs, soft, alpha, smoothing), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found[1] == 0


def test_a_twin_that_counts_nothing_changes_nothing() -> None:
    assert torch.equal(
        answer_word_losses(logits(0), targets(), logits(1), 0.0), answer_word_losses(logits(0), targets())
    )


def test_an_answer_counts_by_its_weight() -> None:
    one = targets()
    alone = AnswerTargets(one.rows, one.ids, one.mask, torch.tensor([0.0, 0.0, 0.5, 0.0]).double(), one.scores)
    twice = AnswerTargets(one.rows, one.ids, one.mask, 2 * alone.weights, one.scores)
    found = answer_word_losses(logits(0), alone)
    assert found[:2].tolist() == [0, 0]
    assert found[2] > 0
    assert torch.equal(answer_word_losses(logits(0), twice), 2 * found)


def test_what_stands_at_padding_and_behind_the_last_word_counts_nowhere() -> None:
    outputs, soft, one = logits(0), logits(1), targets()
    before = answer_word_losses(outputs, one, soft, 0.4)
    for answer in range(4):
        last = int(one.mask[answer].sum()) - 1
        outputs[answer, last:] += 5
        soft[answer, last:] -= 3
    assert torch.equal(answer_word_losses(outputs, one, soft, 0.4), before)
    outputs[0, 0, 1] += 1
    assert answer_word_losses(outputs, one, soft, 0.4)[0] != before[0]


def test_the_likeliest_first_words_are_scored_and_the_rest_is_nowhere() -> None:
    """Answers begin with words 5, 6, 4, 5; equal first words keep their order."""
    first = torch.tensor([[0.0, 0, 0, 0, 1, 3, 2], [0.0, 0, 0, 0, 3, 1, 2]])
    asked: list[list[list[int]]] = []

    def losses_of(chosen: Tensor) -> Tensor:
        asked.append(chosen.tolist())
        return chosen * 10.0

    ids = torch.tensor([[2, 5, 3], [2, 6, 3], [2, 4, 3], [2, 5, 3]])
    scores = rank_answers(first, losses_of, ids, candidates=3)
    nowhere = -math.inf
    assert asked == [[[0, 3, 1], [2, 1, 0]]]
    assert scores.tolist() == [[0, -10, nowhere, -30], [0, -10, -20, nowhere]]


def test_many_candidates_are_scored_a_few_at_a_time() -> None:
    count = 2 * AT_ONCE + 3
    ids = torch.arange(count).repeat(3, 1).T
    first = torch.linspace(1, 0, count)[None]
    sizes: list[int] = []

    def losses_of(chosen: Tensor) -> Tensor:
        sizes.append(chosen.shape[1])
        return chosen.double()

    scores = rank_answers(first, losses_of, ids)
    assert sizes == [AT_ONCE, AT_ONCE, 3]
    assert torch.equal(scores, -torch.arange(count).double()[None])
