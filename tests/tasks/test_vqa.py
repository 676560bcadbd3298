"""The official VQA accuracy, on answers counted by hand."""

import pytest

from harness.tasks.vqa import vqa_accuracy


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_leave_one_out_mean(matches, expected):
    assert vqa_accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(expected)


def test_case_and_spaces_do_not_matter():
    assert vqa_accuracy(" Red", ["red "] * 10) == 1.0


def test_a_single_truth_is_plain_agreement():
    assert vqa_accuracy("red", ["red"]) == 1.0
    assert vqa_accuracy("red", ["blue"]) == 0.0
