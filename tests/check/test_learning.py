"""`check learning`: a method that was trained alone against its untrained self."""

import pandas as pd
import pytest

from harness.check.learning import compared, lines
from harness.kit.errors import HarnessError


def outcomes(*values):
    names = [f"q{number}" for number in range(len(values))]
    return pd.DataFrame({"value": values, "cluster": names}, index=names)


def test_only_a_difference_above_chance_is_good():
    half = outcomes(*[0.0, 1.0] * 20)
    line, good = compared("gate", 0.5, half, outcomes(*[1.0] * 40))
    assert good
    assert line.split()[:5] == ["gate", "0.50", "50.0", "100.0", "+50.0"]
    assert not compared("gate", 0.5, half, half)[1]
    assert not compared("gate", 0.5, outcomes(*[1.0] * 40), half)[1]


def test_a_method_is_trained_and_measured_beside_a_host_that_stands_still():
    heading, columns, found = lines(["patchmerger"], 0.5, 1, 8, 1e-3, with_host=False)
    assert "1 steps of 32 pairs, host frozen, rate 0.001" in heading[0]
    assert columns[0].split()[:3] == ["ratio", "untrained", "trained"]
    assert found[0].startswith("patchmerger ")


def test_a_method_that_learns_nothing_is_refused():
    with pytest.raises(HarnessError, match="method tome learns nothing"):
        list(lines(["tome"], 0.5, 1, 8, 1e-3, with_host=False))
