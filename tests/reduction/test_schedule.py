"""The algebra between ratios and tokens, and every way a schedule can be wrong."""

import json

import pytest

from harness.kit.errors import HarnessError
from harness.reduction.schedule import Schedule, check_ratio, parse_ratios, parse_schedule, solve, token_ratio

PAPER = Schedule(begin=(2, 4, 10), keep=(0.9, 0.65, 0.4), lookahead=(2, 6, 2))


def test_paper_counts_for_256_patches():
    assert PAPER.counts(256) == (230, 166, 102)


def test_paper_setting_is_0_71_in_the_measure_of_the_ratio():
    merged_counted = [256] * 2 + [231] * 2 + [167] * 6 + [103] * 2
    assert token_ratio(merged_counted, 256) == pytest.approx(0.71, abs=0.001)


def test_default_lookahead_reaches_to_the_next_stage_as_in_the_paper():
    assert Schedule(begin=(2, 4, 10), keep=(0.9, 0.65, 0.4)).lookaheads(12) == (2, 6, 2)
    assert Schedule(begin=(2, 4, 9), keep=(0.9, 0.7, 0.45)).lookaheads(11) == (2, 5, 2)


def test_bend_one_is_the_schedule_and_zero_keeps_everything():
    assert PAPER.bend(1.0).keep == PAPER.keep
    assert PAPER.bend(0.0).keep == (1.0, 1.0, 1.0)


def test_at_least_one_token_is_kept():
    assert PAPER.bend(4096).counts(64) == (1, 1, 1)


def test_spec_round_trip():
    assert parse_schedule(PAPER.spec()) == PAPER
    assert parse_schedule("paper") is None


def test_schedule_from_files(tmp_path):
    for name, text in (
        ("s.json", json.dumps(PAPER.model_dump())),
        ("s.yaml", "begin: [2, 4, 10]\nkeep: [0.9, 0.65, 0.4]\nlookahead: [2, 6, 2]\n"),
    ):
        (tmp_path / name).write_text(text)
        assert parse_schedule(str(tmp_path / name)) == PAPER


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("begin=4,2 keep=.9,.5", "increasing order"),
        ("begin=2,4 keep=.9", "keep has 1 entries and begin has 2"),
        ("begin=2,4 keep=.9,.5 lookahead=2", "lookahead has 1 entries"),
        ("begin=2,4 keep=.9,1.3", "keep ratio 1.3 for stage 2: expected 0 < ratio <= 1"),
        ("begin=2,4 keep=0,.5", "keep ratio 0 for stage 1"),
        ("begin=2,4 keep=.5,.9", "keeps more tokens than there are"),
        ("begin=2 keep=.5 lookahead=0", "at least one block"),
        ("begin=2 keep=abc", "keep"),
        ("begin=2", "keep"),
        ("somewhere", "expected 'paper'"),
        ("begin=2 keep=.5 begin=3", "expected 'paper'"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_bad_schedules_are_one_line(spec, words):
    with pytest.raises(HarnessError, match=words) as caught:
        parse_schedule(spec)
    assert "\n" not in str(caught.value)


def test_begin_beyond_the_depth():
    with pytest.raises(HarnessError, match="begin block 12 for stage 1: the tower has blocks 0 to 11"):
        Schedule(begin=(12,), keep=(0.5,)).check_depth(12)


def test_begin_plus_lookahead_beyond_the_depth():
    with pytest.raises(HarnessError, match="begin 10 plus look-ahead 3 for stage 1 goes beyond"):
        Schedule(begin=(10,), keep=(0.5,), lookahead=(3,)).check_depth(12, lookahead=True)


@pytest.mark.parametrize("ratio", ["0", "-0.5", "1.01", "nan", "inf", "half", ""])
def test_bad_ratios(ratio):
    with pytest.raises(HarnessError, match="expected a number above 0 and at most 1"):
        check_ratio(ratio)


def test_ratio_lists():
    assert parse_ratios("0.5,0.7") == (0.5, 0.7)
    assert parse_ratios(" 0.5 0.7 ") == (0.5, 0.7)
    with pytest.raises(HarnessError):
        parse_ratios("0.5,,x")
    with pytest.raises(HarnessError):
        parse_ratios("")


def test_solve_takes_the_nearest_step():
    assert 100 - int(solve(lambda gamma: (100 - int(gamma)) / 100, 0.604, step=0.01)) == 60


def test_solve_names_the_reachable_range():
    with pytest.raises(HarnessError, match=r"ratio 0.2 is not reachable.*0.500 to 1.000"):
        solve(lambda gamma: max(0.5, 1 - gamma / 10), 0.2)
