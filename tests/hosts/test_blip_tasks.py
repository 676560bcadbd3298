"""Facts about BLIP fine-tuned: how it is taught answers, how it reads two images, and where both start."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.hosts.blip.layers import PairAttention
from harness.hosts.blip.model import PRESETS, Blip
from harness.hosts.blip.names import OF_PAIRS
from harness.hosts.blip.text import BlipConfig
from harness.hosts.build import build_host
from harness.hosts.host import TextBatch
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.weights.released import load_released
from harness.kit.errors import HarnessError
from harness.kit.recompute import recomputing
from harness.reduction import Tokens

SMALL = {
    **PRESETS["tiny"],
    "image_size": 16,
    "width": 24,
    "depth": 1,
    "text_layers": 2,
    "projection": 16,
    "vocab_size": 41,
    "text_length": 12,
    "dec_id": 39,
    "enc_id": 40,
}
# Two answers to the first question, none to the second, one to the third.
TARGETS = AnswerTargets(
    rows=torch.tensor([0, 2, 0]),
    ids=torch.tensor([[2, 7, 3, 0], [2, 11, 12, 3], [2, 9, 3, 0]]),
    mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 0]]).bool(),
    weights=torch.tensor([0.7, 1.0, 0.3], dtype=torch.float64),
    scores=torch.zeros(3, 1),
)


def small(seed: int = 0, **changes: object) -> Blip:
    torch.manual_seed(seed)
    return Blip(BlipConfig.model_validate({**SMALL, **changes})).double().eval()


def started(before: Blip, **changes: object) -> Blip:
    """A model of a task, of other random weights, started from one before fine-tuning."""
    after = small(1, **changes)
    after.load_state_dict(after.started_from(before.state_dict()))
    return after


@pytest.fixture(scope="module")
def before() -> Blip:
    return small()


@pytest.fixture(scope="module")
def texts() -> TextBatch:
    """Three texts "[CLS] ... [SEP]" of 7, 5 and 4 tokens; BLIP reads an image without their states."""
    ids = torch.randint(5, 39, (3, 7), generator=torch.Generator().manual_seed(1))
    lengths, places = torch.tensor([[7], [5], [4]]), torch.arange(7)
    ids = ids.masked_fill(places == lengths - 1, 3).masked_fill(places >= lengths, 0)
    ids[:, 0] = 2
    return TextBatch(ids, places < lengths, Tokens(torch.full((3, 7, 24), torch.nan), places < lengths))


@pytest.fixture(scope="module")
def images() -> tuple[Tokens, Tokens]:
    """Tokens of two times three images; the second ones were reduced."""
    drawn = torch.randn(2, 3, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return Tokens(drawn[0]), Tokens(drawn[1, :, :3])


@torch.no_grad()
def test_an_answer_s_loss_is_that_of_its_words_times_its_weight(before, texts, images):
    outputs = before.answer_outputs(texts, images[0], TARGETS)
    assert outputs.shape == (3, 4, 41)
    by_hand = [0.0, 0.0, 0.0]
    for answer, question in enumerate(TARGETS.rows.tolist()):
        length = int(texts.mask[question].sum())
        row = torch.tensor([question])
        read = before.ground(texts.ids[row, :length], texts.mask[row, :length], images[0].rows(row))
        for place in range(int(TARGETS.mask[answer].sum()) - 1):
            said = torch.tensor([[SMALL["dec_id"], *TARGETS.ids[answer, 1 : place + 1].tolist()]])
            log_probs = before.decode(said, torch.ones_like(said), read)[0, -1].log_softmax(-1)
            word = 0.9 * log_probs[TARGETS.ids[answer, place + 1]] + 0.1 * log_probs.mean()
            by_hand[question] -= float(TARGETS.weights[answer] * word)
    losses = before.answer_losses(outputs, TARGETS)
    torch.testing.assert_close(losses, torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-12)


def test_question_answering_starts_with_two_equal_readers_that_go_their_own_ways(before, texts, images):
    after = started(before, task="vqa")
    assert after.answer_outputs(texts, images[0], TARGETS).equal(before.answer_outputs(texts, images[0], TARGETS))
    own = dict(after.named_parameters())
    double = "decoder.1.intermediate.dense.weight"
    assert double not in dict(before.named_parameters())
    assert torch.equal(own[double], own[double.replace("decoder", "encoder")])
    after.answer_losses(after.answer_outputs(texts, images[0], TARGETS), TARGETS).sum().backward()
    assert not torch.equal(own[double].grad, own[double.replace("decoder", "encoder")].grad)
    unreached = {name.partition(".")[0] for name, value in own.items() if value.grad is None}
    assert unreached == {"vision", "temperature", "image_projection", "text_projection", "match_head"}


def test_a_task_that_adds_nothing_starts_as_it_was(before):
    after = started(before, task="retrieval")
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in after.state_dict().items())
    assert after.abilities == before.abilities == {"contrast", "match", "answer", "caption"}


def test_what_was_fine_tuned_goes_on_as_it_was():
    for task in ("vqa", "nlvr2"):
        model = small(3, task=task)
        after = started(model, task=task)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in after.state_dict().items())


def test_fine_tuning_starts_from_a_whole_model_of_the_same_size(before):
    state = before.state_dict()
    lacking = {name: value for name, value in state.items() if name != "encoder.0.crossattention.self.key.bias"}
    for task, name in (("vqa", "self.key"), ("nlvr2", "self0.key")):
        with pytest.raises(
            HarnessError, match=rf"weights to start from: lack encoder\.0\.crossattention\.{name}\.bias"
        ):
            small(task=task).started_from(lacking)
    with pytest.raises(HarnessError, match=r"embeddings\.words\.weight is \(41, 24\), expected \(43, 24\)"):
        small(task="nlvr2", vocab_size=43).started_from(state)


def test_the_first_half_of_the_layers_averages_and_the_second_merges():
    with torch.device("meta"):
        model = build_host("blip-base", task="nlvr2")
    assert [layer.crossattention.output.merge_layer is None for layer in model.encoder] == [True] * 6 + [False] * 6
    parts = {name.partition(".")[0] for name in model.state_dict()}
    assert parts == {"vision", "embeddings", "encoder", "pair_head"}


@torch.no_grad()
def test_two_equal_images_are_one_where_they_are_averaged(before, texts, images):
    """The merging layers are made to average too, by [I, I] / 2."""
    after = started(before, task="nlvr2")
    merge = after.encoder[1].crossattention.output.merge_layer
    merge.weight.copy_(torch.eye(24, dtype=torch.float64).repeat(1, 2) / 2)
    two = after.ground_in_two(texts.ids, texts.mask, images[0], images[0]).states
    one = before.ground(texts.ids, texts.mask, images[0]).states
    torch.testing.assert_close(two, one, rtol=0, atol=1e-12)
    merge.weight.mul_(1.01)
    assert not torch.allclose(after.ground_in_two(texts.ids, texts.mask, images[0], images[0]).states, one)


@pytest.mark.parametrize(("merged", "share"), [(False, 0.5), (True, 0.25)])
@torch.no_grad()
def test_each_image_is_read_by_its_own_attention(before, images, merged, share):
    """What a text reads of two images is a mix of what one reads of each, here half or a quarter of the second."""
    single = before.encoder[0].crossattention
    outputs = []
    hook = single.output.dropout.register_forward_hook(lambda module, given, output: outputs.append(output))
    states = torch.randn(3, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for image in images:
        single.output(single.self(states, image.states), states)
    hook.remove()
    pair = PairAttention(single, merged, None).double()
    if merged:
        eye = torch.eye(24, dtype=torch.float64)
        pair.output.merge_layer.weight.copy_(torch.cat([(1 - share) * eye, share * eye], dim=1))
    expected = single.output.LayerNorm((1 - share) * outputs[0] + share * outputs[1] + states)
    torch.testing.assert_close(pair(states, *images), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_statement_is_judged_alone_whatever_stands_beside_it(before, texts, images):
    model = started(before, task="nlvr2")
    together = model.compare(texts, *images)
    assert together.shape == (3, 2)
    for row in range(3):
        alone = model.compare(texts.rows(torch.tensor([row])), *(part.rows(torch.tensor([row])) for part in images))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-12)
    assert not torch.allclose(together, model.compare(texts, *reversed(images)))


def test_every_text_parameter_of_pairs_learns_and_recomputing_changes_nothing(texts, images):
    gradients = []
    for wanted in (False, True):
        model = small(task="nlvr2")
        with recomputing(wanted):
            model.compare(texts, *images).logsumexp(1).sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if "vision." not in name})
    assert all(gradient is not None for gradient in gradients[0].values())
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize(
    ("ask", "ability"),
    [
        (lambda model, texts, image: model.match(texts, image), "match"),
        (lambda model, texts, image: model.embed_image(image), "contrast"),
        (lambda model, texts, image: model.embed_text(texts), "contrast"),
        (lambda model, texts, image: model.answer_scores(texts, image, (TARGETS.ids, TARGETS.mask)), "answer"),
        (lambda model, texts, image: model.answer_outputs(texts, image, TARGETS), "answer"),
        (lambda model, texts, image: model.caption(image), "caption"),
    ],
)
def test_a_model_of_pairs_refuses_all_else(
    texts: TextBatch, images: tuple[Tokens, Tokens], ask: Callable[[Blip, TextBatch, Tokens], Tensor], ability: str
) -> None:
    with pytest.raises(HarnessError, match=f"Blip cannot {ability}: it can compare"):
        ask(small(task="nlvr2"), texts, images[0])


def test_others_refuse_pairs(before, texts, images):
    with pytest.raises(HarnessError, match="Blip cannot compare: it can answer, caption, contrast, match"):
        before.compare(texts, *images)


OURS = {
    r"vision\.(.+)": r"visual_encoder.\1",
    r"embeddings\.words\.(.+)": r"text_encoder.embeddings.word_embeddings.\1",
    r"embeddings\.positions\.(.+)": r"text_encoder.embeddings.position_embeddings.\1",
    r"embeddings\.norm\.(.+)": r"text_encoder.embeddings.LayerNorm.\1",
    r"encoder\.(.+)": r"text_encoder.encoder.layer.\1",
    r"pair_head\.(.+)": r"cls_head.\1",
    r"match_head\.(.+)": r"itm_head.\1",
    r"(image|text)_projection\.(.+)": r"\1_proj.\2",
    "temperature": "temp",
}


def released_file(model: Blip) -> dict[str, Tensor]:
    """A model's tensors under the released names, without a decoder; the golden proves those that others share."""
    file = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in OURS.items():
            if re.fullmatch(ours, name):
                file[re.sub(ours, theirs, name).replace("image_proj.", "vision_proj.")] = tensor
    return file


def test_a_released_file_of_pairs_loads_completely():
    model = small(5, task="nlvr2")
    file = released_file(model)
    assert "text_encoder.encoder.layer.1.crossattention.output.merge_layer.weight" in file
    assert Blip.sizes_for(file) == {"vocab_size": 41, "task": "nlvr2"}
    filled = small(task="nlvr2")
    report = load_released(filled, file, "model_base_nlvr.pth")
    assert (set(report.loaded), report.left_out, report.missing) == (set(file), {}, [])
    assert all(torch.equal(value, filled.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(HarnessError, match=r"it holds cls_head\.0\.weight and 3 more"):
        load_released(small(), file, "model_base_nlvr.pth")


def test_a_released_file_of_pre_training_fills_a_model_of_pairs(before):
    file = {**released_file(before), "text_decoder.cls.predictions.bias": before.word_bias, "queue_ptr": torch.zeros(1)}
    filled = small(1, task="nlvr2")
    report = load_released(filled, file, "model_base.pth")
    assert set(report.loaded) | set(report.left_out) == set(file)
    assert report.missing == [name for name in filled.state_dict() if re.fullmatch(OF_PAIRS, name)] != []
    expected = filled.started_from(before.state_dict())
    assert all(torch.equal(value, expected[name]) for name, value in filled.state_dict().items())
