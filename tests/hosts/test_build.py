"""Facts about hosts by name: each takes its paper's settings of a method, and a user's own go before them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from harness.hosts.build import paper_settings, skeleton
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, TokenReducer
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

METER = {"begin": [2, 4, 9], "keep": [0.9, 0.7, 0.45], "lookahead": [2, 5, 2]}


@cache
def shape_of(name: str) -> StackShape:
    """The tower of a tiny host: 64 patches and a class token."""
    shape = open_tower(skeleton(name).vision).shape
    assert (shape.patches, shape.prefix) == (64, 1)
    return shape


def reducer_of(name: str, method: str, schedule: Any = None, **settings: Any) -> TokenReducer[Any]:
    """The reducer that a command makes of these options for a host."""
    filled, chosen = paper_settings(name, method, schedule, settings)
    return make_reducer(method, shape_of(name), schedule=chosen, settings=filled)


def entering(reducer: TokenReducer[Any]) -> list[int]:
    """Patch-derived tokens entering each block's attention."""
    return [count - reducer.shape.prefix for count in token_counts(reducer).attention]


def test_elip_in_meter_has_stages_of_its_own() -> None:
    """K = 57, 44, 28 = int(64 * (0.9, 0.7, 0.45)), and one merged token per stage: 58; 44 + 1; 28 + 1."""
    reducer = reducer_of("meter-tiny", "elip")
    assert reducer.shape.depth == 11
    assert reducer.config.schedule.model_dump(mode="json") == METER
    assert reducer.stages == {2: (57, 2), 4: (44, 5), 9: (28, 2)}
    assert entering(reducer) == [64] * 2 + [58] * 2 + [45] * 5 + [29] * 2


def test_elip_in_clip_counts_the_class_token() -> None:
    """K = int(65 * (0.9, 0.65, 0.4)) = 58, 42, 26, where ALBEF's is int(64 * …) = 57, 41, 25."""
    kept = [[count for count, _ in reducer_of(f"{name}-tiny", "elip").stages.values()] for name in ("clip", "albef")]
    assert kept == [[58, 42, 26], [57, 41, 25]]
    assert entering(reducer_of("clip-tiny", "elip")) == [64] * 2 + [59] * 2 + [43] * 6 + [27] * 2


@pytest.mark.parametrize("settings", [{}, {"like": "elip"}, {"seed": 3}])
def test_a_control_takes_the_schedule_of_what_it_is_compared_with(settings: dict[str, Any]) -> None:
    control = reducer_of("meter-tiny", "random", **settings)
    assert entering(control) == entering(reducer_of("meter-tiny", "elip"))


def test_a_control_of_another_method_takes_that_ones() -> None:
    control = reducer_of("meter-tiny", "random", like="evit")
    counts, compared = token_counts(control), token_counts(reducer_of("meter-tiny", "evit"))
    assert (counts.attention, counts.mlp) == (compared.attention, compared.mlp)
    assert entering(control) != entering(reducer_of("meter-tiny", "elip"))


@pytest.mark.parametrize("method", ["elip", "random"])
@pytest.mark.parametrize("schedule", ["begin=3 keep=.5 lookahead=2", {"begin": [3], "keep": [0.5], "lookahead": [2]}])
def test_a_users_schedule_goes_before_the_papers(method: str, schedule: Any) -> None:
    assert entering(reducer_of("meter-tiny", method, schedule)) == [64] * 3 + [33] * 8


def test_the_word_paper_means_the_hosts_own() -> None:
    assert reducer_of("meter-tiny", "elip", "paper").config == reducer_of("meter-tiny", "elip").config


def test_a_users_settings_go_before_the_papers() -> None:
    own = {"begin": [3], "keep": [0.5], "lookahead": [2]}
    filled, schedule = paper_settings("meter-tiny", "elip", None, {"schedule": own})
    assert entering(make_reducer("elip", shape_of("meter-tiny"), schedule=schedule, settings=filled))[3] == 33
    other = reducer_of("meter-tiny", "elip", vision_weight=0.5)
    assert (other.config.vision_weight, entering(other)[9]) == (0.5, 29)
    plain = reducer_of("clip-tiny", "elip", count_class_token=False)
    assert [count for count, _ in plain.stages.values()] == [57, 41, 25]


def test_methods_without_settings_of_their_own_for_a_host_stay_as_they_are() -> None:
    assert paper_settings("meter-tiny", "evit", None, {"keep_rate": 0.5}) == ({"keep_rate": 0.5}, None)
    assert paper_settings("albef-tiny", "elip", "paper", None) == ({}, None)


def test_the_papers_settings_themselves_are_not_changed_by_use() -> None:
    first = paper_settings("meter-tiny", "elip")
    assert paper_settings("meter-tiny", "elip") == first == ({}, METER)


def test_an_unknown_host_or_method_is_refused() -> None:
    for name, method in (("metr-tiny", "elip"), ("meter-tiny", "elpi")):
        with pytest.raises(HarnessError, match="did you mean"):
            paper_settings(name, method)
