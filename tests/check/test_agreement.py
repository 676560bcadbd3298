"""`check agreement`: kept sets of a study's entries against its first one's, and what their scores cost."""

import pytest
import torch
from typer.testing import CliRunner

from harness.check.agreement import jaccard, stages_of
from harness.check.method import small_vit
from harness.cli.check import checks
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction.budget import make_reducer

STUDY = """\
draw: tradeoff
run: {model: albef-tiny}
cells:
  - {label: exact, methods: elip, ratios: [0.7]}
  - {label: lite, methods: elip_lite, ratios: [0.7]}
"""


def test_intersection_over_union_by_image():
    one = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    other = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert jaccard(one, other).tolist() == pytest.approx([1 / 3, 1, 1])


def test_stages_are_where_tokens_go():
    shape = open_tower(small_vit()).shape
    assert stages_of(make_reducer("elip", shape)) == [2, 4, 10]
    assert stages_of(make_reducer("topk", shape)) == [3, 6, 9]
    assert stages_of(make_reducer("dense", shape)) == []


def test_a_study_against_its_first_entry(tmp_path):
    (tmp_path / "two.yaml").write_text(STUDY)
    answer = CliRunner().invoke(checks, ["agreement", str(tmp_path / "two.yaml"), "--limit", "4"])
    assert answer.exit_code == 0, answer.exception
    about, _, exact, lite = answer.output.splitlines()
    assert about == "albef-tiny, scenes, 4 images with a text each; scoring: vit_base_patch16_224, 256 px"
    assert exact.split()[:3] == ["exact", "0.7", "52.14%"]
    assert exact.count("1.000 [") == 3
    assert lite.split()[:3] == ["lite", "0.7", "0.04%"]
    assert 0.8 < float(lite.split()[3]) < 1


def test_a_learned_method_is_refused(tmp_path):
    (tmp_path / "learned.yaml").write_text(STUDY.replace("elip_lite", "tps"))
    answer = CliRunner().invoke(checks, ["agreement", str(tmp_path / "learned.yaml"), "--limit", "4"])
    assert isinstance(answer.exception, HarnessError)
    assert "method tps learns" in str(answer.exception)
