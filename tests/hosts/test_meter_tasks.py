"""Facts about METER fine-tuned: what an answer costs, which head ranks, what starts anew and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.data.annotations.records import ENTAILMENT_LABELS
from harness.hosts.host import TextBatch
from harness.hosts.meter.model import PRESETS, Meter, MeterConfig
from harness.hosts.meter.names import INHERITED
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.kit.errors import HarnessError
from harness.reduction import Tokens

SMALL = {
    **PRESETS["tiny"],
    "image_size": 16,
    "width": 24,
    "depth": 1,
    "text_layers": 1,
    "fusion_layers": 1,
    "vocab_size": 41,
    "text_length": 12,
    "answer_classes": 5,
}


def small(seed: int = 0, **changes: object) -> Meter:
    torch.manual_seed(seed)
    return Meter(MeterConfig.model_validate({**SMALL, **changes})).double().eval()


def started(before: Meter, **changes: object) -> Meter:
    """A model of a task, of other random weights, started from one before fine-tuning."""
    after = small(1, **changes)
    after.load_state_dict(after.started_from(before.state_dict()))
    return after


@pytest.fixture(scope="module")
def before() -> Meter:
    """Pre-trained: its matching head and its types have moved, its ranking head has not."""
    model = small()
    with torch.no_grad():
        model.match_head.weight.normal_()
        model.match_head.bias.normal_()
        model.types["image"].normal_()
    return model


@pytest.fixture(scope="module")
def texts(before: Meter) -> TextBatch:
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    with torch.no_grad():
        return before.text_batch(ids, ids != 0)


@pytest.fixture(scope="module")
def images() -> Tokens:
    return Tokens(torch.randn(2, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))


def targets(scores: Tensor) -> AnswerTargets:
    nothing = torch.zeros(0, dtype=torch.long)
    return AnswerTargets(nothing, nothing.view(0, 1), nothing.view(0, 1), nothing.double(), scores)


def test_an_answer_costs_its_cross_entropy_summed_over_the_classes(before: Meter) -> None:
    """Probabilities 1/2, 3/4, 1/4 of answers worth 1, 0.3, 0: ln 2 + 0.3 ln 4/3 + 0.7 ln 4 + ln 4/3."""
    outputs = torch.tensor([[0.0, math.log(3), -math.log(3)], [0.0, 0.0, 0.0]], dtype=torch.float64)
    worth = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.0, 0.0]])
    losses = before.answer_losses(outputs, targets(worth))
    expected = math.log(2) + 1.3 * math.log(4 / 3) + 0.7 * math.log(4), 3 * math.log(2)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_a_momentum_twin_s_answers_are_a_second_target(before: Meter) -> None:
    """Where the twin says 3/4, a class that is worth 0 costs 0.6 ln 4 + 0.4 * 0.562 at probability 3/4."""
    outputs, soft = (torch.tensor([[0.0, math.log(3)]], dtype=torch.float64) for _ in range(2))
    losses = before.answer_losses(outputs, targets(torch.zeros(1, 2)), soft, 0.4)
    entropy = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    expected = math.log(2) + 0.6 * math.log(4) + 0.4 * entropy
    torch.testing.assert_close(losses, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)


@torch.no_grad()
def test_every_question_has_its_head(before: Meter, texts: TextBatch, images: Tokens) -> None:
    assert before.abilities == {"match"}
    pooled = before.co_attend(texts, images).cls
    assert torch.equal(before.answer_outputs(texts, images, targets(torch.zeros(2, 5))), before.answer_head(pooled))
    assert torch.equal(before.entail(texts, images), before.entailment_head(pooled))
    assert before.entail(texts, images).shape == (2, len(ENTAILMENT_LABELS))
    turned = images.rows(torch.tensor([1, 0]))
    second = before.co_attend(texts, turned, "second_image").cls
    expected = before.pair_head(torch.cat([pooled, second], dim=1))
    assert torch.equal(before.compare(texts, images, turned), expected)


@torch.no_grad()
def test_retrieval_ranks_by_a_head_that_starts_as_the_matching_head(
    before: Meter, texts: TextBatch, images: Tokens
) -> None:
    logits = before.match(texts, images)
    assert torch.equal(before.rank(texts, images), logits[:, 1] - logits[:, 0])
    after = started(before, task="retrieval")
    torch.testing.assert_close(after.rank(texts, images), logits[:, 1], rtol=0, atol=1e-12)
    after.rank_head.bias.add_(1)
    torch.testing.assert_close(after.rank(texts, images), logits[:, 1] + 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "anew"), [("retrieval", INHERITED[:2]), ("nlvr2", INHERITED[2:]), ("vqa", ()), ("entailment", ())]
)
def test_only_what_a_task_adds_differs_at_its_start(before: Meter, task: str, anew: tuple[str, ...]) -> None:
    state, held = started(before, task=task).state_dict(), before.state_dict()
    assert tuple(name for name in state if not torch.equal(state[name], held[name])) == anew
    if task == "nlvr2":
        assert torch.equal(state["types.second_image"], held["types.image"])


def test_an_answer_head_of_other_classes_starts_anew(before: Meter) -> None:
    after, fresh = started(before, task="vqa", answer_classes=7), small(1, answer_classes=7)
    for name, value in after.state_dict().items():
        held = fresh if name.startswith("answer_head.") else before
        assert torch.equal(value, held.state_dict()[name])
    assert after.answer_head[3].out_features == 7


def test_it_starts_from_a_meter_of_the_same_size(before: Meter) -> None:
    with pytest.raises(HarnessError, match=r"embeddings\.words\.weight is \(41, 24\), expected \(43, 24\)"):
        small(vocab_size=43).started_from(before.state_dict())


def test_a_released_file_that_ranks_is_one_of_retrieval() -> None:
    ranking = {"rank_output.weight": torch.zeros(1, 48), "rank_output.bias": torch.zeros(1)}
    assert Meter.sizes_for(ranking) == {"task": "retrieval"}
    answering = {"vqa_classifier.3.bias": torch.zeros(9)}
    assert Meter.sizes_for(answering) == {"task": "vqa", "answer_classes": 9}


def test_answers_are_all_of_the_classes(before: Meter) -> None:
    with pytest.raises(HarnessError, match="3 answers: this model's classifier has 5"):
        before.answers(lambda texts: None, ["a", "b", "c"])
