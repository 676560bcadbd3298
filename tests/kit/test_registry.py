"""Names: listed without imports, suggested when misspelt, refused when doubled; files and entry points both count."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from harness.kit import entries, packages, registry
from harness.kit.errors import HarnessError
from harness.reduction import TokenReducer

OUTSIDE = '''"""Outside."""
from harness.reduction import MethodConfig, TokenReducer


class Outside(TokenReducer[MethodConfig]):
    """Nothing."""
'''


def test_the_built_in_names():
    assert set(registry.methods.names()) >= {"dense", "random", "elip", "evit", "tome"}
    assert "albef-tiny" in registry.models.names()
    assert set(registry.tasks.names()) >= {"retrieval", "vqa"}
    assert set(registry.studies.names()) >= {"keep-ratio", "layer-schedule"}
    assert set(registry.objectives.names()) >= {"albef", "blip", "clip", "meter", "curriculum", "mae", "uta"}
    assert set(registry.downstream.names()) >= {"vqa", "nlvr2", "entailment", "captioning", "retrieval_albef"}


def test_every_method_has_a_summary_and_loads():
    for name, entry in registry.methods.entries().items():
        assert entry.summary
        assert issubclass(registry.methods.get(name), TokenReducer)


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("methods", "elpi", "elip"),
        ("models", "albef-tny", "albef-tiny"),
        ("tasks", "vqaa", "vqa"),
        ("studies", "keep_ratio", "keep-ratio"),
        ("objectives", "curiculum", "curriculum"),
    ],
)
def test_misspelt_names_get_a_suggestion(kind, wrong, right):
    with pytest.raises(HarnessError, match=f"did you mean.* {right}"):
        registry.KINDS[kind].get(wrong)


def test_an_entry_point_of_another_package_is_a_method(monkeypatch, tmp_path):
    (tmp_path / "outside_package.py").write_text(OUTSIDE)
    information = tmp_path / "outside-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[harness.methods]\noutside = outside_package:Outside\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.methods.get("outside").__name__ == "Outside"
    assert registry.methods.entry("outside").summary == "Outside. (outside, entry point outside_package:Outside)"
    (tmp_path / "outside_package.py").write_text("KIND = 1\n")
    assert registry.methods.entry("outside").summary == "outside, entry point outside_package:Outside"


def test_a_dropped_in_file_is_a_method(monkeypatch, tmp_path):
    (tmp_path / "fresh.py").write_text(OUTSIDE)
    monkeypatch.setattr(packages, "package_folder", lambda package: tmp_path)
    assert registry.methods.names() == ["fresh"]
    assert registry.methods.entry("fresh").summary == "Outside."


def test_a_name_taken_twice_is_refused_alone(monkeypatch, capsys):
    monkeypatch.setattr(
        entries, "entry_points", lambda group: [EntryPoint("elip", "elsewhere:Elip", "harness.methods")]
    )
    assert "elip" not in registry.methods.names()
    assert "tome" in registry.methods.names()
    assert capsys.readouterr().err.count("registered twice, by baselines.elip and elsewhere:Elip: rename one") == 1
    with pytest.raises(HarnessError, match=r"registered twice, by baselines\.elip and elsewhere:Elip"):
        registry.methods.get("elip")


def test_one_bad_file_is_reported_and_skipped(monkeypatch, tmp_path, capsys):
    """Misnamed, broken, and ended at import: the others go on, and `all` leaves them out."""
    folder = tmp_path / "baselines"
    folder.mkdir()
    bad = {"Two Words": "", "broken": "def", "nulls": "\0", "ends": "raise SystemExit(3)", "none": ""}
    for name, source in {"fresh": OUTSIDE, **bad}.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(packages, "package_folder", lambda package: folder)
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "baselines"}
    assert registry.methods.names() == ["broken", "ends", "fresh", "none", "nulls"]
    assert "cannot be read" in registry.methods.entry("broken").summary
    assert registry.methods.expand("all") == ("fresh",)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 5
    assert all(line.startswith("warning: method ") and line.endswith("; left out") for line in told)
    with pytest.raises(HarnessError, match=r"'ends' \(baselines\.ends\) cannot be imported: SystemExit: 3"):
        registry.methods.get("ends")
    for name in [name for name in sys.modules if name.partition(".")[0] == "baselines" and name not in kept]:
        del sys.modules[name]


def test_a_folder_called_baselines_does_not_hide_the_methods(tmp_path):
    """Another program's folder of that name in the working folder, which `python -m` looks in first."""
    for package in ("baselines", "ablations"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("OTHER = True\n")
    (tmp_path / "baselines" / "elip.py").write_text("raise SystemExit('the other one was imported')\n")
    code = (
        "import baselines; from harness.kit.registry import methods, studies; kind = methods.get('elip'); "
        "print(baselines.OTHER, kind.__name__, len(methods.names()) > 20, 'keep-ratio' in studies.names())"
    )
    root = str(packages.package_folder("harness").parent)
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == ["True", "ELIP", "True", "True"], found.stderr


def test_an_entry_point_that_cannot_be_imported_says_so(monkeypatch):
    monkeypatch.setattr(
        entries,
        "entry_points",
        lambda group: [EntryPoint("gone", "no_such_package:Gone", "harness.methods")],
    )
    with pytest.raises(HarnessError, match="cannot be imported"):
        registry.methods.get("gone")


def test_listing_imports_neither_torch_nor_the_methods():
    code = (
        "import sys; from harness.kit.registry import KINDS; [r.entries() for r in KINDS.values()]; "
        "print([m for m in ('torch', 'baselines.elip', 'pandas', 'timm') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_file_without_exactly_one_class_says_so(monkeypatch, tmp_path):
    (tmp_path / "two_methods.py").write_text(OUTSIDE + OUTSIDE.partition("\n\n\n")[2].replace("Outside", "Another"))
    (tmp_path / "no_method.py").write_text('"""Empty."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    for name, count in (("two_methods", 2), ("no_method", 0)):
        entry = entries.Entry(name, "", name)
        with pytest.raises(HarnessError, match=f"found {count}"):
            registry.Registry("method", lambda entry=entry: [entry], registry.methods._load).get(name)


def test_presets_are_read_by_their_keys_alone(monkeypatch, tmp_path):
    file = tmp_path / "one" / "model.py"
    file.parent.mkdir()
    file.write_text('"""One."""\nPRESETS = {"tiny": {"mean": MEAN}, "base": dict(SIZES)}\n')
    monkeypatch.setattr(packages, "package_folder", lambda package: tmp_path)
    assert registry.models.names() == ["one-base", "one-tiny"]
    for value in ("dict(tiny={})", "{TINY: {}}", "{**TINY}"):
        file.write_text(f'"""One."""\nPRESETS = {value}\n')
        assert registry.models.names() == []
        with pytest.raises(HarnessError, match=r"model\.py, line 2: PRESETS: expected a dict with literal strings"):
            registry.models.get("one")


def test_a_name_in_a_group_that_nothing_reads_is_explained(tmp_path, monkeypatch):
    information = tmp_path / "mine-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[harness.method]\nkeynorm = mine:KeyNorm\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HarnessError) as caught:
        registry.methods.entry("keynorm")
    stray = "a package names it in a group that nothing reads (mine: harness.method), expected harness.methods, "
    assert str(caught.value).startswith(f"unknown method 'keynorm': {stray}")


def test_what_a_module_lacks_or_its_checks_refuse_is_said(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_method.py").write_text(
        "from harness.reduction import MethodConfig, Schedule, TokenReducer\n\n\n"
        "class KeyNorm(TokenReducer[MethodConfig]):\n    pass\n"
    )
    (tmp_path / "odd_method.py").write_text(
        "from harness.reduction import Schedule\n\nOWN = Schedule(begin=(1, 2, 3), keep=(0.5, 0.4))\n"
    )
    points = [EntryPoint("own", "own_method:Keynrom", ""), EntryPoint("odd", "odd_method:Odd", "")]
    monkeypatch.setattr(entries, "entry_points", lambda group: points)
    with pytest.raises(HarnessError, match="own_method has no Keynrom; its classes: KeyNorm"):
        registry.methods.get("own")
    with pytest.raises(
        HarnessError, match=r"cannot be imported: ValidationError: 1 validation error for Schedule .+ keep"
    ):
        registry.methods.get("odd")
