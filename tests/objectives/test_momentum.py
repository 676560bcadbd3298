"""Facts about momentum distillation: how the twin follows, and in which order the queue is overwritten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from harness.kit.errors import HarnessError
from harness.objectives.parts.momentum import Queue, Twin
from harness.objectives.parts.objective import Moment, mask_words, word_loss
from tests.objectives.masked import made, pairs


def test_the_twin_moves_by_one_minus_the_momentum() -> None:
    student = nn.Linear(3, 2)
    twin = Twin(student)
    before = [parameter.clone() for parameter in twin.model.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    twin.follow(student, 0.9)
    for own, old in zip(twin.model.parameters(), before, strict=True):
        torch.testing.assert_close(own.detach(), old + 0.1)
    twin.follow(student, 0.0)
    for own, led in zip(twin.model.parameters(), student.parameters(), strict=True):
        assert torch.equal(own, led)


def test_the_twin_is_another_model_that_never_learns_or_drops_out() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    twin = Twin(student).train()
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    own, led = next(twin.model.parameters()), next(student.parameters())
    assert own.data_ptr() != led.data_ptr()


def test_the_twin_of_a_student_that_stands_still_stands_still() -> None:
    student = nn.Linear(3, 2)
    twin = Twin(student)
    for parameter in student.requires_grad_(False).parameters():
        parameter.add_(1.0)
    before = [parameter.clone() for parameter in twin.model.parameters()]
    twin.follow(student, 0.9)
    assert all(torch.equal(own, old) for own, old in zip(twin.model.parameters(), before, strict=True))


def test_the_twin_is_asked_for_words_only_where_they_are_distilled(monkeypatch: pytest.MonkeyPatch) -> None:
    objective: Any = made("albef", family="albef", recipe={"batch_size": 4, "queue_size": 8})
    four = pairs()
    plain = objective(four, Moment(alpha=0.0))["masked_words"]
    ids, labels = mask_words(
        four.ids,
        objective.specials,
        four.sample_ids,
        Moment(),
        objective.host.config.vocab_size,
        objective.recipe.mask_rate,
    )
    host = objective.host
    texts, images = host.encode_text(ids, four.mask), objective.encode_images(four.pixels, None)
    torch.testing.assert_close(plain, word_loss(host.mlm_logits(host.fuse(texts, images).at_inputs()), labels))

    def asked(*_: Any) -> None:
        raise AssertionError("the twin was asked")

    monkeypatch.setattr(objective, "twin_words", asked)
    assert torch.equal(objective(four, Moment(alpha=0.0))["masked_words"], plain)
    with pytest.raises(AssertionError, match="the twin was asked"):
        objective(four, Moment(alpha=0.4))


def test_the_queue_starts_with_unit_columns() -> None:
    torch.testing.assert_close(Queue(4, 6).columns.norm(dim=0), torch.ones(6))


def test_the_oldest_features_are_overwritten_around_the_end() -> None:
    queue = Queue(1, 5)
    for batch in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0, 10.0, 11.0]):
        queue.enqueue(torch.tensor(batch)[:, None])
        if batch[-1] == 6.0:
            assert queue.columns.tolist() == [[6.0, 2.0, 3.0, 4.0, 5.0]]
            assert queue.pointer.item() == 1
    assert queue.columns.tolist() == [[11.0, 7.0, 8.0, 9.0, 10.0]]
    assert queue.pointer.item() == 1


def test_queue_and_place_in_it_are_part_of_the_state() -> None:
    assert set(Queue(2, 3).state_dict()) == {"columns", "pointer"}


def test_a_batch_longer_than_the_queue_is_refused() -> None:
    with pytest.raises(HarnessError, match="queue of 3 features: shorter than one global batch of 4; lengthen it"):
        Queue(2, 3).enqueue(torch.zeros(4, 2))
