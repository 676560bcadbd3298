"""Requests that cannot work end before anything is measured: one line on stderr, nothing on stdout, status 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cli.main import main

RUN = ["run", "--method", "tome", "--ratios", "0.7", "--tasks", "retrieval"]
FINETUNED = ["run", "--method", "tome", "--tasks", "vqa", "--protocol", "finetune", "--data", "scenes-small"]
COST = ["cost", "--model", "albef-tiny", "--method", "tome"]
PRETRAIN = ["pretrain", "--model", "albef-tiny", "--out", "never"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([*RUN, "--set", "r=0x_"], "not valid YAML"),
        ([*RUN, "--set", f"r={'9' * 5000}"], "not valid YAML"),
        ([*RUN, "--set", "r=&a [*a]"], "anchors, aliases and tags are not read"),
        ([*RUN, "--set", "r=!!python/object:os.system x"], "anchors, aliases and tags are not read"),
        ([*RUN, "--set", f"r={'[' * 5000}"], "nested too deeply"),
        ([*RUN, "--set-task", "retrieval.rerank_k=0x_"], "not valid YAML"),
        ([*RUN, "--set-train", "finetune.steps=*a"], "anchors, aliases and tags are not read"),
        ([*RUN, "--tokenizer", "no/such-tokenizer"], "tokenizer no/such-tokenizer: no vocabulary file or folder, and"),
        ([*RUN, "--data", "x" * 5000], "File name too long"),
        ([*RUN, "--threads", "1000000"], "--threads 1000000: expected"),
        ([*RUN, "--image-size", "1000000"], "--image-size"),
        ([*RUN, "--seed", "-1"], "--seed -1: expected"),
        ([*RUN, "--ratios", "nan"], "ratio nan"),
        ([*RUN, "--batch-size", "9" * 20], "'--batch-size': Input should be less than or equal to"),
        ([*RUN, "--set", "r_per_block=.nan"], "a setting is infinite or no number"),
        ([*FINETUNED, "--set-train", "finetune.workers=99999"], "--set-train finetune.workers 99999: expected"),
        ([*COST, "--gib", "inf"], "--gib inf: expected the memory of a card"),
        ([*COST, "--gib", "nan"], "--gib"),
        ([*COST, "--image-size", "10000000"], "--image-size"),
        ([*COST, "--set", "r=0x_"], "not valid YAML"),
        ([*PRETRAIN, "--workers", "100000"], "--workers 100000: expected"),
        ([*PRETRAIN, "--size", "depth=-1"], "depth -1: expected 1 to 1,000"),
        ([*PRETRAIN, "--size", "depth=99999999"], "depth 99999999: expected 1 to 1,000"),
        ([*PRETRAIN, "--size", "vocab_size=9999999999"], "vocab_size 9999999999: expected"),
        ([*PRETRAIN, "--max-bad-share", "nan"], "--max-bad-share"),
        ([*PRETRAIN, "--seed", "-1"], "--seed"),
        ([*PRETRAIN, "--dtype", "float16"], "dtype 'float16': expected one of float32, float64, bfloat16"),
        ([*PRETRAIN, "--recipe", "learning_rate=0x_"], "not valid YAML"),
        ([*PRETRAIN, "--set-objective", "albef.alpha=&a 1"], "anchors, aliases and tags are not read"),
    ],
)
def test_one_line_and_status_2(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (ended.value.code, out, len(told)) == (2, "", 1)
    assert reason in told[0]
    assert len(told[0]) < 400


@pytest.mark.parametrize("command", [[*RUN[:-1], "vqa"], ["finetune", "--task", "vqa"]], ids=["run", "finetune"])
def test_a_list_of_answers_that_is_a_pipe_is_refused_and_nothing_waits(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "answers.json")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--answers", str(tmp_path / "answers.json")])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ended.value.code == 2
    assert "is no regular file, but a folder, pipe or device" in told[0]


@pytest.mark.parametrize("option", ["--answers", "--tokenizer"])
@pytest.mark.parametrize(
    ("content", "reason"), [("[" * 100_000, "nested too deeply"), (f"[{'9' * 5000}]", "an integer of more than")]
)
def test_broken_json_named_by_an_option_ends_before_the_first_cell(
    option: str, content: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "tokenizer_config.json"
    broken.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main([*RUN[:-1], "vqa", option, str(broken if option == "--answers" else tmp_path)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert "tokenizer_config.json: not valid JSON" in err
    assert reason in err


def test_a_task_without_annotations_is_blamed_on_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.json").write_text('[{"image": "a.jpg", "caption": "a", "image_id": 1}]')
    with pytest.raises(SystemExit) as ended:
        main(["run", "--method", "tome", "--tasks", "vqa", "--data", str(tmp_path)])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"vqa: data {tmp_path}: no questions with answers in it" in told
    assert "weights" not in told


def test_memory_that_runs_out_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*given: object, **named: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 600000000000384 bytes")

    monkeypatch.setattr("harness.run.plan.cost_of", full)
    with pytest.raises(SystemExit) as ended:
        main(COST)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(
        "error: out of memory; ask for smaller images, batches or models, or free some\n"
    )


@pytest.mark.parametrize("command", ["table", "plot"])
def test_a_study_of_ones_own_is_found_by_its_file_as_it_was_run(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--study", "here/mine.yaml", "--runs", str(tmp_path)])
    assert f"{tmp_path / 'mine' / 'study.json'}: study mine has not been run here" in capsys.readouterr().err
