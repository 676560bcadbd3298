"""VQA v2's accuracy, on answers counted by hand."""

import pytest

from harness.metrics.vqa import CONTRACTIONS, answer_type, normalised, vqa_accuracy


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_leave_one_out_mean(matches, expected):
    assert vqa_accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(expected)


def test_a_single_truth_is_plain_agreement():
    assert vqa_accuracy("red", ["red"]) == 1.0
    assert vqa_accuracy("red", ["blue"]) == 0.0


def test_spaces_and_line_breaks_around_a_text_do_not_matter():
    assert vqa_accuracy(" red\n", ["red\t"] * 10) == 1.0
    assert vqa_accuracy("dark\tred", ["dark red"] * 10) == 1.0


def test_only_truths_that_differ_are_normalised():
    assert vqa_accuracy("Two", ["2"] * 10) == 0.0
    assert vqa_accuracy("Two", ["2"] * 9 + ["3"]) == 1.0
    assert vqa_accuracy("the dog!", ["A dog"] * 2 + ["dog"] * 2 + ["cat"] * 6) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red, Ball", "red ball"),
        ("an apple", "apple"),
        ("none", "0"),
        ("TEN dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("Im", "im"),
        ("yall'd've", "y'all'd've"),
        ("man's", "man's"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("1,000", "1000"),
        ("1,000 red/blue", "1000 redblue"),
        ("12:30", "12:30"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("yes.", "yes"),
        ("?", ""),
    ],
)
def test_rules_of_the_official_program(text, expected):
    assert normalised(text) == expected


def test_contractions_of_the_official_program():
    """It has 120; those with a capital never apply, and "let's" and "she's" stand for themselves."""
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'alld've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert CONTRACTIONS["somebody'd"] == "somebodyd"
    assert "shes" not in CONTRACTIONS


@pytest.mark.parametrize(
    ("truths", "expected"),
    [
        (["yes"] * 6 + ["no"] * 4, "yes/no"),
        (["No."] * 10, "yes/no"),
        (["two"] * 10, "number"),
        (["12:30"] * 6 + ["noon"] * 4, "number"),
        (["red"] * 5 + ["2"] * 4, "other"),
        (["not sure"], "other"),
    ],
)
def test_the_type_of_an_answer(truths, expected):
    assert answer_type(truths) == expected
