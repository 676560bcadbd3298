"""The command `answer`: the answers that `run` scores, as a file for the server of VQA v2; annotations are not read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.cli.main import main
from harness.data.formats import load_questions, load_unanswered
from harness.data.image_store import ImageStore
from harness.data.scenes import write_scenes
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import TaskData
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import load_host
from harness.hosts.weights.sets import task_weights
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT
from harness.metrics.vqa import vqa_accuracy
from harness.reduction.budget import make_reducer
from harness.run.answers import answering_cell, server_answers
from harness.run.request import RunRequest
from harness.tasks.vqa import VQA, VQAOptions
from tests.data.test_formats import picture, put

Call = Callable[..., tuple[Any, str, str]]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve scenes with annotations, and the same questions without them, in another order."""
    whole = tmp_path_factory.mktemp("data") / "whole"
    write_scenes(whole, "val", 12, 0)
    bare = whole.parent / "bare"
    (found,) = (path for path in whole.rglob("*.json") if "questions" in json.loads(path.read_text()))
    content = json.loads(found.read_text())
    bare.mkdir()
    put(bare, "some.json", content | {"questions": content["questions"][::-1]})
    (bare / "images").symlink_to((whole / "images").resolve())
    return whole, bare


@pytest.fixture
def harness(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line: (exit status, stdout, stderr)."""

    def call(*words: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, words)))
        return caught.value.code, *capsys.readouterr()

    return call


def answered(data: Path, method: str = "dense", ratio: float = 1.0) -> list[dict[str, Any]]:
    request = RunRequest(methods=(method,), ratios=(ratio,), tasks=("vqa",), data=str(data))
    return server_answers(answering_cell(request, SILENT), None, SILENT)


@pytest.mark.parametrize(("method", "ratio"), [("dense", 1.0), ("elip", 0.6)])
def test_the_answers_are_those_that_are_scored(asked: tuple[Path, Path], method: str, ratio: float) -> None:
    whole, bare = asked
    questions = {one.id: one for one in load_questions(whole).questions}
    found = answered(bare, method, ratio)
    order = [one["question_id"] for one in json.loads((bare / "some.json").read_text())["questions"]]
    assert [one["question_id"] for one in found] == order
    assert {frozenset(one) for one in found} == {frozenset({"question_id", "answer"})}

    host = load_host("albef-tiny", task_weights("albef-tiny", None, "vqa"), "cpu", "float32")
    known, config = load_questions(whole).in_order(), host.model.config
    data = TaskData(known, ImageStore(known.images, config.image_size, config.mean, config.std))
    reducer = make_reducer(method, open_tower(host.model.vision).shape, ratio=ratio)
    samples, _, values = (
        VQA()
        .evaluate(VisionEncoder(host, reducer, data.images, 64, SILENT), data, VQAOptions())
        .outcomes["vqa_accuracy"]
    )
    scored = {
        str(one["question_id"]): vqa_accuracy(one["answer"], questions[one["question_id"]].answers) for one in found
    }
    assert scored == dict(zip(samples, np.asarray(values).tolist(), strict=True))


def test_two_processes_write_the_file_that_one_writes(asked: tuple[Path, Path], harness: Call, tmp_path: Path) -> None:
    words = ["answer", "--method", "evit", "--ratio", "0.7", "--data", str(asked[1]), "--limit", "5", "--quiet"]
    status, printed, told = harness(*words, "--out", tmp_path / "new" / "one.json")
    assert (status, printed) == (0, "")
    assert told.strip() == f"10 answers of albef-tiny, evit at ratio 0.7 (tokens), in {tmp_path / 'new' / 'one.json'}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "harness"]
    quick = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *words, "--out", str(tmp_path / "two.json")], capture_output=True, text=True, check=False, env=quick
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.json").read_text() == (tmp_path / "new" / "one.json").read_text()


def test_albefs_list_of_a_test_split(tmp_path: Path, harness: Call) -> None:
    picture(tmp_path / "test2015" / "a.jpg")
    rows = [{"question_id": 7, "question": "What?", "image": "test2015/a.jpg", "dataset": "vqa"}]
    put(tmp_path, "vqa_test.json", rows)
    (found,) = load_unanswered(tmp_path).questions
    assert (found.id, found.text, found.answers, found.image.name) == (7, "What?", (), "a.jpg")
    with pytest.raises(HarnessError, match=r"no questions with answers in vqa_test.json"):
        load_questions(tmp_path)
    status, _, told = harness("answer", "--data", tmp_path, "--out", tmp_path / "out" / "a.json")
    assert (status, told.strip()[:27]) == (0, "1 answer of albef-tiny, den")
    (one,) = json.loads((tmp_path / "out" / "a.json").read_text())
    assert one["question_id"] == 7
    put(tmp_path, "vqa_test.json", [{"question": "What?", "image": "test2015/a.jpg"}])
    with pytest.raises(HarnessError, match="question_id"):
        load_unanswered(tmp_path)


def test_of_several_files_one_is_to_be_named(tmp_path: Path) -> None:
    picture(tmp_path / "COCO_test2015_000000000007.jpg")
    for name in ("test", "test-dev"):
        asked = [{"question_id": number, "image_id": 7, "question": "What?"} for number in range(len(name))]
        put(tmp_path, f"{name}2015.json", {"data_subtype": "test2015", "questions": asked})
    with pytest.raises(
        HarnessError, match=r"several files of questions with answers \(test-dev2015.json, test2015.json\); name one"
    ):
        load_unanswered(tmp_path)
    assert len(load_unanswered(tmp_path / "test-dev2015.json").questions) == len("test-dev")


def test_answers_beside_the_questions_are_not_read(asked: tuple[Path, Path]) -> None:
    whole, _ = asked
    assert {one.answers for one in load_unanswered(whole).questions} == {()}


FAULTS = {
    "empty": ({"question_id": 1, "image_id": 7, "question": " "}, "question 1 is empty"),
    "twice": ({"question_id": 0, "image_id": 7, "question": "What?"}, "questions: the id 0 stands there twice"),
    "no image": ({"question_id": 1, "image_id": 8, "question": "What?"}, "names image 8, but no COCO_SUBSET"),
    "no id": ({"image_id": 7, "question": "What?"}, "question_id"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_questions_that_cannot_be_asked_are_named(tmp_path: Path, fault: str) -> None:
    row, said = FAULTS[fault]
    picture(tmp_path / "COCO_test2015_000000000007.jpg")
    put(tmp_path, "a.json", {"questions": [{"question_id": 0, "image_id": 7, "question": "What?"}, row]})
    with pytest.raises(HarnessError, match=said):
        load_unanswered(tmp_path)


REFUSED = {
    "two methods": (["--method", "elip,evit"], "one model under one method at a time"),
    "two models": (["--model", "albef-tiny,blip-tiny"], "one model under one method at a time"),
    "budget of dense": (["--ratio", "0.5"], "dense keeps every token: it has no ratio, schedule or settings"),
    "setting of dense": (["--set", "fuse=true"], "dense keeps every token: it has no ratio, schedule or settings"),
    "no host for it": (["--model", "clip-tiny"], "model clip-tiny: no weights ship with it"),
    "ratio": (["--method", "evit", "--ratio", "1.5"], "ratio 1.5: expected a number above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(asked: tuple[Path, Path], harness: Call, tmp_path: Path, case: str) -> None:
    words, said = REFUSED[case]
    status, printed, told = harness("answer", "--data", asked[1], "--out", tmp_path / "a.json", *words)
    assert (status, printed) == (2, "")
    assert told.startswith("error: ")
    assert said in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "a.json").exists()


def test_memory_that_runs_out_is_one_line(
    asked: tuple[Path, Path], harness: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("harness.run.answers.answers", full)
    status, _, told = harness(
        "answer", "--data", asked[1], "--out", tmp_path / "a.json", "--batch-size", "9", "--quiet"
    )
    assert (status, told) == (2, "error: answer: out of memory on cpu; give a --batch-size below 9\n")


def test_a_place_that_cannot_be_written_is_known_before_anything_is_answered(
    asked: tuple[Path, Path], harness: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("answered")

    monkeypatch.setattr("harness.run.answers.server_answers", never)
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "a.json"):
        status, _, told = harness("answer", "--data", asked[1], "--out", out)
        assert status == 2
        assert f"{out}: cannot be written: " in told
        assert "choose another --out" in told


def test_what_is_no_list_of_answers_is_not_overwritten(harness: Call, asked: tuple[Path, Path]) -> None:
    questions = asked[1] / "some.json"
    before = questions.read_bytes()
    status, _, told = harness("answer", "--data", questions, "--out", questions, "--limit", "1", "--quiet")
    line = f"error: --out {questions}: holds something else than answers; choose another file, or remove it\n"
    assert (status, told, questions.read_bytes()) == (2, line, before)
