"""Costs that are kept: what is found is bit for bit what is counted, in a plan and beside a real model alike."""

import pytest

from harness.cost.report import cost_report
from harness.hosts.build import skeleton
from harness.hosts.facts import host_facts
from harness.kit.registry import models
from harness.reduction.budget import make_reducer
from harness.run.costs import CountedCosts

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
