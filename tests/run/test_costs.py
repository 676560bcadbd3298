"""Costs that are kept: what is found is bit for bit what is counted, in a plan and beside a real model alike."""

import pytest

from harness.cost.report import cost_report, counted_parts
from harness.hosts.build import skeleton
from harness.hosts.facts import host_facts
from harness.kit.registry import models
from harness.reduction.budget import make_reducer
from harness.run.costs import CountedCosts, built

HOST = "albef-tiny"


@pytest.mark.parametrize("name", [name for name in models.names() if name.endswith("-tiny")])
def test_the_facts_of_a_host_are_those_of_the_host_built(name):
    host = skeleton(name)
    for facts in (host_facts(name), host_facts(name)):  # made, then found
        assert facts.shape == host.shape
        assert str(facts.shape) == str(host.shape)
        assert facts.abilities == host.abilities
        assert facts.config == host.config.model_dump(mode="json")
        assert facts.paper == host.PAPER_SETTINGS


@pytest.mark.parametrize("method", ["dense", "elip", "evit", "tome"])
def test_kept_counts_are_what_a_report_counts(method):
    host = skeleton(HOST)
    config = make_reducer(method, host.shape, ratio=None if method == "dense" else 0.5).config.model_dump(mode="json")
    report = cost_report(host.vision, method, shape=host.shape, settings=config, name=HOST)
    about = (HOST, host_facts(HOST).config, host.shape, method, config, "float32")

    def unavailable():
        raise AssertionError("it was kept, and counted again")

    made = CountedCosts().of(*about, lambda: host.vision)
    assert made == {name: report[name] for name in made}
    assert CountedCosts().of(*about, unavailable) == made


def test_another_size_of_tower_is_counted_anew():
    small, large = host_facts(HOST), host_facts(HOST, image_size=128)
    assert large.image_size == 128
    costs = [
        CountedCosts().of(HOST, facts.config, facts.shape, "dense", {}, "float32", lambda facts=facts: facts.vision)
        for facts in (small, large)
    ]
    assert costs[0]["forward"]["total_gmacs"] < costs[1]["forward"]["total_gmacs"]


def test_hosts_with_towers_alike_share_what_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        "harness.run.costs.counted_parts", lambda *args, **kwargs: calls.append(args) or counted_parts(*args, **kwargs)
    )
    shared, found = CountedCosts(), []
    for name in (HOST, "blip-tiny", "clip-tiny"):
        facts = host_facts(name)
        plain = make_reducer("dense", facts.shape).config.model_dump(mode="json")
        found.append(
            shared.of(name, facts.config, facts.shape, "dense", plain, "float32", lambda facts=facts: facts.vision)
        )
    assert found[0] == found[1]
    assert len(calls) == 2  # that of CLIP is another


def test_towers_that_compute_otherwise_are_not_alike():
    tower = host_facts(HOST).vision
    before = str(built(tower))
    tower.blocks[3].attn.num_heads += 1
    assert str(built(tower)) != before


def test_seeds_of_a_draw_share_what_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    host, shared = host_facts(HOST), CountedCosts()
    config = make_reducer("random", host.shape, ratio=0.5).config.model_dump(mode="json")
    about = (HOST, host.config, host.shape, "random")
    first = shared.of(*about, config | {"seed": 0}, "float32", lambda: host.vision)
    with monkeypatch.context() as refused:
        refused.setattr("harness.run.costs.counted_parts", None)
        assert shared.of(*about, config | {"seed": 7}, "float32", lambda: host.vision) == first
    seventh = make_reducer("random", host.shape, settings=config | {"seed": 7})
    assert counted_parts(host.vision, seventh) == first
