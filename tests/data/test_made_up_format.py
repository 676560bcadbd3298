"""A data set of one's own is one file: every command knows it, and no other file is touched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from harness.check.data import lines
from harness.data.digest import data_digest, reader_modules
from harness.data.formats import OpenedSource
from harness.data.pairs import read_pairs
from harness.data.scenes import WORLD_FORMATS, scenes_folder
from harness.kit.errors import HarnessError
from harness.kit.registry import formats, tasks
from harness.run.choose import measurable_tasks
from harness.train.task_data import task_data

FORMAT = '''"""Pets: an image, an equals sign and a caption on every line of a .pets file."""

from harness.data.annotations.captions import CaptionFormat, Described, Said
from harness.data.annotations.format import FileKind, Found
from harness.kit.reading import text_lines


class Pets(CaptionFormat):
    files = (FileKind("pets"),)
    suffixes = frozenset({".pets"})

    def find(self, listing, found):
        return [Found(path, self.files[0], self) for path in listing.others if path.suffix in self.suffixes]

    def described(self, source, found, splits, findings):
        lines = [line.split("=", 1) for line in text_lines(found.path)]
        said = [Said(image, number, text, number) for number, (image, text) in enumerate(lines)]
        return Described([one.key for one in said], said, str, lambda files, key: files.named(found.path, key))
'''


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the made-up format, whose package is installed for a while."""
    package = tmp_path / "package"
    information = package / "own_format-1.0.dist-info"
    information.mkdir(parents=True)
    (package / "own_format.py").write_text(FORMAT)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: own-format\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[harness.formats]\npets = own_format:Pets\n")
    monkeypatch.syspath_prepend(package)
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in "ab":
        Image.new("L", (8, 8), ord(name)).save(folder / f"{name}.png")
    (folder / "all.pets").write_text("a.png=A dog\nb.png=A cat\n")
    yield folder
    sys.modules.pop("own_format", None)


def test_every_command_knows_it(pets: Path) -> None:
    assert "pets" in formats.names()
    found = [line.strip() for line, good in lines(pets) if good]
    assert found[:2] == ["pets: all.pets", "2 images, 2 captions, 1 captions each"]
    assert f"python -m harness run --method elip --tasks retrieval --data {pets}" in found
    assert f"python -m harness pretrain --model albef-tiny --data {pets}/all.pets --batch-size 2" in found
    assert OpenedSource(pets).fields() == ("captions",)
    assert measurable_tasks("albef-tiny", None, str(pets)) == ("retrieval",)
    assert [one.text for one in tasks.get("retrieval")().load(pets, None).captions] == ["A dog", "A cat"]
    assert [ref.key for ref in read_pairs(pets).refs] == ["a.png#0", "b.png#0"]
    assert [ref.captions for ref in task_data("retrieval", [str(pets)]).refs] == [("A dog",), ("A cat",)]


def test_its_content_and_its_code_tell_one_state_from_another(pets: Path) -> None:
    before = data_digest(pets)
    assert reader_modules(str(pets), "captions", before) == ("own_format",)
    text = (pets / "all.pets").read_text()
    (pets / "all.pets").write_text(text.replace("dog", "god"))
    assert data_digest(pets) != before


def test_the_formats_of_the_built_in_world_are_those_that_its_files_have() -> None:
    source = OpenedSource(scenes_folder(3, 0))
    found = {fills: source.choose(fills, None)[1] for fills in source.fields()}
    assert {fills: type(formats.get(name)()) for fills, name in WORLD_FORMATS.items()} == {
        fills: type(one) for fills, one in found.items()
    }
    # Features are of images, annotated or not: no format is theirs.
    assert set(found) == {tasks.get(name).READS for name in tasks.names() if name != "features"}


def test_a_format_names_the_tasks_that_read_its_field() -> None:
    for one in formats.all():
        assert set(one().tasks) == {name for name in tasks.names() if one.fills and one.fills == tasks.get(name).READS}


def test_one_whose_find_raises_is_named(pets: Path) -> None:
    package = Path(sys.path[0]) / "own_format.py"
    package.write_text(f"{FORMAT}\n    def find(self, listing, found):\n        return [][0]\n")
    line = r"format own_format\.Pets: its find raises IndexError: .*; mend it, or uninstall its package"
    with pytest.raises(HarnessError, match=line):
        lines(pets)
