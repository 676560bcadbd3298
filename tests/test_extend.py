"""docs/extend.md: each example is built as it stands there and does what its section says."""

import pytest
import torch

from harness.check.method import lines
from harness.cost.adaptive import image_counts, ratio_on, token_ratios
from harness.cost.host import host_parts
from harness.cost.report import cost_report
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import Guide, Trace, encode, reducing
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample

SCHEDULE = {"begin": [2], "keep": [0.5]}
HOSTS = ("albef-tiny", "blip-tiny", "meter-tiny", "clip-tiny")


def small(name):
    torch.manual_seed(0)
    return build_host(name, depth=4, width=24, heads=3, image_size=32).double().eval()


@pytest.mark.parametrize("name", ["norm", "scorer", "alike", "above", "policy", "last_two"])
def test_the_report_card_of_each_example_is_clean(own_methods, name):
    assert name in own_methods
    verdicts = lines(name)
    assert [line for line, good in verdicts if not good] == []
    if name == "scorer":
        assert any("its own" in line for line, _ in verdicts)


def test_a_scorer_s_products_are_its_predictor_s(own_methods):
    cost = cost_report("vit_tiny_patch16_224", "scorer", settings={"schedule": {"begin": [3], "keep": [0.5]}})
    assert cost["forward"]["predictor_gmacs"] == pytest.approx(196 * 192 / 1e9)
    assert cost["forward"]["scoring_gmacs"] == 0


def test_a_scorer_without_trained_weights_is_refused_in_one_line(own_methods):
    from harness.hosts.ready import load_host

    host = load_host("albef-tiny", None, "cpu", "float32")
    with pytest.raises(HarnessError, match="method scorer learns, and these weights hold none of it: train it"):
        host.method("scorer", {})


@pytest.mark.parametrize("host", HOSTS)
def test_patches_most_like_the_text_are_those_of_the_hosts_own_comparison(own_methods, host):
    model = small(host)
    tower, reducer = open_tower(model.vision), make_reducer("alike", model.shape, settings={"schedule": SCHEDULE})
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[2, 40, 41, 3], [2, 50, 3, 0], [2, 60, 61, 3]])
    texts = model.text_batch(ids, ids > 0)
    guide = model.guide(texts)
    kept = encode(tower, reducer, images, guide)
    assert kept.states.shape[1] == tower.shape.prefix + tower.shape.patches // 2
    assert encode(tower, reducer, images).states.shape[1] == tower.shape.prefix + tower.shape.patches
    if "contrast" not in model.abilities:
        assert guide.shared is None
        assert guide.text_feature is None
        return
    torch.testing.assert_close(guide.text_feature, model.embed_text(texts))
    swapped = encode(tower, reducer, images, guide.rows(torch.tensor([1, 2, 0])))
    assert not torch.equal(swapped.states, kept.states)


@pytest.mark.parametrize("host", HOSTS)
def test_scoring_in_the_shared_space_is_counted_with_the_host_and_without(own_methods, host):
    model = build_host(host)
    reducer = make_reducer("alike", model.shape)
    alone, size = cost_report(model.vision, "alike", shape=model.shape), model.shape.offer.space
    scored = sum((64, *reducer.counts.values())) - reducer.counts[9]  # what enters each stage
    texts = 0 if host == "clip-tiny" else 3  # whose guide brings the text's place
    assert alone["forward"]["scoring_gmacs"] * 1e9 == (scored + texts) * 96 * size + scored * (size or 96)
    assert (size == 0) == (host == "meter-tiny")
    if host in {"albef-tiny", "blip-tiny"}:  # of the others the host's tower has a head, or runs twice
        inside = host_parts(host, reducer)["vision"]
        assert inside["forward_gmacs"] == pytest.approx(alone["forward"]["total_gmacs"])
        assert inside["train_step_gmacs"] == pytest.approx(alone["train_step"]["total_gmacs"])


@pytest.mark.parametrize("host", ["albef-tiny", "blip-tiny"])
def test_a_class_token_in_the_shared_space_is_where_the_contrast_has_it(host):
    model = small(host)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    states = []
    model.vision.norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    found = model.embed_image(model.encode_image(images))
    of_image, _ = model.shared_space()
    place = of_image(states[0])
    torch.testing.assert_close(torch.nn.functional.normalize(place[:, 0], dim=-1), found)
    place.sum().backward()
    assert model.image_projection.weight.grad is None
    assert model.vision.norm.weight.grad is None
    assert model.vision.blocks[-1].mlp.fc2.weight.grad is not None
    model.absent = frozenset({"image_projection.weight"})
    assert model.guide(model.text_batch(torch.tensor([[2, 40, 3]]), torch.ones(1, 3, dtype=torch.bool))).shared is None


def test_a_method_without_a_stack_to_work_in_is_refused(own_methods):
    with pytest.raises(HarnessError, match="method last_two works in text, which VisionTransformer has not"):
        make_reducer("last_two", open_tower(small("albef-tiny").vision).shape)


@pytest.mark.parametrize("host", HOSTS)
def test_an_adaptive_batch_equals_its_images_one_by_one(own_methods, host):
    model = small(host)
    tower = open_tower(model.vision)
    reducer = make_reducer("above", model.shape, settings={"blocks": (1, 2)}).double()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[2, 40, 41, 3], [2, 50, 3, 0], [2, 60, 61, 3], [2, 44, 3, 0], [2, 45, 46, 3]])
    mask = ids > 0
    trace = Trace()
    with torch.no_grad():
        texts = model.text_batch(ids, mask)
        together = encode(tower, reducer, images, None, trace)
        assert together.mask is not None
        assert len(set(trace.standing[-1][1].tolist())) > 1
        for row in range(5):
            alone = encode(tower, reducer, images[row : row + 1])
            own = texts.rows(torch.tensor([row]))
            kept = together.rows(torch.tensor([row]))
            assert alone.states.shape[1] == int(kept.standing.sum())
            said = [(model.embed_image(alone), model.embed_image(kept))] if "contrast" in model.abilities else []
            said += [(model.match(own, alone), model.match(own, kept))] if "match" in model.abilities else []
            assert all(float((one - other).abs().max()) < 1e-12 for one, other in said)


def test_an_adaptive_method_is_measured_on_images_never_on_ones(own_methods):
    model = small("albef-tiny")
    tower = open_tower(model.vision)
    images = torch.randn(12, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    sample = Sample(images)
    with pytest.raises(HarnessError, match="adaptive: a ratio of it is measured on images"):
        make_reducer("above", model.shape, ratio=0.7)
    with pytest.raises(HarnessError, match="adaptive: what it costs is measured on images"):
        cost_report("vit_tiny_patch16_224", "above")
    settings = {"blocks": (1, 2)}
    cost = cost_report(model.vision, "above", ratio=0.7, settings=settings, sample=sample)
    assert cost["ratio"] == pytest.approx(0.7, abs=0.01)
    reducer = make_reducer("above", model.shape, settings=cost["config"]).double()
    ratios = token_ratios(tower, image_counts(tower, reducer, sample))
    assert cost["ratio"] == pytest.approx(float(ratios.mean()))
    assert ratio_on(tower, sample)(reducer) == pytest.approx(cost["ratio"])
    assert cost["spread"]["images"] == 12
    assert cost["spread"]["tokens_p5"] < cost["spread"]["tokens_p50"] < cost["spread"]["tokens_p95"]
    assert 0 < cost["forward"]["total_gmacs"] < cost["dense"]["forward_gmacs"]
    one = cost_report(model.vision, "above", settings=cost["config"], sample=Sample(images[:1]))
    other = cost_report(model.vision, "above", settings=cost["config"], sample=Sample(images[1:2]))
    both = cost_report(model.vision, "above", settings=cost["config"], sample=Sample(images[:2]))
    mean = (one["forward"]["total_gmacs"] + other["forward"]["total_gmacs"]) / 2
    assert both["forward"]["total_gmacs"] == pytest.approx(mean, abs=2e-9)


def test_an_attention_of_its_own_hides_without_removing(own_methods):
    model = small("albef-tiny")
    tower = open_tower(model.vision)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    plain = encode(tower, make_reducer("dense", model.shape), images).states
    hidden = encode(tower, make_reducer("policy", model.shape, settings={"begin": 1, "hidden": 5}), images)
    assert hidden.states.shape == plain.shape
    assert hidden.mask is not None
    assert int((~hidden.mask).sum()) == 10
    assert not torch.allclose(hidden.states[:, 0], plain[:, 0])
    all_kept = encode(tower, make_reducer("policy", model.shape), images).states
    assert torch.equal(all_kept, plain)


@pytest.mark.parametrize("host", HOSTS)
def test_a_text_side_method_shortens_texts_and_nothing_else(own_methods, host):
    model = small(host)
    ids = torch.tensor([[2, 40, 41, 42, 3], [2, 50, 51, 3, 0]])
    mask = ids > 0
    reducer = make_reducer("last_two", model.shape)
    with torch.no_grad():
        before = model.encode_text(ids, mask)
        with reducing(reducer):
            texts = model.text_batch(ids, mask)
            image = model.encode_image(torch.randn(2, 3, 32, 32, dtype=torch.float64))
            if "match" in model.abilities:
                assert bool(model.match(texts, image).isfinite().all())
        after = model.encode_text(ids, mask)
    assert texts.states.shape[1] == before.states.shape[1] - 1
    assert texts.tokens.standing.sum(1).tolist() == [4, 3]
    assert torch.equal(after.states, before.states)
    assert texts.tokens.at_inputs().shape == before.states.shape


def test_a_guide_of_some_texts_is_theirs():
    guide = Guide(torch.arange(6.0).view(3, 2))
    assert guide.rows(slice(1, 2)).text_cls.tolist() == [[2.0, 3.0]]


def test_each_example_is_in_the_registry(own_methods):
    assert set(own_methods) <= set(methods.names())
