"""Opened text, fusion and decoder layers are the layers they were opened from, and methods work in those they name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from harness.hosts.build import build_host
from harness.hosts.clip.model import PRESETS as CLIP_PRESETS
from harness.hosts.clip.model import ClipConfig, text_blocks
from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.attention import TRANSFORMERS_NAME
from harness.hosts.parts.bert import bert_layers
from harness.hosts.parts.text_stacks import BertStack, ClipTextStack, CoAttentionStack, through
from harness.kit.recompute import recomputing
from harness.reduction import (
    Evidence,
    MethodConfig,
    StackShape,
    TokenReducer,
    Tokens,
    TokenState,
    join,
    reducing,
)

WIDTH, HEADS = 24, 3
TOWER: dict[str, Any] = {"image_size": 32, "width": WIDTH, "heads": HEADS, "text_layers": 2, "vocab_size": 41}
SMALL: dict[str, dict[str, Any]] = {
    "albef": {**TOWER, "depth": 2, "text_length": 12, "fusion_layers": 2, "projection": 12},
    "blip": {**TOWER, "depth": 2, "text_length": 12, "projection": 12, "dec_id": 39, "enc_id": 40},
    "meter": {**TOWER, "depth": 2, "text_length": 12, "fusion_layers": 2, "answer_classes": 5},
}
FAMILIES = tuple(SMALL)
LENGTHS = (7, 5, 4)
# By what transformers' layers attend, and how far they may be off: through this program's kernel nothing.
WAYS = {TRANSFORMERS_NAME: 0.0, "sdpa": 1e-13}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standing(count: int, *lengths: int) -> Tensor:
    """Mask (B, count) of rows of so many tokens."""
    return torch.arange(count) < torch.tensor(lengths)[:, None]


def as_keys(mask: Tensor) -> Tensor:
    return mask[:, None, None, :]


def berts(count: int = 2, *, cross: bool = False, seed: int = 0) -> nn.ModuleList:
    torch.manual_seed(seed)
    return bert_layers(WIDTH, HEADS, count, mlp=48, cross_attention=cross).double().eval()


def of_transformers(count: int, cross: bool, way: str) -> nn.ModuleList:
    """transformers' layers, which allow cross-attention in those of a decoder alone."""
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 48, "layer_norm_eps": 1e-12}
    config = BertConfig(**sizes, is_decoder=cross, add_cross_attention=cross, attn_implementation=way)
    return nn.ModuleList(BertLayer(config, layer_idx=index) for index in range(count))


def theirs(ours: nn.ModuleList, way: str = TRANSFORMERS_NAME) -> nn.ModuleList:
    """transformers' layers with the tensors of ours."""
    layers = of_transformers(len(ours), hasattr(ours[0], "crossattention"), way)
    layers.load_state_dict(ours.state_dict())
    return layers.double().eval()


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_bert_layers_are_transformers_own(way: str, cross: bool, padded: bool) -> None:
    layers, states, image = berts(cross=cross), drawn(3, 7, WIDTH), drawn(3, 5, WIDTH, seed=1)
    mask, image_mask = standing(7, *LENGTHS), standing(5, 5, 2, 4) if padded else None
    expected = states
    for layer in theirs(layers, way):
        read = (image, None if image_mask is None else as_keys(image_mask)) if cross else ()
        expected = layer(expected, as_keys(mask), *read)
    stack = BertStack(layers, read=(Tokens(image, image_mask),) if cross else ())
    found = through(stack, Tokens(states, mask))
    torch.testing.assert_close(found.states, expected, rtol=0, atol=WAYS[way])
    assert found.mask is not None
    assert torch.equal(found.mask, mask)


@pytest.mark.parametrize("cross", [False, True])
def test_bert_layers_are_named_and_drawn_as_transformers_own(cross: bool) -> None:
    """A seed gives the weights that it always gave, in the order in which files and optimisers know them."""
    torch.manual_seed(0)
    expected = of_transformers(2, cross, TRANSFORMERS_NAME)
    for module in expected.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    after = torch.rand(1)
    torch.manual_seed(0)
    found = bert_layers(WIDTH, HEADS, 2, mlp=48, cross_attention=cross)
    assert torch.equal(torch.rand(1), after)
    assert [name for name, _ in found.named_parameters()] == [name for name, _ in expected.named_parameters()]
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())


@torch.no_grad()
def test_bert_layers_without_cross_attention_need_no_mask() -> None:
    layers, states = berts(), drawn(3, 7, WIDTH)
    expected = states
    for layer in theirs(layers):
        expected = layer(expected)
    assert torch.equal(through(BertStack(layers), Tokens(states)).states, expected)


@torch.no_grad()
def test_a_decoder_looks_back_and_may_borrow_the_rest_of_its_layers() -> None:
    own, lenders = berts(cross=True), berts(cross=True, seed=1)
    states, image, mask = drawn(3, 7, WIDTH), drawn(3, 5, WIDTH, seed=1), standing(7, *LENGTHS)
    expected, earlier = states, as_keys(mask) & torch.ones(7, 7, dtype=torch.bool).tril()
    for layer, lender in zip(theirs(own), theirs(lenders), strict=True):
        attended, _ = layer.attention(expected, earlier)
        crossed, _ = lender.crossattention(attended, encoder_hidden_states=image)
        expected = lender.feed_forward_chunk(crossed)
    stack = BertStack(own, "decoder", read=(Tokens(image),), causal=True, lenders=lenders)
    assert torch.equal(through(stack, Tokens(states, mask)).states, expected)


@torch.no_grad()
def test_what_is_read_takes_turns() -> None:
    layers, states = berts(4, cross=True), drawn(3, 7, WIDTH)
    first, second = drawn(3, 5, WIDTH, seed=1), drawn(3, 4, WIDTH, seed=2)
    mask, expected = standing(7, *LENGTHS), states
    for number, layer in enumerate(theirs(layers)):
        expected = layer(expected, as_keys(mask), second if number % 2 else first)
    stack = BertStack(layers, "fusion", read=(Tokens(first), Tokens(second)))
    assert torch.equal(through(stack, Tokens(states, mask)).states, expected)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_two_streams_read_what_the_other_was_before_the_layer(padded: bool) -> None:
    texts, images = berts(cross=True), berts(cross=True, seed=1)
    text, image, mask = drawn(3, 7, WIDTH), drawn(3, 5, WIDTH, seed=1), standing(7, *LENGTHS)
    image_mask = standing(5, 5, 2, 4) if padded else torch.ones(3, 5, dtype=torch.bool)
    given = Tokens(text, mask), Tokens(image, image_mask if padded else None)
    for text_layer, image_layer in zip(theirs(texts), theirs(images), strict=True):
        text, image = (
            text_layer(text, as_keys(mask), image, as_keys(image_mask)),
            image_layer(image, as_keys(image_mask), text, as_keys(mask)),
        )
    found = through(CoAttentionStack(texts, images), given)
    assert found.beside is not None
    # A mask of ones instead of none is another kernel of torch's.
    torch.testing.assert_close(found.states, text, rtol=0, atol=0 if padded else 1e-13)
    torch.testing.assert_close(found.beside.states, image, rtol=0, atol=0 if padded else 1e-13)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_clip_text_blocks_are_transformers_own(way: str, padded: bool) -> None:
    torch.manual_seed(0)
    sizes = {"text_width": WIDTH, "text_heads": HEADS, "text_layers": 3}
    blocks = text_blocks(ClipConfig.model_validate({**CLIP_PRESETS["tiny"], **sizes})).double().eval()
    for block in blocks:
        block.self_attn.config._attn_implementation = way
    states, mask = drawn(3, 7, WIDTH), standing(7, *LENGTHS) if padded else None
    earlier = torch.ones(7, 7, dtype=torch.bool).tril().expand(3, 1, -1, -1)
    expected = states
    for block in blocks:
        expected = block(expected, earlier if mask is None else earlier & as_keys(mask))
    found = through(ClipTextStack(blocks, HEADS, WIDTH), Tokens(states, mask))
    torch.testing.assert_close(found.states, expected, rtol=0, atol=WAYS[way])


@cache
def host(family: str) -> HostModel:
    torch.manual_seed(0)
    model: HostModel = build_host(f"{family}-tiny", **SMALL[family]).double().eval()
    return model


def words() -> tuple[Tensor, Tensor]:
    """Three texts "[CLS] ... [SEP]" of 7, 5 and 4 tokens: ids and mask."""
    ids = torch.randint(5, 38, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = standing(7, *LENGTHS)
    ids = ids.masked_fill(torch.arange(7) == mask.sum(1, keepdim=True) - 1, 3).masked_fill(~mask, 0)
    ids[:, 0] = 2
    return ids, mask


def tokens_of(model: HostModel) -> Tokens:
    return model.encode_image(drawn(3, 3, 32, 32, seed=2))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_stand_in_an_image_is_not_read(family: str) -> None:
    model = host(family)
    texts, image = model.text_batch(*words()), tokens_of(model)
    padding = torch.full((3, 4, WIDTH), 7.0, dtype=torch.float64)
    padded = Tokens(torch.cat([image.states, padding], dim=1), standing(21, 17, 17, 17))
    expected = model.match(texts, image)
    torch.testing.assert_close(model.match(texts, padded), expected, rtol=0, atol=1e-12)
    unmasked = Tokens(padded.states)
    assert (model.match(texts, unmasked) - expected).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_different_numbers_of_tokens_are_matched_as_they_are_alone(family: str) -> None:
    model = host(family)
    texts, whole = model.text_batch(*words()), tokens_of(model)
    parts = [Tokens(whole.states[row : row + 1, : 17 - 4 * row]) for row in range(3)]
    together = model.match(texts, join(parts))
    for row, part in enumerate(parts):
        alone = model.match(texts.rows(torch.tensor([row])), part)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


class LastTwo(TokenReducer[MethodConfig]):
    """In block 0 merges the last two words that stand into one."""

    def __init__(self) -> None:
        super().__init__(MethodConfig(), StackShape(1, 1, 1, 1, True))
        self.saw: list[int] = []

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        self.saw.append(block)
        if block:
            return state
        batch, patches = len(state.tokens), state.patches
        stands = state.standing
        count = torch.full((batch, 1), patches) if stands is None else stands[:, state.prefix :].sum(1, keepdim=True)
        places = torch.arange(patches).expand(batch, -1)
        rest = places[places != count - 1].view(batch, patches - 1)
        return state.merge(count - 1, count - 2, rest)


class InTexts(LastTwo):
    stacks = frozenset({"text"})


class InFusion(LastTwo):
    stacks = frozenset({"fusion"})


class InBoth(LastTwo):
    stacks = frozenset({"text", "fusion"})


def fused(model: Any, texts: TextBatch, image: Tokens) -> Tokens:
    """The text's tokens that have read the image's."""
    ways: dict[str, Callable[[], Tokens]] = {
        "Albef": lambda: model.fuse(texts.tokens, image),
        "Blip": lambda: model.ground(texts.ids, texts.mask, image),
        "Meter": lambda: model.co_attend(texts, image).text,
    }
    return ways[type(model).__name__]()


def check_merged(tokens: Tokens, merges: int) -> None:
    """So many tokens fewer in every row, with sizes and origins that say where the last words are."""
    assert tokens.states.shape[1] == 7 - merges
    assert tokens.standing.sum(1).tolist() == [length - merges for length in LENGTHS]
    assert tokens.sizes is not None
    assert (tokens.sizes * tokens.standing).sum(1).tolist() == list(LENGTHS)
    assert tokens.origin is not None
    for row, length in enumerate(LENGTHS):
        last = length - 2 - merges
        assert tokens.sizes[row, 1 + last] == 1 + merges
        assert tokens.origin[row, : length - 1].tolist() == [*range(last), *[last] * (1 + merges)]
    assert tokens.at_inputs().shape[1] == 7


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_of_texts_shortens_texts(family: str) -> None:
    model, method = host(family), InTexts()
    plain, image = model.text_batch(*words()), tokens_of(model)
    with reducing(method):
        texts = model.text_batch(*words())
        logits = model.match(texts, image)
    check_merged(texts.tokens, 1)
    assert method.saw == [0, 1]
    assert torch.equal(texts.ids, plain.ids)
    assert not torch.allclose(texts.states[:, 0], plain.states[:, 0])
    if family == "blip":  # its grounded texts are not the text encoder's
        assert torch.equal(logits, model.match(plain, image))
    else:
        check_merged(fused(model, texts, image), 1)
        assert logits.isfinite().all()
        assert not torch.allclose(logits, model.match(plain, image))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_of_fusion_shortens_what_is_fused(family: str) -> None:
    model, image = host(family), tokens_of(host(family))
    plain = model.text_batch(*words())
    with reducing(InFusion()):
        texts = model.text_batch(*words())
        reduced, logits = fused(model, texts, image), model.match(texts, image)
    assert torch.equal(texts.states, plain.states)
    check_merged(reduced, 1)
    assert logits.isfinite().all()
    assert not torch.allclose(logits, model.match(plain, image))


@torch.no_grad()
@pytest.mark.parametrize("family", ["albef", "meter"])
def test_fusion_goes_on_from_what_the_text_encoder_merged(family: str) -> None:
    model = host(family)
    with reducing(InBoth()):
        texts = model.text_batch(*words())
        check_merged(texts.tokens, 1)
        check_merged(fused(model, texts, tokens_of(model)), 2)


@torch.no_grad()
@pytest.mark.parametrize("method", [InTexts, InFusion, InBoth])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_s_own_length_decides_what_is_merged_and_nobody_else_s(family: str, method: type[LastTwo]) -> None:
    model, image, (ids, mask) = host(family), tokens_of(host(family)), words()
    with reducing(method()):
        together = model.match(model.text_batch(ids, mask), image)
        for row, length in enumerate(LENGTHS):
            alone = model.text_batch(ids[row : row + 1, :length], mask[row : row + 1, :length])
            found = model.match(alone, image.rows(torch.tensor([row])))
            torch.testing.assert_close(together[row : row + 1], found, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_method_of_their_own_stacks_are_as_they_were(family: str) -> None:
    """Neither outside of `reducing`, nor within it where the method is one of images alone."""
    model, image = host(family), tokens_of(host(family))
    before = model.text_batch(*words())
    logits = model.match(before, image)
    images_alone = LastTwo()
    with reducing(InBoth()), reducing(images_alone):
        within = model.text_batch(*words())
        assert torch.equal(model.match(within, image), logits)
    after = model.text_batch(*words())
    assert not images_alone.saw
    for texts in (within, after):
        assert torch.equal(texts.states, before.states)
        assert (texts.tokens.sizes, texts.tokens.origin) == (None, None)
    assert torch.equal(model.match(after, image), logits)


@torch.no_grad()
def test_clip_pools_a_text_where_its_last_word_went() -> None:
    """The end of a text is merged with the word before it: the text's feature is that of the merged token."""
    torch.manual_seed(0)
    sizes = {"text_width": WIDTH, "text_heads": HEADS, "text_layers": 2, "vocab_size": 41, "text_length": 12}
    model: Any = build_host("clip-tiny", **sizes).double().eval()
    with reducing(InTexts()):
        texts = model.text_batch(*words())
    check_merged(texts.tokens, 1)
    ends = texts.states[torch.arange(3), torch.tensor(LENGTHS) - 2]
    torch.testing.assert_close(model.text_feature(texts), model.text_projection(ends), rtol=0, atol=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
def test_reduced_texts_have_the_same_gradients_with_blocks_recomputed(family: str) -> None:
    model, gradients = host(family), []
    for again in (False, True):
        model.zero_grad()
        with reducing(InBoth()), recomputing(again):
            model.match(model.text_batch(*words()), tokens_of(model)).square().sum().backward()
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
