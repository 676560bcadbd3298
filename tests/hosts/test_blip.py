"""Facts about BLIP: what its three readers share, see and say; the files of others that it can be filled from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import BlipConfig as TheirConfig
from transformers import (
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    PreTrainedModel,
)

from harness.hosts.blip.model import PRESETS, Blip
from harness.hosts.blip.text import BlipConfig, begun
from harness.hosts.build import build_host
from harness.hosts.host import TextBatch
from harness.hosts.parts.answers import token_losses
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.released import LoadReport, load_released
from harness.kit.errors import HarnessError
from harness.kit.recompute import recomputing
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer

SMALL = {
    **PRESETS["tiny"],
    "image_size": 16,
    "width": 24,
    "depth": 2,
    "text_layers": 2,
    "projection": 16,
    "vocab_size": 41,
    "text_length": 12,
    "dec_id": 39,
    "enc_id": 40,
}
TEXTS = ("a red ring at top left", "what color is the moon at bottom right?", "yes")


def small(**changes: object) -> Blip:
    torch.manual_seed(0)
    return Blip(BlipConfig.model_validate({**SMALL, **changes})).double().eval()


def mean_loss(model: Blip, *read: Tensor | Tokens, **settings: object) -> Tensor:
    """Loss of a caption's next words, a mean over the words."""
    total, count = model.lm_loss_sum(*read, **settings)
    return total / count


@pytest.fixture(scope="module")
def model() -> Blip:
    return small()


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    """Three texts "[CLS] ... [SEP]" of 7, 5 and 4 tokens."""
    ids = torch.randint(5, 39, (3, 7), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([[7], [5], [4]])
    places = torch.arange(7)
    ids = ids.masked_fill(places == lengths - 1, SMALL["sep_id"]).masked_fill(places >= lengths, SMALL["pad_id"])
    ids[:, 0] = SMALL["cls_id"]
    return ids, places < lengths


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def answers() -> tuple[Tensor, Tensor]:
    """Four answers; the first two begin with the same word."""
    ids = torch.tensor([[2, 7, 3, 0], [2, 7, 8, 3], [2, 9, 3, 0], [2, 11, 12, 3]])
    return ids, ids != 0


def test_tiny_is_albef_tiny_with_another_text_side():
    albef, blip = build_host("albef-tiny"), build_host("blip-tiny")
    blip.vision.load_state_dict(albef.vision.state_dict(), strict=True)
    for name in ("image_size", "patch_size", "text_length", "mean", "std", "projection"):
        assert getattr(albef.config, name) == getattr(blip.config, name)
    words = len((assets_of("albef-tiny") / VOCABULARY_FILE).read_text(encoding="utf-8").split())
    assert (words, words + 1, words + 2) == (blip.config.dec_id, blip.config.enc_id, blip.config.vocab_size)


def test_a_vocabulary_decides_the_special_tokens():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *Blip.EXTRA_WORDS]
    sizes = Blip.vocabulary_sizes({word: index for index, word in enumerate(words)})
    assert sizes == {"vocab_size": 8, "pad_id": 0, "cls_id": 2, "sep_id": 3, "dec_id": 6, "enc_id": 7}


def test_base_has_the_released_sizes():
    with torch.device("meta"):
        model = build_host("blip-base")
    assert model.embeddings.words.weight.shape == (30524, 768)
    assert model.embeddings.positions.weight.shape == (512, 768)
    assert (len(model.vision.blocks), len(model.encoder), len(model.decoder)) == (12, 12, 12)
    assert model.image_projection.weight.shape == (256, 768)
    assert [model.config.dec_id, model.config.enc_id] == [30522, 30523]


@torch.no_grad()
def test_shapes(model, texts, images, answers):
    batch, states = model.text_batch(*texts), model.encode_image(images)
    assert batch.states.shape == (3, 7, 24)
    assert states.states.shape == (3, 5, 24)
    for place in (model.embed_image(states), model.embed_text(batch)):
        assert place.shape == (3, 16)
        torch.testing.assert_close(place.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert model.match(batch, states).shape == (3, 2)
    assert model.decode(*texts, states).shape == (3, 7, 41)
    assert model.answer_scores(batch, states, answers).shape == (3, 4)
    assert model.caption(states, max_length=9).shape == (3, 8)


@torch.no_grad()
def test_a_ratio_of_one_is_the_dense_model_bit_for_bit(model, texts, images):
    tower = open_tower(model.vision)
    schedule = {"begin": [1], "keep": [0.5], "lookahead": [1]}
    reducer = make_reducer("elip", tower.shape, ratio=1.0, settings={"schedule": schedule})
    kept = encode(tower, reducer, images, model.guide(model.text_batch(*texts)))
    assert torch.equal(kept.states, model.encode_image(images).states)


@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_result(model, texts, images, answers):
    ids, mask = texts

    def results(ids: Tensor, mask: Tensor, images: Tensor) -> list[Tensor]:
        batch, states = model.text_batch(ids, mask), model.encode_image(images)
        losses, _ = model.lm_losses(ids, mask, states)
        return [
            model.embed_text(batch),
            model.match(batch, states),
            model.decode(ids, mask, states)[:, :4],
            losses.sum(1, keepdim=True),
            model.answer_scores(batch, states, answers),
            model.caption(states, max_length=9),
        ]

    together = results(ids, mask, images)
    for row in range(3):
        length = int(mask[row].sum())
        alone = results(ids[row : row + 1, :length], mask[row : row + 1, :length], images[row : row + 1])
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours, theirs[row : row + 1], rtol=0, atol=1e-12)


def test_encoder_and_decoder_share_all_but_self_attention(model):
    own = [name for name in model.state_dict() if name.startswith("decoder")]
    assert own == [
        f"decoder.{layer}.attention.{part}.{kind}"
        for layer in range(2)
        for part in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
        for kind in ("weight", "bias")
    ]
    pointers = [parameter.data_ptr() for parameter in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(
    ("part", "encoder_alone", "grounded", "decoder"),
    [
        ("encoder.0.intermediate.dense.weight", True, True, True),
        ("encoder.1.crossattention.self.value.weight", False, True, True),
        ("encoder.0.attention.self.value.weight", True, True, False),
        ("decoder.0.attention.self.value.weight", False, False, True),
        ("embeddings.words.weight", True, True, True),
        ("embeddings.positions.weight", True, True, True),
    ],
)
@torch.no_grad()
def test_a_step_on_a_tensor_changes_those_who_hold_it(texts, images, part, encoder_alone, grounded, decoder):
    model = small()

    def outputs() -> list[Tensor]:
        states = model.encode_image(images)
        read = model.encode_text(*texts), model.ground(*texts, states)
        return [*(tokens.states for tokens in read), model.decode(*texts, states)]

    before = outputs()
    model.get_parameter(part).add_(torch.randn_like(model.get_parameter(part)))
    changed = [not torch.equal(ours, theirs) for ours, theirs in zip(before, outputs(), strict=True)]
    assert changed == [encoder_alone, grounded, decoder]


def test_every_parameter_is_reached_by_one_of_the_losses(texts, images):
    model = small()
    batch, states = model.text_batch(*texts), model.encode_image(images)
    similarity = model.embed_text(batch) @ model.embed_image(states).T / model.temperature
    loss = similarity.logsumexp(1).sum() + model.match(batch, states).logsumexp(1).sum()
    (loss + mean_loss(model, *texts, states)).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_recomputed_blocks_give_the_same_gradients(texts, images):
    gradients = []
    for wanted in (False, True):
        model = small()
        with recomputing(wanted):
            mean_loss(model, *texts, model.encode_image(images)).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@torch.no_grad()
def test_the_decoder_looks_back_and_the_encoder_both_ways(model, texts, images):
    ids, mask = texts
    states, changed = model.encode_image(images), ids.clone()
    changed[:, 3] += 1
    before, after = (model.decode(each, mask, states) for each in (ids, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any(-1)[mask[:, 3:]].all()
    before, after = (model.ground(each, mask, states).states for each in (ids, changed))
    assert (before != after).any(-1)[mask].all()


@torch.no_grad()
def test_what_is_read_counts_and_masked_states_do_not(model, texts, images):
    states = model.encode_image(images).states
    whole, turned = (model.decode(*texts, Tokens(each)) for each in (states, states.flip(0)))
    assert not torch.allclose(whole, turned)
    keep = torch.ones(states.shape[:2], dtype=torch.bool)
    keep[:, -2:] = False
    masked = model.decode(*texts, Tokens(states, keep))
    torch.testing.assert_close(masked, model.decode(*texts, Tokens(states[:, :-2])), rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_first_token_says_who_reads(model, texts, images):
    ids, mask = texts
    states = model.encode_image(images)
    other = begun(ids, 9)
    assert torch.equal(model.ground(ids, mask, states).states, model.ground(other, mask, states).states)
    assert torch.equal(mean_loss(model, ids, mask, states), mean_loss(model, other, mask, states))
    batch = TextBatch(ids, mask, Tokens(torch.full((3, 7, 24), torch.nan), mask))
    assert model.match(batch, states).isfinite().all()


@torch.no_grad()
def test_the_loss_is_the_smoothed_mean_over_words_to_come(model, texts, images):
    ids, mask = texts
    states = model.encode_image(images)
    log_probs = model.decode(begun(ids, SMALL["dec_id"]), mask, states).log_softmax(-1)
    by_hand = [
        -(0.8 * log_probs[row, place, ids[row, place + 1]] + 0.2 * log_probs[row, place].mean())
        for row in range(3)
        for place in range(int(mask[row].sum()) - 1)
    ]
    total, count = model.lm_loss_sum(ids, mask, states, smoothing=0.2)
    assert int(count) == len(by_hand) == 13
    torch.testing.assert_close(total, torch.stack(by_hand).sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(mean_loss(model, ids, mask, states, smoothing=0.2), total / count)


def test_a_prompt_is_not_learnt(model, texts):
    labels = model.labels(*texts, prompt=2)
    assert (labels[:, :3] == -100).all()
    assert torch.equal(labels[:, 3:], model.labels(*texts)[:, 3:])
    losses = token_losses(torch.zeros(3, 7, 41), labels, 0.0)
    assert torch.equal(losses != 0, labels[:, 1:] != -100)


@torch.no_grad()
def test_an_answer_is_scored_by_its_losses_given_the_question(model, texts, images, answers):
    batch, states = model.text_batch(*texts), model.encode_image(images)
    scores = model.answer_scores(batch, states, answers)
    question = model.ground(*texts, states)
    for index in range(4):
        ids, mask = (part[index : index + 1].expand(3, -1) for part in answers)
        losses, _ = model.lm_losses(ids, mask, question)
        torch.testing.assert_close(scores[:, index], -losses.sum(1), rtol=0, atol=1e-12)


@torch.no_grad()
def test_only_answers_with_a_likely_first_word_are_scored(model, texts, images, answers):
    batch, states = model.text_batch(*texts), model.encode_image(images)
    every, few = (model.answer_scores(batch, states, answers, candidates=count) for count in (9, 2))
    opening = torch.full((3, 1), SMALL["dec_id"])
    first = model.decode(opening, torch.ones_like(opening), model.ground(*texts, states))[:, 0]
    chosen = first[:, answers[0][:, 1]].argsort(dim=1, descending=True, stable=True)[:, :2]
    assert every.isfinite().all()
    assert torch.equal(few.isfinite(), torch.zeros(3, 4, dtype=torch.bool).scatter(1, chosen, True))
    torch.testing.assert_close(few[few.isfinite()], every[few.isfinite()], rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_caption_continues_its_prompt(model, images):
    states, prompt = model.encode_image(images), torch.tensor([7, 8])
    captions = model.caption(states, prompt, beams=1, max_length=9, min_length=8)
    ids = torch.tensor([[SMALL["dec_id"], 7, 8]] * 3)
    while ids.shape[1] < 8:
        log_probs = model.decode(ids, torch.ones_like(ids), states)[:, -1]
        ids = torch.cat([ids, log_probs.index_fill(1, torch.tensor([3]), -torch.inf).argmax(1, keepdim=True)], dim=1)
    assert torch.equal(captions[:, :5], ids[:, 3:])


def test_a_caption_beyond_the_position_table_is_refused(model, images):
    with pytest.raises(HarnessError, match="captions of 13 tokens: expected at most 12"):
        model.caption(model.encode_image(images), max_length=13)


@torch.no_grad()
def test_real_texts_go_through_tiny():
    tokenizer = TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, PRESETS["tiny"]["text_length"])
    torch.manual_seed(0)
    model = build_host("blip-tiny").eval()
    batch = model.text_batch(*tokenizer(TEXTS))
    states = model.encode_image(torch.randn(3, 3, 64, 64))
    assert model.match(batch, states).isfinite().all()
    assert model.answer_scores(batch, states, tokenizer(["yes", "no", "top left"])).isfinite().all()


def their_config(**text: object) -> TheirConfig:
    """transformers' config of the small BLIP; its default for the ViT's eps, 1e-5, is not the released program's."""
    shared = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 96}
    return TheirConfig(
        text_config={
            **shared,
            "vocab_size": 41,
            "max_position_embeddings": 12,
            "encoder_hidden_size": 24,
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "bos_token_id": SMALL["dec_id"],
            "sep_token_id": SMALL["sep_id"],
            "pad_token_id": SMALL["pad_id"],
            "eos_token_id": SMALL["sep_id"],
            "label_smoothing": 0.1,
            **text,
        },
        vision_config={**shared, "image_size": 16, "patch_size": 8, "layer_norm_eps": 1e-6},
        image_text_hidden_size=16,
    )


def theirs(kind: type[PreTrainedModel]) -> PreTrainedModel:
    """A random model of transformers; deviations such that attention is not flat and words are not alike."""
    torch.manual_seed(3)
    model = kind(their_config()).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name and "norm" not in name:
                parameter.normal_(std=0.3)
    return model


def loaded(other: PreTrainedModel, **changes: object) -> tuple[Blip, LoadReport]:
    model = small(**changes)
    return model, load_released(model, other.state_dict(), type(other).__name__)


@torch.no_grad()
def test_transformers_captioner_says_the_same(texts, images):
    ids, mask = texts
    other = theirs(BlipForConditionalGeneration)
    model, _ = loaded(other)
    ids = begun(ids, SMALL["dec_id"])
    labels = model.labels(ids, mask)
    expected = other(pixel_values=images, input_ids=ids, attention_mask=mask.long(), labels=labels)
    states = model.encode_image(images)
    torch.testing.assert_close(states.states, expected.image_embeds, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.decode(ids, mask, states), expected.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(mean_loss(model, ids, mask, states), expected.loss, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [-2.0, 1.0, 4.0], ids=["long", "medium", "short"])
@pytest.mark.parametrize(
    ("beams", "min_length", "penalty"), [(3, 5, 1.0), (3, 1, 1.0), (2, 5, 1.2), (1, 5, 1.0), (5, 3, 1.1)]
)
@torch.no_grad()
def test_transformers_search_finds_the_same_captions(images, bias, beams, min_length, penalty):
    other = theirs(BlipForConditionalGeneration)
    other.text_decoder.cls.predictions.bias[SMALL["sep_id"]] = bias
    model, _ = loaded(other)
    prompt = torch.tensor([7, 8])
    settings = {"max_length": 12, "min_length": min_length, "repetition_penalty": penalty}
    whole = torch.tensor([[SMALL["dec_id"], 7, 8, SMALL["sep_id"]]] * 3)
    expected = other.generate(images, input_ids=whole, num_beams=beams, do_sample=False, **settings)
    captions = model.caption(model.encode_image(images), prompt, beams=beams, **settings)
    for ours, their in zip(captions.tolist(), expected[:, 3:].tolist(), strict=True):
        end = ours.index(SMALL["sep_id"]) + 1 if SMALL["sep_id"] in ours else len(ours)
        assert ours[:end] == their[:end]
        assert set(ours[end:]) <= {SMALL["pad_id"]}


@torch.no_grad()
def test_transformers_retriever_says_the_same(texts, images):
    ids, mask = texts
    other = theirs(BlipForImageTextRetrieval)
    model, _ = loaded(other)
    batch, states = model.text_batch(ids, mask), model.encode_image(images)
    read = begun(ids, SMALL["enc_id"])
    expected = other(pixel_values=images, input_ids=read, attention_mask=mask.long())
    torch.testing.assert_close(model.ground(*texts, states).states, expected.question_embeds, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.match(batch, states), expected.itm_score, rtol=0, atol=1e-10)
    expected = other(pixel_values=images, input_ids=ids, attention_mask=mask.long(), use_itm_head=False)
    similarity = model.embed_image(states) @ model.embed_text(batch).T
    torch.testing.assert_close(similarity, expected.itm_score, rtol=0, atol=1e-10)


@torch.no_grad()
def test_transformers_answerer_says_the_same_and_shares_nothing(texts, images, answers):
    ids, mask = texts[0], torch.ones(3, 7, dtype=torch.bool)  # transformers 5.23 drops a question's mask on its way
    other = theirs(BlipForQuestionAnswering)
    model, report = loaded(other, shared=False)
    written = begun(answers[0][[1, 2, 3]], SMALL["dec_id"])
    written_mask = written != SMALL["pad_id"]
    expected = other(
        input_ids=begun(ids, SMALL["enc_id"]),
        pixel_values=images,
        attention_mask=mask.long(),
        decoder_input_ids=written,
        decoder_attention_mask=written_mask.long(),
        labels=model.labels(written, written_mask),
    )
    question = model.ground(ids, mask, model.encode_image(images))
    loss = mean_loss(model, written, written_mask, question)
    torch.testing.assert_close(loss, expected.loss, rtol=0, atol=1e-10)
    assert report.missing == HEADS
    with pytest.raises(HarnessError, match=r"differs from .*, to which it is tied"):
        loaded(other)


@pytest.mark.parametrize(("bias", "beams"), [(0.0, 3), (2.0, 3), (4.0, 1)])
@torch.no_grad()
def test_transformers_search_finds_the_same_answers(images, bias, beams):
    """To questions of one length: it reads the padding of shorter ones."""
    other = theirs(BlipForQuestionAnswering)
    other.text_decoder.cls.predictions.bias[SMALL["sep_id"]] = bias
    other.decoder_start_token_id = SMALL["dec_id"]
    model, _ = loaded(other, shared=False)
    ids = torch.randint(5, 39, (3, 7), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids).bool()
    search = {"max_length": 10, "min_length": 1}
    expected = other.generate(
        begun(ids, SMALL["enc_id"]), images, mask.long(), num_beams=beams, do_sample=False, **search
    )
    texts = TextBatch(begun(ids, 2), mask, Tokens(torch.full((3, 7, 24), torch.nan), mask))
    answers = model.say_answers(texts, model.encode_image(images), beams=beams, **search)
    for ours, their in zip(answers.tolist(), expected[:, 1:].tolist(), strict=True):
        end = ours.index(SMALL["sep_id"]) + 1 if SMALL["sep_id"] in ours else len(ours)
        assert ours[:end] == their[:end]
        assert set(ours[end:]) <= {SMALL["pad_id"]}


@torch.no_grad()
def test_a_generated_answer_depends_on_no_batch_mate(model, images, texts):
    ids, mask = texts
    assert len(set(mask.sum(1).tolist())) > 1
    states = model.encode_image(images)
    together = model.say_answers(model.text_batch(ids, mask), states)
    assert len({tuple(row) for row in together.tolist()}) > 1
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model.text_batch(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert torch.equal(model.say_answers(alone, states.rows(torch.tensor([row]))), together[row : row + 1])
    with pytest.raises(HarnessError, match="answers of 13 tokens: expected at most 12"):
        model.say_answers(model.text_batch(ids, mask), states, max_length=13)


HEADS = [
    "temperature",
    "image_projection.weight",
    "image_projection.bias",
    "text_projection.weight",
    "text_projection.bias",
    "match_head.weight",
    "match_head.bias",
]


def released_file(model: Blip) -> dict[str, Tensor]:
    """The tensors of a small BLIP under the released names, doubles included; the golden proves those names."""
    prefixes = {
        "vision.": "visual_encoder.",
        "image_projection.": "vision_proj.",
        "text_projection.": "text_proj.",
        "match_head.": "itm_head.",
        "word_transform.0.": "text_decoder.cls.predictions.transform.dense.",
        "word_transform.2.": "text_decoder.cls.predictions.transform.LayerNorm.",
    }
    parts = {"words.": "word_embeddings.", "positions.": "position_embeddings.", "norm.": "LayerNorm."}
    sides = {"encoder": "text_encoder", "decoder": "text_decoder.bert"}
    file = {}
    for name, tensor in model.state_dict().items():
        head, _, rest = name.partition(".")
        if head in sides:
            file[f"{sides[head]}.encoder.layer.{rest}"] = tensor
            if head == "encoder" and ".attention." not in name:
                file[f"text_decoder.bert.encoder.layer.{rest}"] = tensor
        elif head == "embeddings":
            part = next(rest.replace(ours, their) for ours, their in parts.items() if rest.startswith(ours))
            file |= {f"{side}.embeddings.{part}": tensor for side in sides.values()}
        elif name == "temperature":
            file["temp"] = tensor
        elif name == "word_bias":
            file["text_decoder.cls.predictions.bias"] = file["text_decoder.cls.predictions.decoder.bias"] = tensor
        else:
            ours, their = next(pair for pair in prefixes.items() if name.startswith(pair[0]))
            file[their + name.removeprefix(ours)] = tensor
    file["text_decoder.cls.predictions.decoder.weight"] = model.embeddings.words.weight
    return file


TRAINING = {
    "text_encoder.embeddings.position_ids": torch.arange(12)[None],
    "text_decoder.bert.embeddings.position_ids": torch.arange(12)[None],
    "visual_encoder_m.cls_token": torch.zeros(1, 1, 24),
    "text_encoder_m.encoder.layer.0.attention.self.query.bias": torch.zeros(24),
    "vision_proj_m.bias": torch.zeros(16),
    "text_proj_m.bias": torch.zeros(16),
    "image_queue": torch.zeros(16, 8),
    "text_queue": torch.zeros(16, 8),
    "idx_queue": torch.zeros(1, 8),
    "queue_ptr": torch.zeros(1),
    "ptr_queue": torch.zeros(1),
}
VISION = ("visual_encoder.",)
KINDS = {
    "pre-training": (*VISION, "text_", "vision_proj", "itm_head", "temp", "image_queue", "idx_queue"),
    "retrieval": (*VISION, "text_encoder", "text_proj", "text_queue", "vision_proj", "itm_head", "temp", "ptr_queue"),
    "captioning": (*VISION, "text_decoder."),
    "answering": (*VISION, "text_encoder.", "text_decoder."),
}


@pytest.mark.parametrize("kind", KINDS)
def test_released_files_of_every_kind_load_completely(model, kind):
    whole = {**released_file(model), **TRAINING}
    file = {name: tensor + 1 for name, tensor in whole.items() if name.startswith(KINDS[kind])}
    filled = small()
    report = load_released(filled, file, f"{kind}.pth")
    assert set(report.loaded) | set(report.left_out) == set(file)
    not_loaded = {name for name, reason in report.left_out.items() if not reason.startswith("double of ")}
    assert not_loaded == set(file) & set(TRAINING)
    missing = {
        "pre-training": [],
        "retrieval": ["word_bias", "word_transform", *[f"decoder.{layer}" for layer in range(2)]],
        "captioning": [*HEADS, *[f"encoder.{layer}.attention" for layer in range(2)]],
        "answering": HEADS,
    }[kind]
    for name, tensor in filled.state_dict().items():
        held = model.state_dict()[name]
        assert (name in report.missing) == name.startswith(tuple(missing) or ("nothing",))
        if name not in report.missing:
            assert torch.equal(tensor, held + 1), name


def test_a_file_of_albef_is_refused(model):
    common = ("visual_encoder.", "vision_proj", "text_proj", "itm_head", "temp")
    file = {name: tensor for name, tensor in released_file(model).items() if name.startswith(common)}
    file |= {"text_encoder.bert.embeddings.LayerNorm.weight": torch.zeros(24)}
    with pytest.raises(HarnessError, match=r"not of Blip of this size: it holds text_encoder\.bert"):
        load_released(small(), file, "ALBEF.pth")


def test_a_file_of_another_size_is_refused(model):
    with pytest.raises(HarnessError, match=r"word_embeddings.weight is \(41, 24\), expected \(41, 48\)"):
        load_released(small(width=48), released_file(model), "small.pth")
