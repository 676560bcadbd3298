"""Every family of towers: ratio 1.0 is the model bit for bit, tokens really go, and places follow the kept ones."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch.backends import mha

import harness
from harness.cost.report import cost_report
from harness.hosts.parts.towers import find_tower, open_tower
from harness.hosts.parts.towers.places import in_place
from harness.kit.errors import HarnessError
from harness.reduction import Trace
from tests.hosts.small_towers import BARE, PATCHES, SIDE, SIZES, TEXT, TIMM, WITHIN, drawn, images, tensors_of

# Their own attention is another sum: BLIP's no fused kernel, that of a shared bias a mask of three dimensions.
ROUNDED = ("BLIP", "timm BEiT shared")


@pytest.mark.parametrize("family", [*BARE, *WITHIN])
@pytest.mark.parametrize("method", ["dense", "tome"])
def test_ratio_1_is_the_unreduced_model_bit_for_bit(family, method):
    model = drawn({**BARE, **WITHIN}[family])
    reduced = harness.reduce(model, method, ratio=1.0)
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)  # torch's own inference kernel of nn.MultiheadAttention rounds otherwise
    try:
        with torch.no_grad():
            theirs, ours = tensors_of(model(images())), tensors_of(reduced(images()))
    finally:
        mha.set_fastpath_enabled(before)
    assert len(theirs) == len(ours) > 0
    for one, other in zip(theirs, ours, strict=True):
        assert torch.allclose(one, other, atol=1e-6) if family in ROUNDED else torch.equal(one, other)


@pytest.mark.parametrize("family", [*BARE, *WITHIN])
def test_tokens_really_go_and_the_output_changes(family):
    model = drawn({**BARE, **WITHIN}[family])
    reduced, trace = harness.reduce(model, "tome", ratio=0.7), Trace()
    with torch.no_grad():
        tokens = reduced.encode(images(), trace=trace)
        ours, theirs = tensors_of(reduced(images()))[-1], tensors_of(model(images()))[-1]
    prefix = reduced.tower.shape.prefix
    assert sum(count - prefix for count in trace.mlp) / 12 / PATCHES == pytest.approx(0.7, abs=0.01)
    assert tokens.states.shape[1] < 0.6 * PATCHES
    assert ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-3)
    assert (tokens.sizes[:, prefix:].sum(1) == PATCHES).all()


@pytest.mark.parametrize("family", BARE)
def test_kept_tokens_attend_as_where_the_others_are_masked(family):
    """Rotary embeddings and relative biases are those of the tokens' own places, whatever went before them."""
    tower = open_tower(drawn(BARE[family]).double())
    with torch.no_grad():
        state = tower.open(images().double())
        kept = torch.stack([torch.randperm(PATCHES, generator=torch.Generator().manual_seed(row)) for row in range(2)])
        kept = kept[:, :20]
        stays = torch.zeros(2, PATCHES, dtype=torch.bool).scatter(1, kept, True)
        here = torch.cat([torch.arange(state.prefix).repeat(2, 1), kept + state.prefix], dim=1)
        for block in (0, 5):
            masked, _ = tower.attend(block, state.hide(stays))
            reduced, seen = tower.attend(block, state.keep(kept), frozenset({"attention_received"}))
            wanted = masked.tokens.gather(1, here[:, :, None].expand(-1, -1, 24))
            assert torch.allclose(reduced.tokens, wanted, atol=1e-10)
            observed = tower.observe(block, state.keep(kept), frozenset({"attention_received"}))
            assert torch.allclose(seen.attention_received, observed.attention_received, atol=1e-12)


@pytest.mark.parametrize("family", ["timm EVA-02", "timm RoPE mixed", "DINOv3", "timm BEiT"])
def test_places_matter(family):
    """The other way round: tokens in each other's places attend otherwise."""
    tower = open_tower(drawn(BARE[family]).double())
    with torch.no_grad():
        state = tower.open(images().double())
        swapped = torch.arange(PATCHES).flip(0).repeat(2, 1)
        moved, _ = tower.attend(0, state.keep(swapped))
        stale, _ = tower.attend(0, in_place(replace(state.keep(swapped), positions=None)))
    assert not torch.allclose(moved.tokens, stale.tokens, atol=1e-3)


@pytest.mark.parametrize("family", ["timm EVA-02", "DINOv3"])
def test_a_token_without_a_place_is_not_rotated(family):
    tower = open_tower(drawn(BARE[family]).double())
    with torch.no_grad():
        state = tower.open(images().double())
        q, k, _ = tower.queries_keys_values(0, state.tokens)
        nowhere = replace(state, positions=torch.full_like(state.positions, -1))
        turned, unturned = tower.placed(0, q, k, state), tower.placed(0, q, k, nowhere)
    assert torch.equal(unturned[0], q)
    assert torch.equal(unturned[1], k)
    prefix = state.prefix
    assert torch.equal(turned[1][:, :, :prefix], k[:, :, :prefix])
    assert not torch.allclose(turned[1][:, :, prefix + 1 :], k[:, :, prefix + 1 :], atol=1e-3)


def test_costs_of_dinov3_leave_nothing_behind_for_the_next_pass():
    """Its model keeps places in a cache of the process: tensors without data must not get there, nor real ones out."""
    model = drawn(BARE["DINOv3"])
    with torch.no_grad():
        before = model(images()).pooler_output
    cost_report(model, "tome", ratio=0.7)
    with torch.no_grad():
        assert torch.equal(harness.reduce(model, "dense")(images()).pooler_output, before)
        assert torch.equal(model(images()).pooler_output, before)
        model.train()
        torch.manual_seed(3)
        theirs = model(images()).pooler_output
        torch.manual_seed(3)
        assert torch.equal(harness.reduce(model, "dense")(images()).pooler_output, theirs)
    assert not torch.equal(theirs, before)


def test_a_token_without_a_place_has_the_mean_bias():
    tower = open_tower(drawn(BARE["timm BEiT"]).double())
    with torch.no_grad():
        state = tower.open(images().double())
        positions = state.positions.clone()
        positions[:, -1] = -1
        bias = tower.block_bias(3, replace(state, positions=positions), False)
        own = tower.pair_bias(3)
    assert torch.allclose(bias[0, :, :-1, -1], own[:, :-1].mean(-1))
    assert torch.allclose(bias[0, :, -1, :-1], own[..., :-1].mean(-2))
    assert torch.equal(bias[1, :, :-1, :-1], own[:, :-1, :-1])


def test_methods_that_compute_attention_themselves_are_refused_where_it_has_relative_biases():
    model = drawn(BARE["timm BEiT"])
    for method in ("ats", "mctf", "dynamicvit"):
        with pytest.raises(HarnessError, match=f"method {method} computes attention itself .* relative positions"):
            harness.reduce(model, method)


@pytest.mark.parametrize("family", ["SigLIP classifier", "DINOv2 classifier", "DINOv2 with registers classifier"])
def test_classifiers_that_average_count_merged_tokens(family):
    """Where every merge joins equal tokens, the mean is that of the patches."""
    model = drawn(WITHIN[family])
    place, vit = find_tower(model)
    with torch.no_grad():
        reduced = harness.reduce(model, "tome", ratio=0.7)
        tokens = reduced.encode(images())
        logits = reduced(images()).logits
        prefix = tokens.prefix
        mean = (tokens.states[:, prefix:] * tokens.sizes[:, prefix:, None]).sum(1) / PATCHES
        wanted = mean if prefix == 0 else torch.cat([tokens.states[:, 0], mean], dim=1)
        assert torch.allclose(logits, model.classifier(wanted), atol=1e-5)
    assert place
    assert type(vit).__module__.startswith("transformers")


def test_a_whole_clip_is_reduced_inside():
    model = drawn(
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=SIZES, text_config=TEXT, projection_dim=16)
        )
    )
    ids = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(2))
    dense, reduced = harness.reduce(model, "tome", ratio=1.0), harness.reduce(model, "tome", ratio=0.7)
    with torch.no_grad():
        theirs, ours = model(input_ids=ids, pixel_values=images()), dense(input_ids=ids, pixel_values=images())
        assert torch.equal(theirs.logits_per_image, ours.logits_per_image)
        less = reduced(input_ids=ids, pixel_values=images())
        assert not torch.allclose(less.logits_per_image, theirs.logits_per_image, atol=1e-3)
        features = reduced.get_image_features(pixel_values=images()).pooler_output
        assert torch.allclose(torch.nn.functional.normalize(features, dim=-1), less.image_embeds, atol=1e-6)
        assert torch.equal(less.text_embeds, theirs.text_embeds)
    assert reduced.config is reduced.model.config


def test_a_guide_reaches_the_tower_within():
    model = drawn(WITHIN["CLIP with projection"])
    reduced = harness.reduce(model, "elip", ratio=0.7)
    one, other = (harness.Guide(torch.randn(2, 24, generator=torch.Generator().manual_seed(n))) for n in (1, 2))
    with torch.no_grad():
        first, second = (reduced(images(), guide=guide).last_hidden_state for guide in (one, other))
        with reduced.guided(one):
            again = reduced(images()).last_hidden_state
    assert first.shape[1] < PATCHES
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def siglip2():
    sizes = {name: value for name, value in SIZES.items() if name != "image_size"}
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sizes, num_patches=PATCHES))


def flexible():
    """Patches of three images, one of a 4 x 9 grid and padded: pixels, mask and shapes as the processor gives them."""
    patches = torch.randn(3, PATCHES, 3 * 8 * 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, PATCHES, dtype=torch.int64)
    mask[1, 36:] = 0
    return patches, mask, torch.tensor([[8, 8], [4, 9], [8, 8]])


def test_siglip_2_without_padding_is_the_model_bit_for_bit():
    model, (patches, mask, shapes) = drawn(siglip2), flexible()
    whole, square = torch.ones_like(mask), shapes[:1].repeat(3, 1)
    with torch.no_grad():
        theirs = model(patches, whole, square)
        ours = harness.reduce(model, "tome", ratio=1.0)(patches, pixel_attention_mask=whole, spatial_shapes=square)
    assert torch.equal(theirs.pooler_output, ours.pooler_output)
    assert torch.equal(theirs.last_hidden_state, ours.last_hidden_state)


def test_an_image_of_padding_alone_is_one_line():
    model, (patches, mask, shapes) = drawn(siglip2), flexible()
    mask[1] = 0
    with pytest.raises(HarnessError, match="an image without a patch that is not padding"):
        harness.reduce(model, "tome", ratio=0.6)(patches, pixel_attention_mask=mask, spatial_shapes=shapes)


def test_padding_of_siglip_2_never_counts():
    model, (patches, mask, shapes) = drawn(siglip2), flexible()
    reduced = harness.reduce(model, "tome", ratio=0.6)
    with torch.no_grad():
        theirs = model(patches, mask, shapes).pooler_output
        dense = harness.reduce(model, "dense")(patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        ours = reduced(patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        alone = reduced(patches[1:2, :36], pixel_attention_mask=mask[1:2, :36], spatial_shapes=shapes[1:2])
        noisy = patches + 100 * (1 - mask[:, :, None])
        other = reduced(noisy, pixel_attention_mask=mask, spatial_shapes=shapes)
    assert torch.allclose(dense.pooler_output, theirs, atol=1e-5)
    assert torch.allclose(ours.pooler_output[1], alone.pooler_output[0], atol=1e-5)
    assert torch.allclose(ours.pooler_output, other.pooler_output, atol=1e-6)
    assert alone.last_hidden_state.shape[1] < 36 * 0.5


def test_siglip_2_cuts_plain_images_as_its_processor_does():
    model, image = drawn(siglip2), (torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 255).byte()
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=PATCHES)
    with torch.no_grad():
        theirs = model(**processor(images=[image], return_tensors="pt")).pooler_output
        ours = harness.reduce(model, "dense")((image[None].float() / 255 - 0.5) / 0.5).pooler_output
    assert torch.allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize("family", [*BARE, "CLIP with projection"])
def test_costs_of_every_family_are_counted(family):
    model = {**BARE, **WITHIN}[family]()
    report = cost_report(model, "tome", ratio=0.7)
    assert report["ratio"] == pytest.approx(0.7, abs=0.01)
    assert 0.5 < report["forward"]["total_gmacs"] / report["dense"]["forward_gmacs"] < 0.9
    assert report["memory"]["train_mib_per_image"] > 0


def test_published_sizes_that_patches_do_not_tile_are_costed_and_reduced():
    """SigLIP-SO400M/14 at 384 px: 27 x 27 patches, six pixels at the edge are not seen."""
    report = cost_report("vit_so400m_patch14_siglip_384", "tome", ratio=0.7, image_size=384)
    assert report["tokens_per_block"][0] == 729
    small = {"embed_dim": 24, "num_heads": 2, "depth": 12, "mlp_ratio": 2, "img_size": 62, "patch_size": 14}
    import timm

    model = timm.create_model("vit_so400m_patch14_siglip_384", **small).eval()
    with torch.no_grad():
        picture = torch.randn(1, 3, 62, 62)
        assert torch.equal(harness.reduce(model, "tome", ratio=1.0)(picture), model(picture))
    with pytest.raises(HarnessError, match="image size 380: expected a multiple of the patch size 14"):
        cost_report("vit_so400m_patch14_siglip_384", "tome", image_size=380)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "beit_base_patch16_224"])
def test_eva_and_beit_are_costed_by_name(name):
    assert cost_report(f"timm/{name}", "tome", ratio=0.7)["ratio"] == pytest.approx(0.7, abs=0.01)


def test_blocks_that_cannot_be_opened_are_named():
    import timm

    with pytest.raises(HarnessError, match="EvaBlockPostNorm"):
        harness.reduce(timm.create_model("eva02_tiny_patch14_224", use_post_norm=True, **TIMM), "tome")
    with pytest.raises(HarnessError, match="BertModel is not a tower this harness can open: expected timm"):
        harness.reduce(transformers.BertModel(transformers.BertConfig(**TEXT)), "tome")
