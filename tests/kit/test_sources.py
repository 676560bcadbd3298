"""What a result depends on: which of the committed records a change of the program makes stale, and which it leaves."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from harness.check.results import changed_since
from harness.kit import packages, sources
from harness.run.cell import cell_code, cost_code
from harness.train.protocol import Stage, stage_code

ROOT = Path(__file__).parents[2]
SPECS = [
    json.loads(path.read_text(encoding="utf-8"))["spec"] for path in sorted((ROOT / "results" / "runs").glob("*.json"))
]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the program that digests are made of, and may be changed."""
    for package in ("harness", "baselines"):
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    monkeypatch.setattr(packages, "package_folder", lambda package: tmp_path.joinpath(*package.split(".")))
    sources.forget()
    yield tmp_path
    sources.forget()


def current(spec):
    """A committed record's cell as the program at hand would measure it."""
    return spec | {
        "code": cell_code(spec["model"], spec["method"], spec["task"], [], spec["data"], spec["data_digest"])
    }


def comment(path):
    path.write_text(path.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
    sources.forget()


def stale(specs):
    """(method, task, why) of the records that would be measured again."""
    return [(spec["method"], spec["task"], why) for spec in specs if (why := changed_since(spec))]


def test_there_are_records_of_several_methods_hosts_and_tasks():
    assert len({spec["method"] for spec in SPECS}) >= 3
    assert len({spec["task"] for spec in SPECS}) >= 6
    assert len({spec["model"] for spec in SPECS}) >= 2


@pytest.mark.parametrize(
    "path",
    [
        "harness/report/tables.py",
        "harness/cli/run.py",
        "harness/check/method.py",
        "harness/run/runner.py",
        "harness/cost/flops.py",
        "harness/train/loop.py",
        "harness/objectives/albef.py",
        "harness/hosts/meter/model.py",
        "harness/hosts/albef/recipes.py",
        "harness/hosts/parts/recipes.py",
        "harness/data/presets.py",
        "harness/kit/progress.py",
        "baselines/random.py",
    ],
)
def test_a_renderer_a_command_costs_training_and_other_hosts_and_methods_leave_all_records(tree, path):
    specs = [current(spec) for spec in SPECS if spec["method"] != "random"]
    comment(tree / path)
    assert stale(specs) == []


@pytest.mark.parametrize("folder", ["baselines", "harness/data/formats"])
def test_a_new_method_and_a_new_format_leave_all_records(tree, folder):
    specs = [current(spec) for spec in SPECS]
    (tree / folder / "another.py").write_text('"""Another."""\n')
    sources.forget()
    assert stale(specs) == []


@pytest.mark.parametrize(
    ("path", "touches", "part"),
    [
        ("baselines/elip.py", lambda spec: spec["method"] == "elip", "baselines/elip.py"),
        ("harness/tasks/vqa.py", lambda spec: spec["task"] == "vqa", "harness/tasks/vqa.py"),
        ("harness/metrics/vqa.py", lambda spec: spec["task"] == "vqa", "harness/metrics"),
        ("harness/hosts/blip/text.py", lambda spec: spec["model"] == "blip-tiny", "harness/hosts/blip"),
        ("harness/reduction/tokens.py", lambda spec: True, "harness/reduction"),
        ("harness/hosts/parts/towers/tower.py", lambda spec: True, "harness/hosts/parts"),
        ("harness/evaluate/encoder.py", lambda spec: True, "harness/evaluate"),
        (
            "harness/data/formats/vqa_v2.py",
            lambda spec: spec["task"] == "vqa",
            "harness/data/formats/vqa_v2.py",
        ),
        ("harness/data/transforms.py", lambda spec: True, "harness/data"),
    ],
)
def test_what_a_number_depends_on_makes_its_records_stale_and_is_named(tree, path, touches, part):
    specs = [current(spec) for spec in SPECS]
    comment(tree / path)
    expected = Counter((spec["method"], spec["task"], f"{part} changed") for spec in specs if touches(spec))
    assert Counter(stale(specs)) == expected
    assert expected


def test_a_record_of_a_method_that_is_gone_says_so(tree):
    specs = [current(spec) for spec in SPECS if spec["method"] == "elip"]
    (tree / "baselines" / "elip.py").unlink()
    sources.forget()
    assert {why for _, _, why in stale(specs)} == {"unknown method 'elip'"}


def test_costs_and_trained_stages_have_digests_of_their_own(tree):
    stage = Stage.model_construct(stage="finetune", model="albef-tiny", method="elip", task="vqa", data=())

    def digests():
        sources.forget()
        return [
            cost_code("albef-tiny", "elip"),
            dict(stage_code(stage)),
            cell_code("albef-tiny", "elip", "vqa", [], "scenes", ""),
        ]

    before = digests()
    changed = []
    for path in ("harness/cost/flops.py", "harness/train/loop.py", "harness/metrics/vqa.py", "baselines/elip.py"):
        comment(tree / path)
        after = digests()
        changed.append([new != old for new, old in zip(after, before, strict=True)])
        before = after
    assert changed == [[True, False, False], [False, True, False], [False, False, True], [True, True, True]]


def test_a_package_of_ones_own_counts_with_all_that_it_imports(tree, monkeypatch):
    monkeypatch.syspath_prepend(tree)
    package = tree / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from harness.reduction import TokenReducer\nfrom . import score\n")
    (package / "score.py").write_text("SIGN = 1\n")
    (package / "unused.py").write_text("")
    before = sources.code_parts("mine.method")
    assert set(before) >= {"mine", "harness/reduction"}
    (package / "unused.py").write_text("# a comment\n")
    sources.forget()
    assert sources.code_parts("mine.method") == before
    (package / "score.py").write_text("SIGN = -1\n")
    sources.forget()
    assert sources.code_parts("mine.method")["mine"] != before["mine"]


def test_so_do_its_tables_what_it_imports_by_name_and_packages_that_are_edited_in_place(tree, monkeypatch):
    monkeypatch.syspath_prepend(tree)
    for package in ("mine", "shared_utils"):
        (tree / package).mkdir()
        (tree / package / "__init__.py").write_text("")
    parts = {"mine/later.py": "SIGN = 1\n", "shared_utils/norms.py": "POWER = 2\n", "mine/table.txt": "1 2 3\n"}
    for name, content in parts.items():
        (tree / name).write_text(content)
    (tree / "mine" / "method.py").write_text(
        "import importlib\nimport re, torch\nfrom shared_utils.norms import POWER\n\n"
        'def score():\n    return importlib.import_module("mine.later").SIGN\n'
    )
    monkeypatch.setattr(packages, "package_folder", lambda package: tree.joinpath(*package.split(".")))
    sources.forget()
    before = sources.code_parts("mine.method")
    assert {"mine", "shared_utils"} <= set(before)
    assert not {"torch", "re", "importlib"} & set(before)
    for name, content in parts.items():
        (tree / name).write_text(content.replace("1", "7").replace("2", "8"))
        sources.forget()
        now = sources.code_parts("mine.method")
        assert {part for part in now if now[part] != before.get(part)} == {name.partition("/")[0]}, name
        before = now


def test_a_module_of_ones_own_without_a_package_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "alone.py").write_text("from harness.reduction import TokenReducer\n")
    assert set(sources.code_parts("alone")) >= {"alone", "harness/reduction"}
    assert packages.module_file("alone") == tmp_path / "alone.py"
    assert packages.module_file("alone.TokenReducer") is None
    assert packages.module_file("not_there.at_all") is None


@pytest.mark.parametrize(
    ("stage", "mine", "anothers"),
    [
        ({"stage": "pretrain", "objective": "albef"}, "albef.py", "clip.py"),
        ({"stage": "pretrain"}, "albef.py", "curriculum.py"),
        ({"stage": "pretrain", "objective": "curriculum"}, "curriculum.py", "albef.py"),
        ({"stage": "finetune", "task": "vqa"}, "downstream/vqa.py", "albef.py"),
        ({"stage": "finetune", "task": "retrieval"}, "downstream/retrieval_albef.py", "downstream/retrieval_clip.py"),
        ({"stage": "finetune", "task": "retrieval"}, "albef.py", "downstream/vqa.py"),
    ],
)
def test_another_objective_leaves_a_stage_and_its_own_changes_it_and_is_named(tree, stage, mine, anothers):
    chosen = Stage.model_construct(model="albef-tiny", method="elip", data=(), **stage)
    before = dict(stage_code(chosen))
    comment(tree / "harness" / "objectives" / anothers)
    assert stage_code(chosen) == before
    comment(tree / "harness" / "objectives" / mine)
    after = stage_code(chosen)
    assert {part for part in after if after[part] != before[part]} == {f"harness/objectives/{mine}"}


def test_a_file_that_objectives_share_changes_every_stage(tree):
    stages = [
        Stage.model_construct(model="albef-tiny", method="elip", stage="pretrain", data=()),
        Stage.model_construct(model="clip-tiny", method="dense", stage="finetune", task="retrieval", data=()),
    ]
    before = [dict(stage_code(stage)) for stage in stages]
    comment(tree / "harness" / "objectives" / "parts" / "objective.py")
    for stage, old in zip(stages, before, strict=True):
        after = stage_code(stage)
        assert {part for part in after if after[part] != old[part]} == {"harness/objectives/parts"}
