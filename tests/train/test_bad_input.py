"""Facts about bad input to `pretrain`: status 2 and one line that says what to do, or a count in recipe.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(command: Any, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `pretrain` on data (left out: the sound set): exit status and stderr."""

    def run(*words: object, data: object = pairs, family: str = "albef") -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(command(family, str(data), tmp_path / "out", "--steps", 8, "--batch-size", 5, *words))
        assert isinstance(caught.value.code, int)
        return caught.value.code, capsys.readouterr().err

    return run


def refused(answer: tuple[int, str], message: str) -> bool:
    status, err = answer
    assert message in err
    return (status, err.count("\n")) == (2, 1)


DATA: dict[str, tuple[str, str]] = {
    "empty": ("", "is empty; fetch the file again"),
    "cut": ('[{"image": "0.jpg", "capt', "not valid JSON (Unterminated string"),
    "no list": ('{"image": "0.jpg"}', "pairs.json: no captions in it"),
    "no pairs": ("[]", "pairs.json: no captions in it"),
    "caption missing": ('[{"image": "0.jpg", "caption": "a"}, {"image": "0.jpg"}]', "caption"),
    "caption empty": ('[{"image": "0.jpg", "caption": " "}]', "caption 0 is empty or no text; leave it out"),
    "no captions": ('[{"image": "0.jpg", "caption": []}]', "entry 0 has an empty caption ([])"),
    "image missing": ('[{"image": "gone.jpg", "caption": "a"}]', "none of its 1 images exists"),
}


@pytest.mark.parametrize("name", DATA)
def test_annotations_that_cannot_be_used(call: Call, tmp_path: Path, name: str) -> None:
    content, message = DATA[name]
    (tmp_path / "pairs.json").write_text(content)
    assert refused(call(data=tmp_path / "pairs.json"), message)


def test_a_pattern_that_matches_nothing(call: Call, tmp_path: Path) -> None:
    assert refused(call(data=tmp_path / "{00000..00003}.tar"), "nothing matches")


REFUSED: dict[str, tuple[list[str], str]] = {
    "one pair a batch": (["--batch-size", "1"], "batch size 1: a pair is contrasted with the others of its batch"),
    "more a batch than pairs": (["--batch-size", "21"], "20 pairs: fewer than one global batch of 21"),
    "resolution": (["--recipe", "image_size=30"], "image size 30: expected a multiple of the patch size 8"),
    "queue": (["--recipe", "queue_size=4"], "queue of 4 features: shorter than one global batch of 5; lengthen it"),
    "fp16 on CPU": (["--precision", "fp16"], "--precision fp16 on a CPU: its products need a GPU"),
    "unknown precision": (["--precision", "fp12"], "--precision fp12: expected one of no, bf16, fp16"),
    "unknown dtype of weights": (["--store", "int8"], "--store int8: expected one of float32, float16, bfloat16"),
    "unknown objective": (["--objective", "albfe"], "unknown objective 'albfe': did you mean albef"),
    "another host's objective": (["--objective", "meter"], "MeterObjective: Albef has no co_attend"),
    "objectives of different batches": (["--objective", "albef+curriculum"], "need different batches; train with one"),
    "the same objective twice": (["--objective", "albef+2*albef"], "names one objective twice"),
    "no momentum tower for aclip": (["--method", "aclip", "--objective", "mae"], "objective mae offers none; take"),
    "a weight that is none": (["--objective", "x*albef"], "'x' is no weight; write one above 0, as 0.5*albef"),
    "unknown field": (["--set-objective", "albef.alpha=1"], "objective albef: alpha: unknown setting"),
    "field of another": (["--set-objective", "clip.alpha=1"], "--set-objective clip: not among the objectives"),
    "pairs for the curriculum": (["--objective", "curriculum"], "teaches the built-in world; take --data scenes alone"),
    "two precisions": (["--precision", "bf16", "--dtype", "float64"], "--dtype float64 with --precision bf16"),
    "unknown recipe field": (["--recipe", "lerning_rate=1"], "lerning_rate: unknown setting"),
    "recipe number out of range": (["--recipe", "momentum=2"], "momentum: Input should be less than or equal to 1"),
    "unknown size": (["--size", "depht=3"], "depht: unknown setting"),
    "multiplier of nothing": (["--recipe", "multipliers={crosss: 5}"], "multiplier of crosss: no trained parameter"),
    "weights that do not exist": (["--init", "nowhere.safetensors"], "nowhere.safetensors"),
    "share above one": (["--max-bad-share", "1.5"], "'--max-bad-share': Input should be less than or equal to 1"),
    "begin beyond depth": (["--schedule", "begin=3 keep=.5"], "begin block 3 for stage 1: the tower has blocks 0 to 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_cannot_be(call: Call, name: str) -> None:
    words, message = REFUSED[name]
    assert refused(call(*words), message)


@pytest.mark.parametrize("family", ["meter", "clip"])
def test_a_batch_of_one_pair_is_refused_by_hosts_without_queues_too(call: Call, family: str) -> None:
    assert refused(call("--batch-size", "1", family=family), "expected at least 2 pairs")


@pytest.fixture
def damaged(pairs: str, tmp_path: Path) -> Path:
    """The set with one image that is none."""
    folder = shutil.copytree(Path(pairs).parent, tmp_path / "damaged")
    (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:30])
    return folder / "pairs.json"


def test_a_corrupt_image_beyond_the_share_ends_the_run(call: Call, damaged: Path) -> None:
    assert refused(
        call(data=damaged), "1 of 20 pairs (5.00%) cannot be used; --max-bad-share is 0.01; the first: image"
    )


def record(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "recipe.json").read_text())
    return found


def test_a_corrupt_image_within_the_share_is_counted(call: Call, damaged: Path, tmp_path: Path) -> None:
    assert call("--max-bad-share", 0.05, data=damaged, family="clip")[0] == 0
    assert (record(tmp_path)["bad_samples"], record(tmp_path)["steps"]) == (2, 8)


def test_captions_that_are_too_long_are_cut_and_counted(call: Call, tmp_path: Path) -> None:
    assert call("--size", "text_length=6", family="clip")[0] == 0
    assert record(tmp_path)["truncated_captions"] == 2 * 15
