"""Facts about ALBEF's heads for tasks: the answer decoder, entailment, and pairs of images."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.hosts.albef.model import PRESETS, Albef, AlbefConfig
from harness.hosts.build import build_host
from harness.hosts.host import TextBatch
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.text_stacks import BertStack, through
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.load import load_model
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.kit.recompute import recomputing
from harness.objectives.parts.momentum import Twin
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer

SMALL: dict[str, Any] = {
    **PRESETS["tiny"],
    "image_size": 32,
    "width": 24,
    "projection": 16,
    "vocab_size": 41,
    "text_length": 12,
    "token_types": 2,
}
PAD, CLS, SEP = 0, 2, 3
TASKS = ("vqa", "entailment", "nlvr2")


def small(task: str | None = None, seed: int = 0) -> Albef:
    torch.manual_seed(seed)
    return Albef(AlbefConfig.model_validate({**SMALL, "task": task})).double().eval()


def tuned(task: str) -> tuple[Albef, Albef]:
    """A pre-trained model, and one of a task that starts from it."""
    before, after = small(), small(task, seed=1)
    after.load_state_dict(after.started_from(before.state_dict()))
    return before, after


def worded(*lengths: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of texts "[CLS] ... [SEP]" of so many tokens."""
    ids = torch.randint(5, 41, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    places, ends = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    ids = ids.masked_fill(places == ends - 1, SEP).masked_fill(places >= ends, PAD)
    ids[:, 0] = CLS
    return ids, ids != PAD


def read(model: Albef, ids: Tensor, mask: Tensor) -> TextBatch:
    return model.text_batch(ids, mask)


def states(model: Albef, seed: int = 5, count: int = 3) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return model.encode_image(torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=generator))


def targets() -> AnswerTargets:
    """Five answers: two to question 0, one to question 1, two to question 2."""
    ids, mask = worded(4, 3, 5, 3, 4, seed=2)
    weights = torch.tensor([0.4, 1.0, 0.7, 0.6, 0.3], dtype=torch.float64)
    return AnswerTargets(torch.tensor([0, 1, 2, 0, 2]), ids, mask, weights, torch.zeros(3, 8))


@torch.no_grad()
def test_an_answer_is_told_by_its_own_question_alone() -> None:
    model, one = small("vqa"), targets()
    questions, images = read(model, *worded(7, 5, 4, seed=1)), states(model)
    together = model.answer_outputs(questions, images, one)
    assert together.shape == (5, 5, 41)
    for answer, question in enumerate(one.rows.tolist()):
        length = int(one.mask[answer].sum())
        asked = questions.rows(torch.tensor([question]))
        ids, mask = one.ids[answer : answer + 1, :length], one.mask[answer : answer + 1, :length]
        lone = AnswerTargets(torch.tensor([0]), ids, mask, one.weights[:1], one.scores[:1])
        alone = model.answer_outputs(asked, images.rows(torch.tensor([question])), lone)
        torch.testing.assert_close(together[answer : answer + 1, :length], alone, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_decoder_looks_back_only() -> None:
    model, one = small("vqa"), targets()
    questions, images = read(model, *worded(7, 5, 4, seed=1)), states(model)
    before = model.answer_outputs(questions, images, one)
    ids = one.ids.clone()
    ids[2, 2:] = 17
    after = model.answer_outputs(questions, images, AnswerTargets(one.rows, ids, one.mask, one.weights, one.scores))
    assert torch.equal(after[2, :2], before[2, :2])
    assert ((after[2, 2:] - before[2, 2:]).abs().amax(-1) > 1e-6).all()
    assert torch.equal(after[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


@torch.no_grad()
def test_the_decoder_reads_the_question_s_words_and_the_image_but_no_padding() -> None:
    model, one = small("vqa"), targets()
    assert model.decoder is not None
    fused = torch.randn(5, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    questions = Tokens(fused, (torch.arange(6) < 4).expand(5, -1))
    before = model.decoder(one.ids, one.mask, questions)
    fused[:, 4:] += 7
    assert torch.equal(model.decoder(one.ids, one.mask, questions), before)
    fused[:, 3] += 1
    assert ((model.decoder(one.ids, one.mask, questions) - before).abs().amax((1, 2)) > 1e-6).all()
    asked = read(model, *worded(7, 5, 4, seed=1))
    outputs = [model.answer_outputs(asked, states(model, seed), one) for seed in (5, 6)]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-6


@torch.no_grad()
def test_losses_are_the_answers_own_times_their_weights() -> None:
    model, one = small("vqa"), targets()
    outputs = model.answer_outputs(read(model, *worded(7, 5, 4, seed=1)), states(model), one)
    expected = torch.zeros(3, dtype=torch.float64)
    for answer, question in enumerate(one.rows.tolist()):
        for place in range(int(one.mask[answer].sum()) - 1):
            word = one.ids[answer, place + 1]
            expected[question] -= one.weights[answer] * outputs[answer, place].log_softmax(0)[word]
    torch.testing.assert_close(model.answer_losses(outputs, one), expected, rtol=0, atol=1e-12)
    soft = outputs.flip(0)
    assert torch.equal(model.answer_losses(outputs, one, soft, 0.0), model.answer_losses(outputs, one))
    assert not torch.allclose(model.answer_losses(outputs, one, soft, 0.4), expected)


@torch.no_grad()
def test_answers_are_ranked_by_the_log_probability_of_their_words() -> None:
    """One answer after the other: all of its words, and the first once more, as the released program does."""
    model = small("vqa")
    questions, images = read(model, *worded(7, 5, 4, seed=1)), states(model)
    ids, mask = worded(3, 4, 6, 3, 5, 4, 3, seed=4)
    scores = model.answer_scores(questions, images, (ids, mask))
    fused = model.fuse(questions.tokens, images)
    assert model.decoder is not None
    for question in range(3):
        for answer in range(7):
            length = int(mask[answer].sum())
            one = ids[answer : answer + 1, :length]
            told = model.decoder(one, torch.ones_like(one), fused.rows(torch.tensor([question])))
            costs = [told[0, place].log_softmax(0)[one[0, place + 1]] for place in range(length - 1)]
            torch.testing.assert_close(scores[question, answer], sum(costs) + costs[0], rtol=0, atol=1e-12)
    few = model.decoder.scores(fused, (ids, mask), candidates=2)
    assert few.isfinite().sum(1).tolist() == [2, 2, 2]
    assert torch.allclose(few[few.isfinite()], scores[few.isfinite()], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_decoder_starts_as_the_fusion_half_and_goes_its_own_way() -> None:
    before, after = tuned("vqa")
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    sources = {"layers": "fusion", "embeddings": "embeddings", "transform": "mlm_transform", "bias": "mlm_bias"}
    added = [name for name in new if name not in old]
    assert {name.split(".")[1] for name in added} == set(sources)
    for name in added:
        _, part, *rest = name.split(".")
        assert torch.equal(new[name], old[".".join([sources[part], *rest])])
    assert len({tensor.data_ptr() for tensor in new.values()}) == len(new)
    words = [name for name, parameter in after.named_parameters() if 41 in parameter.shape]
    assert words == ["mlm_bias", "embeddings.words.weight", "decoder.bias", "decoder.embeddings.words.weight"]


def test_every_parameter_of_the_decoder_learns_with_blocks_recomputed_or_not() -> None:
    model, one = small("vqa"), targets()
    gradients = []
    for again in (False, True):
        model.zero_grad()
        with recomputing(again):
            outputs = model.answer_outputs(read(model, *worded(7, 5, 4, seed=1)), states(model), one)
            model.answer_losses(outputs, one).sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert {name for name, _ in model.named_parameters() if name.startswith("decoder.")} <= set(gradients[0])
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[1][name], value, rtol=0, atol=1e-12) for name, value in gradients[0].items())


@torch.no_grad()
def test_entailment_is_told_by_the_fused_class_token() -> None:
    before, model = tuned("entailment")
    texts, images = read(model, *worded(7, 5, 4, seed=1)), states(model)
    found, weights = model.entail(texts, images), model.state_dict()
    fused = before.fuse(texts.tokens, images).states[:, 0]
    hidden = (fused @ weights["task_head.0.weight"].T + weights["task_head.0.bias"]).clamp(min=0)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found, hidden @ weights["task_head.2.weight"].T + weights["task_head.2.bias"])


@torch.no_grad()
def test_of_a_pair_of_layers_one_reads_the_first_image_and_one_the_second() -> None:
    """Each pre-trained layer runs twice, on the first image and then on the second."""
    before, model = tuned("nlvr2")
    texts, first, second = read(model, *worded(7, 5, 4, seed=1)), states(model), states(model, 6)
    expected = texts.tokens
    for layer in before.fusion:
        for image in (first, second):
            expected = through(BertStack([layer], "fusion", read=(image,)), expected)
    found = model.compare(texts, first, second)
    assert found.shape == (3, 2)
    assert torch.equal(found, model.task_head(expected.states[:, 0]))
    assert ((model.compare(texts, second, first) - found).abs().amax(1) > 1e-6).all()
    assert torch.equal(model.match(texts, first), before.match(texts, first))


def test_images_of_different_numbers_of_tokens_can_be_compared() -> None:
    model = small("nlvr2")
    texts, first, second = read(model, *worded(7, 5, 4, seed=1)), states(model), states(model, 6)
    assert model.compare(texts, first, Tokens(second.states[:, :9])).isfinite().all()


def test_the_layers_of_a_pair_share_keys_and_values() -> None:
    model = small("nlvr2")
    names = [name for name, _ in model.named_parameters() if re.search(r"crossattention\.self\.(key|value)\.", name)]
    assert {int(name.split(".")[1]) for name in names} == {0, 2, 4}
    assert len(names) == 3 * 4
    assert sorted(model.state_dict()) == sorted(name for name, _ in model.named_parameters())


def test_what_a_pair_shares_learns_from_both_images() -> None:
    """Its gradient is the sum of those of the two projections of an untied copy."""

    def learn(model: Albef) -> Any:
        texts = read(model, *worded(7, 5, 4, seed=1))
        model.compare(texts, states(model), states(model, 6)).square().sum().backward()
        return [layer.crossattention.self for layer in model.fusion[:2]]

    untied = small("nlvr2")
    lender, borrower = (layer.crossattention.self for layer in untied.fusion[:2])
    borrower.__dict__["value"] = copy.deepcopy(lender.value)
    parts = [half.value.weight.grad for half in learn(untied)]
    assert all(part.abs().max() > 1e-9 for part in parts)
    tied = learn(small("nlvr2"))
    assert tied[1].value is tied[0].value
    torch.testing.assert_close(tied[0].value.weight.grad, parts[0] + parts[1], rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_twin_keeps_its_own_pairs_tied_and_follows() -> None:
    model = small("nlvr2")
    twin = Twin(model)
    lender, borrower = (layer.crossattention.self for layer in twin.model.fusion[:2])
    assert borrower.key is lender.key
    assert borrower.key is not model.fusion[0].crossattention.self.key
    model.get_parameter("fusion.0.crossattention.self.key.weight").add_(1)
    before = lender.key.weight.clone()
    twin.follow(model, 0.75)
    torch.testing.assert_close(borrower.key.weight, before + 0.25)


@torch.no_grad()
@pytest.mark.parametrize("method", ["elip", "evit", "tome"])
@pytest.mark.parametrize("task", TASKS)
def test_reduced_images_are_read_by_student_and_twin(task: str, method: str) -> None:
    model = small(task)
    texts, tower = read(model, *worded(7, 5, 4, seed=1)), open_tower(model.vision)
    reducer = make_reducer(method, tower.shape)
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    reduced = encode(tower, reducer, pixels, model.guide(texts))
    assert reduced.states.shape[1] < 17
    for one in (model, Twin(model).model):
        found = {
            "vqa": lambda one=one: one.answer_outputs(texts, reduced, targets()),
            "entailment": lambda one=one: one.entail(texts, reduced),
            "nlvr2": lambda one=one: one.compare(texts, reduced, reduced.rows(torch.tensor([2, 1, 0]))),
        }[task]()
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("task", "able", "masked"),
    [
        (None, "answer", True),
        ("retrieval", "answer", True),
        ("vqa", "answer", False),
        ("entailment", "entail", True),
        ("nlvr2", "compare", True),
    ],
)
def test_a_task_decides_what_a_model_is_asked(task: str | None, able: str, masked: bool) -> None:
    model = small(task)
    assert model.abilities == {"contrast", "match", able}
    assert model.masked_questions is masked
    texts, images = read(model, *worded(4, 4, 4, seed=1)), states(model)
    if task != "vqa":
        with pytest.raises(HarnessError, match="no answer decoder before it is fine-tuned on vqa"):
            model.answer_outputs(texts, images, targets())
    if able != "entail":
        with pytest.raises(HarnessError, match=f"cannot entail: it can .*{able}"):
            model.entail(texts, images)
    if able != "compare":
        with pytest.raises(HarnessError, match="cannot compare"):
            model.compare(texts, images, images)


def test_albef_has_no_captions() -> None:
    with pytest.raises(HarnessError, match="task"):
        build_host("albef-tiny", task="captioning")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_s_own_state_comes_back_and_another_s_is_refused(task: str) -> None:
    _, model = tuned(task)
    state = model.state_dict()
    again = model.started_from(state)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    other = small({"vqa": "nlvr2", "nlvr2": "entailment", "entailment": "vqa"}[task])
    with pytest.raises(HarnessError, match="weights to start from: "):
        other.started_from(state)


@pytest.mark.parametrize("task", TASKS)
def test_a_fine_tuned_model_s_own_file_comes_back(tmp_path: Path, task: str) -> None:
    torch.manual_seed(0)
    model = build_host("albef-tiny", task=task).eval()
    save_weights(model, tmp_path / "model.safetensors", "albef-tiny", torch.float32)
    loaded = load_model("albef-tiny", tmp_path / "model.safetensors").model
    assert loaded.config.task == task
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    if task == "nlvr2":
        lender, borrower = (layer.crossattention.self for layer in loaded.fusion[2:4])
        assert borrower.value is lender.value
