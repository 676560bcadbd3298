"""`--method all`: what makes sense is planned, everything else is told of in a line; named, it is refused in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.data.scenes import write_scenes
from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import VOCABULARY_FILE
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.report.methods_and_hosts import Pair, pairs, render_suitable
from harness.run.cell import Cell
from harness.run.grid import plan_cells
from harness.run.plan import plan_rows, render_plan
from harness.run.request import EVERY, RunRequest, read_methods
from harness.run.suitable import LeftOut

HOSTS = ("albef-tiny", "blip-tiny", "clip-tiny", "meter-tiny")
LEARNED = ["crossget", "diffrate", "dynamicvit", "ltmp", "madtp", "patchmerger", "sinkhorn", "sit", "tps"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes to evaluate and to train on, and random weights of every host."""
    folder = tmp_path_factory.mktemp("worlds")
    for split in ("val", "train"):
        write_scenes(folder / split, split, 4, 0)
    for host in HOSTS:
        torch.manual_seed(0)
        save_weights(build_host(host), folder / host / "model.safetensors", host)
    return folder


@pytest.fixture(scope="module")
def listed() -> list[Pair]:
    return pairs()


def planned(worlds: Path, host: str, **changes: Any) -> list[Cell]:
    trains = changes.get("protocol", "inference") != "inference"
    stage = {"data": str(worlds / "train"), "steps": 2}
    plain: dict[str, Any] = {
        "model": host,
        "methods": EVERY,
        "ratios": (0.7,),
        "tasks": ("retrieval",),
        "device": "cpu",
        "data": str(worlds / "val"),
        "tokenizer": str(assets_of("albef-tiny") / VOCABULARY_FILE),
        "training": {"finetune": stage} if trains else {},
    }
    if changes.get("protocol") == "pretrain":
        plain["training"]["pretrain"] = stage
    else:
        plain["weights"] = worlds / host
    return plan_cells(RunRequest.model_validate(plain | changes))


@pytest.mark.parametrize(
    ("host", "protocol"),
    [
        *((host, "inference") for host in HOSTS),
        *((host, "finetune") for host in ("albef-tiny", "clip-tiny")),
        *((host, "pretrain") for host in ("blip-tiny", "meter-tiny")),
    ],
)
def test_what_is_planned_is_what_the_list_says(
    worlds: Path, listed: list[Pair], host: str, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ("retrieval", "classification") if (host, protocol) == ("albef-tiny", "inference") else ("retrieval",)
    cells = planned(worlds, host, tasks=tasks, protocol=protocol)
    lines = capsys.readouterr().err.splitlines()
    own = [pair for pair in listed if (pair.host, pair.protocol) == (host, protocol) and pair.task in tasks]
    expected = {(one.method, one.task) for one in own if one.reason is None and not one.needs_weights}
    assert {(cell.method, cell.task) for cell in cells if cell.method != "dense"} == expected
    for method in {one.method for one in own}:
        said = [line for line in lines if f"method {method} " in line or f"method {method}:" in line]
        assert len(said) == any((method, task) not in expected for task in tasks), method
    assert all(line.startswith(f"warning: left out on {host}") for line in lines if "left out" in line)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("flip", {}, "method flip reduces in training alone"),
        ("pumer", {}, "method pumer: pumer needs two streams"),
        ("tps", {}, "method tps learns, and these weights hold none of it"),
        ("ltmp", {}, "method ltmp learns, and these weights hold none of it"),
        ("aclip", {"protocol": "finetune", "tasks": ("vqa",)}, "momentum tower, and objective vqa offers none; take"),
        ("ats", {"protocol": "pretrain"}, "method ats is adaptive"),
        ("evit", {"ratios": (0.05,)}, "method evit: ratio 0.05 is not reachable"),
        ("evit", {"ratios": (0.05,), "match": "macs"}, "method evit: MACs ratio 0.05 is not reachable"),
        ("evit", {"ratios": (0.05,), "match": "train-macs"}, "method evit: training MACs ratio 0.05 is not reachable"),
        ("tome", {"settings": {"keep_rate": 0.5}}, "method tome: keep_rate: unknown setting"),
    ],
)
def test_a_named_method_is_refused_by_name_in_one_line(
    worlds: Path, method: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(HarnessError) as caught:
        planned(worlds, "albef-tiny", methods=(method,), **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ratios_that_some_do_not_reach_leave_them_out_there_alone(
    worlds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = planned(worlds, "albef-tiny", ratios=(0.7, 0.06))
    assert {cell.ratio for cell in cells if cell.method == "pool"} == {0.7, 0.06}
    assert {cell.ratio for cell in cells if cell.method == "evit"} == {0.7}
    assert "left out on albef-tiny at 0.06: method evit: ratio 0.06 is not reachable" in capsys.readouterr().err


@pytest.mark.parametrize("match", ["macs", "train-macs"])
def test_equal_macs_are_for_all_or_refused_by_name(
    worlds: Path, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    of_each_kind = ("downsample", "evit", "flip", "pumer", "tps")
    cells = planned(worlds, "albef-tiny", methods=of_each_kind, every_method=True, match=match)
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert {cell.method for cell in cells} == {"dense", "downsample", "evit"}
    assert [line.split(": method ")[1].split(" ")[0].rstrip(":") for line in lines] == ["flip", "pumer", "tps"]
    assert {cell.match for cell in cells if cell.method != "dense"} == {match}


def test_settings_that_no_method_has_leave_none(worlds: Path) -> None:
    with pytest.raises(HarnessError, match="no method is left to measure"):
        planned(worlds, "albef-tiny", settings={"keeprate": 0.5})


def test_what_is_wrong_for_dense_too_is_no_method_s_fault(worlds: Path) -> None:
    with pytest.raises(HarnessError, match="no such file"):
        planned(worlds, "albef-tiny", weights=Path("nowhere.safetensors"))


def test_all_is_every_method_but_dense() -> None:
    request = RunRequest(methods=read_methods("all"), tasks=("vqa",))
    assert request.every_method
    assert set(request.methods) == set(methods.names()) - {"dense"}
    assert not RunRequest(methods=read_methods("elip,evit"), tasks=("vqa",)).every_method


def test_each_reason_is_a_line_that_names_where() -> None:
    left = LeftOut("albef-tiny", ratios=2, tasks=2)
    for task in ("retrieval", "vqa"):
        left.note("flip", 0.5, task, "method flip: no")
        left.note("flip", 0.7, task, "method flip: no")
    left.note("evit", 0.5, "vqa", "method evit: ratio 0.5 is not reachable")
    assert list(left.lines()) == [
        "left out on albef-tiny: method flip: no",
        "left out on albef-tiny in vqa at 0.5: method evit: ratio 0.5 is not reachable",
    ]


def test_the_list_names_every_method_host_and_reason(listed: list[Pair]) -> None:
    assert {pair.method for pair in listed} == set(methods.names()) - {"dense"}
    assert {pair.host for pair in listed} == set(HOSTS)
    inference = {(one.method, one.host, one.task): one for one in listed if one.protocol == "inference"}
    assert inference["pumer", "meter-tiny", "retrieval"].reason is None
    assert "fusion" in str(inference["pumer", "clip-tiny", "retrieval"].reason)
    assert inference["elip", "albef-tiny", "vqa"].reason is None
    assert "without one" in str(inference["elip", "blip-tiny", "captioning"].reason)
    assert {name for name in methods.names() if name in LEARNED} == {
        one.method for one in listed if one.needs_weights and one.host == "albef-tiny"
    }
    trained = {(one.host, one.task, one.protocol): one.reason for one in listed if one.method == "aclip"}
    assert trained["albef-tiny", "retrieval", "finetune"] is None
    assert trained["blip-tiny", "vqa", "pretrain"] is None
    none = "selects by the class attention of a momentum tower, and its objective offers none; take"
    for refused in (("albef-tiny", "vqa", "finetune"), ("clip-tiny", "retrieval", "pretrain")):
        assert str(trained[refused]).startswith(none)
    table = render_suitable()
    assert "| pumer |" in table
    assert all(f"\n{number}. " in table for number in range(1, len({one.reason for one in listed} - {None}) + 1))


def test_a_plan_says_where_a_text_guided_method_reads_no_text(tmp_path: Path) -> None:
    request = RunRequest(methods=("elip", "evit"), ratios=(0.7,), tasks=("classification", "vqa"), limit=4)
    rows = plan_rows(request, tmp_path)
    unread = {tuple(row["cell"].split()[1::2]): row["unread"] for row in rows}
    assert [cell for cell, why in unread.items() if why] == [("elip", "classification")]
    printed = render_plan(rows).splitlines()
    assert [line.endswith("; not here") for line in printed].count(True) == 1
    line = "not here: method elip is guided by text, and images are encoded without one: all tokens would stay"
    assert line in printed
