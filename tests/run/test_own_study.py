"""A study of one's own, in a YAML file anywhere; what cannot be read as one is refused in a line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.kit.errors import HarnessError
from harness.run.plan import announced
from harness.run.store import Store
from harness.run.study import plan_study, read_study, study_name

WHOLE = """
draw: tradeoff
run: {model: albef-tiny, tasks: retrieval, limit: 4, device: cpu}
cells:
  - {methods: "elip,tome", ratios: [0.5], settings: {elip.vision_weight: [0.2, 0.8]}}
"""


def written(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_is_a_study_under_its_own_name(tmp_path: Path) -> None:
    named = written(tmp_path, WHOLE)
    assert study_name(named) == "mine"
    assert study_name("keep-ratio") == "keep-ratio"
    assert read_study(named).cells[0].methods == "elip,tome"


def test_its_cells_are_planned_and_their_settings_swept(tmp_path: Path) -> None:
    cells, index, asked = plan_study(read_study(written(tmp_path, WHOLE)), {})
    assert [(cell.method, cell.config.get("vision_weight")) for cell in cells] == [
        ("dense", None),
        ("elip", 0.2),
        ("elip", 0.8),
        ("tome", None),
    ]
    assert [(entry["method"], len(entry["keys"])) for entry in index] == [("elip", 2), ("tome", 1)]
    assert [cell.key for _, planned in asked for cell in planned] == [cell.key for cell in cells]


def test_how_long_it_will_take_is_counted_once_for_cells_that_entries_share(tmp_path: Path) -> None:
    text = WHOLE + '  - {methods: "tome,evit", ratios: [0.5]}\n'
    cells, _, asked = plan_study(read_study(written(tmp_path, text)), {})
    line = announced(asked, Store(tmp_path / "none"))
    assert len(cells) == 5
    assert re.fullmatch(r"5 cells, 5 to run, about .+ on this machine", line)


def test_what_is_not_timed_is_not_reckoned_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run.estimate.latency_seconds", lambda *_: 36_000.0)
    _, _, asked = plan_study(read_study(written(tmp_path, WHOLE)), {})
    timed, untimed = (announced(asked, Store(tmp_path / "none"), latency=latency) for latency in (True, False))
    assert timed.endswith(" h on this machine")
    assert not untimed.endswith(" h on this machine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "anchors, aliases and tags are not read"),
        ("draw: !!python/object/apply:os.system [true]\n", "anchors, aliases and tags are not read"),
        ("draw: 0x_\n", "not valid YAML"),
        (f"draw: {'9' * 5000}\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("draw: " + "x" * 2**20, "has 1,048,582 bytes, more than the 1,048,576"),
        ("draw: pie\ncells: []\n", "draw: Input should be 'tradeoff' or 'schedule'"),
        ("- 1\n", "valid dictionary"),
    ],
)
def test_a_file_that_is_no_study_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(HarnessError) as raised:
        read_study(written(tmp_path, text))
    assert reason in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    named = written(tmp_path, WHOLE.replace("limit: 4", "limit: -1"))
    with pytest.raises(HarnessError, match="limit: Input should be greater than 0"):
        plan_study(read_study(named), {})


def test_answers_that_are_given_take_the_place_of_the_studys_own_in_training_too(tmp_path: Path) -> None:
    for name in ("own", "given"):
        (tmp_path / f"{name}.json").write_text(json.dumps(["red", name]))
    own, given = str(tmp_path / "own.json"), tmp_path / "given.json"
    text = f"""
draw: tradeoff
run:
  {{tasks: vqa, protocol: finetune, limit: 4, device: cpu, training: {{finetune: {{answers: {own}}}}}}}
cells: [{{methods: tome, ratios: [0.5]}}]
"""
    study = read_study(written(tmp_path, text))
    for answers, path in ((None, own), (given, str(given))):
        for cell in plan_study(study, {}, answers=answers)[0]:
            assert cell.training[-1].files["answers"] == path
            assert cell.task_options["answers"] == (None if answers is None else path)


@pytest.mark.parametrize("empty", ["task_options:", "task_options: vqa", "training: {finetune: }"])
def test_options_that_are_none_are_one_line_with_answers_too(tmp_path: Path, empty: str) -> None:
    (tmp_path / "given.json").write_text(json.dumps(["red"]))
    text = f"draw: tradeoff\nrun:\n  tasks: vqa\n  {empty}\ncells: [{{methods: tome, ratios: [0.5]}}]\n"
    with pytest.raises(HarnessError, match="should be a valid dictionary") as raised:
        plan_study(read_study(written(tmp_path, text)), {}, answers=tmp_path / "given.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("named", ["/no/such.yaml", "nothing.yml"])
def test_a_file_that_is_not_there_is_one_line(named: str) -> None:
    with pytest.raises(HarnessError, match="cannot be read"):
        read_study(named)


def test_a_name_that_no_folder_should_have_is_refused() -> None:
    with pytest.raises(HarnessError, match="call it by a-z"):
        study_name("My Study.yaml")
