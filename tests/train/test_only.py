"""Facts about `finetune --only`: training on the texts that contain a match of a pattern."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.kit.errors import HarnessError
from harness.train.task_data import task_data


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(["finetune", *words, "--device", "cpu", "--quiet"])
    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    return told


def test_texts_that_contain_a_match_are_kept_and_no_others(world: Path) -> None:
    every = task_data("entailment", [str(world / "entailment")], split="dev").refs
    kept = task_data("entailment", [str(world / "entailment")], split="dev", only=r"\b(dog|cat)\b").refs
    assert [ref.captions for ref in kept] == [
        ref.captions for ref in every if {"dog", "cat"} & {*ref.captions[0].split()}
    ]
    assert 0 < len(kept) < len(every)
    assert [ref.target for ref in kept] == [
        ref.target for ref in every if ref.captions in {one.captions for one in kept}
    ]
    first = every[0].captions[0].split()[0]
    begun = task_data("entailment", [str(world / "entailment")], split="dev", only=f"^{first}").refs
    assert all(ref.captions[0].startswith(first) for ref in begun)


def test_every_source_is_searched(world: Path) -> None:
    twice = task_data("nlvr2", [str(world / "nlvr2")] * 2, split="dev", only="dog").refs
    once = task_data("nlvr2", [str(world / "nlvr2")], split="dev", only="dog").refs
    assert [ref.captions for ref in twice] == [ref.captions for ref in once] * 2
    assert len({ref.key for ref in twice}) == len(twice)


def test_each_caption_of_an_image_is_kept_or_left_by_itself(tmp_path: Path) -> None:
    name = "COCO_val2014_000000000001.jpg"
    image: dict[str, Any] = {"filename": name, "filepath": "", "cocoid": 1, "split": "train"}
    image["sentences"] = [{"raw": "two zebras"}, {"raw": "an old car"}]
    (tmp_path / name).write_bytes(b"not opened here")
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [image], "dataset": "coco"}))
    assert [ref.captions for ref in task_data("retrieval", [str(tmp_path)], only="zebra").refs] == [("two zebras",)]


def test_a_pattern_without_a_match_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused("--task", "vqa", "--data", str(world / "vqa"), "--only", "zebra", "--steps", "1", capsys=capsys)
    assert told == "error: --only 'zebra': none of the 16 texts contains a match; name another pattern\n"


def test_what_is_no_pattern_is_refused_before_anything_is_read() -> None:
    with pytest.raises(HarnessError, match=r"--only '\(dog': is no regular expression \(missing \)"):
        task_data("vqa", ["nowhere"], only="(dog")


def test_sources_that_are_read_whole_are_refused(pairs: str, shards: str) -> None:
    for source, root in ((shards, None), (pairs, Path(pairs).parent)):
        with pytest.raises(HarnessError, match=r"--only dog: .* is read whole; write a list of the pairs"):
            task_data("retrieval", [source], root, only="dog")
