"""What is kept between commands: the same value whether it was found or made, and never one that was changed."""

import json

import pytest

from harness.kit import kept
from harness.kit.kept import Kept

KEY = {"method": "elip", "ratio": 0.7}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "cache_folder", lambda: tmp_path)
    return tmp_path


def refused():
    raise AssertionError("it was kept, and made again")


def test_a_value_is_made_once_and_is_the_same_found_as_made():
    made = Kept("costs").value(KEY, lambda: {"pair": (1, 2), "third": 1 / 3})
    assert made == {"pair": [1, 2], "third": 1 / 3}
    assert Kept("costs").value(KEY, refused) == made
    assert Kept("costs").value({**KEY, "ratio": 0.5}, lambda: 2) == 2


def test_a_kind_knows_nothing_of_another():
    Kept("costs").value(KEY, lambda: 1)
    assert Kept("budgets").value(KEY, lambda: 2) == 2


def test_what_is_changed_by_the_caller_is_kept_as_it_was():
    store = Kept("costs")
    store.value(KEY, lambda: [1]).append(2)
    assert store.value(KEY, refused) == [1]


@pytest.mark.parametrize("harm", [lambda text: text.replace(b'"a": 1', b'"a": 2'), lambda text: text[:-8]])
def test_a_line_that_was_changed_or_cut_off_is_made_again(harm):
    store = Kept("costs")
    store.value(KEY, lambda: {"a": 1, "b": 2})
    store.path.write_bytes(harm(store.path.read_bytes()))
    assert Kept("costs").value(KEY, lambda: "again") == "again"
    other = Kept("costs").value({"other": 1}, lambda: "other")
    assert Kept("costs").value({"other": 1}, refused) == other


def test_a_file_grown_too_large_is_begun_anew(monkeypatch):
    monkeypatch.setattr(kept, "MOST_BYTES", 10)
    for number in range(3):
        Kept("costs").value({"number": number}, lambda number=number: number)
    assert len(Kept("costs").path.read_bytes().splitlines()) == 1
    assert json.loads(Kept("costs").path.read_bytes().rpartition(b" ")[2]) == 2


def test_a_folder_that_cannot_be_written_is_told_of_and_the_value_given(folder, capsys):
    kept._warn_once.cache_clear()
    (folder / "kept").write_text("a file where a folder should be")
    assert Kept("costs").value(KEY, lambda: 3) == 3
    assert "cannot be written" in capsys.readouterr().err
