"""Facts about the host model: shapes, size, indifference to padding and to the rest of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.hosts.albef.model import Albef
from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import MASK, PAD, SEP, TextTokenizer
from harness.kit.errors import HarnessError

TEXTS = ("a red ring at top left", "what color is the moon at bottom right?", "yes")


@pytest.fixture(scope="module")
def model() -> Albef:
    torch.manual_seed(0)
    return build_host("albef-tiny").double().eval()


def test_size_fits_the_package(model: Albef) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters <= 4_000_000
    assert len(model.vision.blocks) == 12
    assert model.vision.patch_embed.num_patches == 64
    assert model.vision.embed_dim == model.embeddings.words.embedding_dim


@torch.no_grad()
def test_shapes(model: Albef, tokenizer: TextTokenizer, images: Tensor) -> None:
    ids, mask, positions = tokenizer.questions(TEXTS)
    width, length = model.config.width, ids.shape[1]
    texts, image = model.text_batch(ids, mask), model.encode_image(images)
    assert texts.states.shape == (3, length, width)
    assert image.states.shape == (3, 65, width)
    for projected in (model.embed_image(image), model.embed_text(texts)):
        torch.testing.assert_close(projected.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    fused = model.fuse(texts.tokens, image)
    assert fused.states.shape == (3, length, width)
    assert model.match_logits(fused).shape == (3, 2)
    assert model.mlm_logits(fused.states).shape == (3, length, model.config.vocab_size)
    answers = tokenizer.answer_ids(("red", "yes"))
    scores = model.answer_scores(texts, image, answers)
    torch.testing.assert_close(scores[1], model.mlm_logits(fused.states)[1, positions[1], answers])


@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_result(model: Albef, tokenizer: TextTokenizer, images: Tensor) -> None:
    ids, mask = tokenizer(TEXTS)
    together = model.fuse(model.encode_text(ids, mask), model.encode_image(images)).states
    for row, text in enumerate(TEXTS):
        one_ids, one_mask = tokenizer([text])
        alone = model.fuse(model.encode_text(one_ids, one_mask), model.encode_image(images[row : row + 1])).states
        torch.testing.assert_close(together[row : row + 1, : alone.shape[1]], alone, rtol=0, atol=1e-12)


@torch.no_grad()
def test_fusion_reads_both_ways_and_the_image(model: Albef, tokenizer: TextTokenizer, images: Tensor) -> None:
    ids, mask = tokenizer(TEXTS[:1])
    changed = ids.clone()
    changed[0, -2] = tokenizer.vocabulary["right"]
    first, second = (model.encode_image(images[row : row + 1]) for row in (0, 1))
    texts = model.encode_text(ids, mask)
    fused = model.fuse(texts, first).states
    late = texts.states.clone()
    late[:, -1] += 1
    assert (model.fuse(texts.with_states(late), first).states[:, 0] - fused[:, 0]).abs().max() > 1e-6
    assert (model.encode_text(changed, mask).states[:, 0] - texts.states[:, 0]).abs().max() > 1e-6
    assert (model.fuse(texts, second).states[:, 0] - fused[:, 0]).abs().max() > 1e-6


def test_output_words_are_tied_to_input_words(model: Albef) -> None:
    names = dict(model.named_parameters())
    assert [name for name, value in names.items() if model.config.vocab_size in value.shape] == [
        "mlm_bias",
        "embeddings.words.weight",
    ]


def test_questions_keep_their_mask_when_they_are_cut(tokenizer: TextTokenizer) -> None:
    ids, mask, positions = tokenizer.questions(["what color is the ring? " * 20, "is it?"])
    assert ids.shape[1] == tokenizer.max_length
    assert ids[torch.arange(2), positions].tolist() == [MASK, MASK]
    assert ids[torch.arange(2), positions + 1].tolist() == [SEP, SEP]
    assert (mask == (ids != PAD)).all()


def test_unknown_words_become_letters(tokenizer: TextTokenizer) -> None:
    words = {index: word for word, index in tokenizer.vocabulary.items()}
    assert [words[index] for index in tokenizer.words(["Two cats"])[0]] == ["two", "c", "##a", "##t", "##s"]


def test_an_answer_of_two_words_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(HarnessError, match="'light blue'"):
        tokenizer.answer_ids(("red", "light blue"))
