"""`cost --check fvcore`: its count, ours, and the operations that only one of the two counts explain the difference."""

from __future__ import annotations

import json

import pytest

from harness.cli.main import main
from harness.kit.errors import HarnessError
from harness.run.plan import cost_of


@pytest.mark.parametrize(("model", "method"), [("albef-tiny", "elip"), ("clip-tiny", "tome")])
def test_the_difference_is_explained(model: str, method: str) -> None:
    report = cost_of(
        model, method, ratio=None, image_size=None, batch_size=1, device="cpu", latency=False, check="fvcore"
    )
    found = report["fvcore"]
    assert found["ours_gmacs"] == report["forward"]["total_gmacs"]
    assert found["total_gmacs"] != found["ours_gmacs"]
    assert found["counted_by_fvcore_alone"]["layer_norm"] > 0
    assert abs(found["unexplained_gmacs"]) < 1e-4 * found["ours_gmacs"]


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["cost", "--model", "albef-tiny", "--method", "tome", "--check", "fvcore", *words])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if words:
            assert set(json.loads(out)["fvcore"]) >= {"total_gmacs", "ours_gmacs", "unexplained_gmacs"}
        else:
            assert "fvcore alone: layer_norm" in out
            assert "unexplained" in out


def test_another_name_is_refused() -> None:
    with pytest.raises(HarnessError, match="--check thop: expected fvcore"):
        cost_of("albef-tiny", "tome", ratio=None, image_size=None, batch_size=1, device="cpu", check="thop")
