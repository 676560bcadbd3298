"""p values are adjusted over the methods at one ratio of one board, and marked in tables where chance does not do."""

import pytest

from harness.report.families import NOTE_DENSE, NOTE_RANDOM
from harness.report.frame import to_frame
from harness.report.tables import render_table

from .conftest import full_record, number


def record(method, ratio, p_dense=None, p_random=None, delta_random=None, **spec):
    delta = None if method == "dense" else -0.1
    made = full_record(method, ratio, "vqa", {"vqa_accuracy": (0.8, delta)}, **spec)
    entry = made["quality"]["vqa"]["vqa_accuracy"]
    entry |= {"p_to_dense": p_dense, "p_to_random": p_random, "delta_to_random": delta_random}
    entry |= {"delta_to_random_ci95": None if delta_random is None else [delta_random - 0.01, delta_random + 0.01]}
    return made


def family():
    """The worked example of tests/metrics/test_significance.py at ratio 0.5; one method alone at 0.7."""
    return [
        record("dense", 1.0),
        record("elip", 0.5, 0.01, 0.04, 0.05),
        record("evit", 0.5, 0.04, 0.01, -0.05),
        record("tome", 0.5, 0.03, 0.005, 0.05),
        record("random", 0.5, 0.005),
        record("tome", 0.7, 0.04, 0.5, 0.02),
    ]


def adjusted(records, name, ratio=0.5):
    frame = to_frame(records)
    found = dict.fromkeys(["elip", "evit", "tome", "random"] if ratio == 0.5 else ["tome"])
    return [number(frame, "vqa_accuracy", method, ratio)[name] for method in found]


def test_a_family_is_all_methods_at_one_ratio():
    assert adjusted(family(), "p_dense_holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted(family(), "p_random_holm")[:3] == pytest.approx([0.04, 0.02, 0.015])
    assert adjusted(family(), "p_dense_holm", 0.7) == pytest.approx([0.04])


def test_other_boards_and_budgets_are_other_families():
    others = [record("elip", 0.5, 0.001, model="blip-tiny"), record("elip", 0.5, 0.001, match="macs")]
    found = to_frame([*family(), *others]).values["p_dense_holm"].dropna()
    assert sorted(found) == pytest.approx(sorted([0.03, 0.06, 0.06, 0.02, 0.04, 0.001, 0.001]))


def test_of_several_seeds_the_largest_counts():
    seeds = [record("tome", 0.7, p, seed=seed) for seed, p in enumerate((0.01, 0.03))]
    frame = to_frame([record("dense", 1.0), *seeds])
    assert number(frame, "vqa_accuracy", "tome")["p_dense"] == 0.03


def test_marks_say_what_chance_does_not_do():
    lines = render_table(to_frame(family())).splitlines()
    quality = lines[: lines.index("")]
    row = {tuple(line.split()[:2]): line for line in quality}
    assert "(-10.0 ±1.0)*↑" in row["elip", "0.5"]
    assert row["evit", "0.5"].rstrip().endswith("(-10.0 ±1.0)↓")
    assert row["tome", "0.5"].rstrip().endswith("(-10.0 ±1.0)↑")
    assert row["tome", "0.7"].rstrip().endswith("(-10.0 ±1.0)*")
    assert row["random", "0.5"].rstrip().endswith("(-10.0 ±1.0)*")
    assert NOTE_DENSE in lines
    assert NOTE_RANDOM in lines
    assert r"$\uparrow$" in render_table(to_frame(family()), "latex")


def test_what_was_not_compared_has_neither_mark_nor_note():
    text = render_table(to_frame([record("dense", 1.0), record("elip", 0.5)]))
    assert NOTE_DENSE not in text
    assert "*" not in text
    assert "↑" not in text
