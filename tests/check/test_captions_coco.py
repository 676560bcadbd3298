"""Facts about `check captions` on COCO's files: joined by image id, and what does not fit is counted and named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.check import captions
from harness.kit.errors import HarnessError
from harness.metrics.captions import METRICS, CaptionScores

IMAGES = [{"id": 7}, {"id": 8}, {"id": 9}]
REFERENCES = [(8, "a red ball"), (7, "a blue cube"), (9, "green rings "), (8, "one ball")]
RESULTS = [(9, "a ring"), (8, "a ball"), (7, "a cube")]


def results(*rows: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"image_id": key, "caption": text} for key, text in rows]


def references(*rows: tuple[Any, Any], images: Any = IMAGES) -> dict[str, Any]:
    return {"images": images, "annotations": results(*rows)}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command gives to the metrics, which are not computed."""
    given: list[Any] = []

    def record(written: Sequence[str], by_caption: Sequence[Sequence[str]]) -> CaptionScores:
        given.extend((list(written), [list(texts) for texts in by_caption]))
        return CaptionScores({"cider": np.array([1.0])}, {}, dict.fromkeys(METRICS, "why"))

    monkeypatch.setattr(captions, "caption_scores", record)
    return given


def checked(folder: Path, hyp: Any, ref: Any, ending: str = "json") -> list[tuple[str, bool]]:
    paths = [folder / f"{name}.{ending}" for name in ("hyp", "ref")]
    for path, content in zip(paths, (hyp, ref)):
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return captions.lines(paths[0], paths[1:])


@pytest.mark.parametrize("ending", ["json", "txt"])
def test_predictions_meet_the_references_of_their_image(tmp_path: Path, scored: list[Any], ending: str) -> None:
    found = checked(tmp_path, results(*RESULTS), references(*REFERENCES, (7, "")), ending)
    assert scored == [["a cube", "a ball", "a ring"], [["a blue cube"], ["a red ball", "one ball"], ["green rings"]]]
    assert found[6] == ("cider    1.000000", True)


def test_json_gives_the_metrics_what_the_same_texts_do(tmp_path: Path, scored: list[Any]) -> None:
    checked(tmp_path, results(*RESULTS), references(*REFERENCES))
    (tmp_path / "h").write_text("a cube\na ball\na ring\n")
    (tmp_path / "r").write_text("a blue cube\na red ball\ngreen rings\n")
    (tmp_path / "r2").write_text("\none ball\n\n")
    captions.lines(tmp_path / "h", [tmp_path / "r", tmp_path / "r2"])
    assert scored[:2] == scored[2:]


@pytest.mark.parametrize(
    ("hyp", "ref", "said"),
    [
        (
            results((7, "a cube")),
            references(*REFERENCES),
            r"hyp.json: no prediction for 2 of 3 images of .*ref.json \(first: 8, 9\); caption them all, or",
        ),
        (
            results(*RESULTS, (5, "a"), ("7", "b"), (4, "c"), (3, "d")),
            references(*REFERENCES),
            r"hyp.json: 4 of 7 predictions are of images that .*ref.json lacks \(first: 5, \"7\", 4, …\); leave",
        ),
        (
            results(*RESULTS, (9, "b"), (9, "c"), (7, "d")),
            references(*REFERENCES),
            r"hyp.json: predicts 2 images twice \(first: 9, 7\); keep one caption each",
        ),
        (
            results(*RESULTS),
            references(*REFERENCES[:1], (9, " ")),
            r"ref.json: 2 of 3 images have no reference \(first: 7, 9\); add one each",
        ),
        (
            results(*RESULTS),
            references(*REFERENCES, (3, "a"), (3, "b")),
            r"ref.json: has references of 1 image that it does not list \(first: 3\); add them",
        ),
        (
            results(*RESULTS),
            references(*REFERENCES, images=[*IMAGES, {"id": 8}]),
            r"ref.json: lists 1 image twice \(first: 8\)",
        ),
        (results((7, None)), references(*REFERENCES), r"hyp.json: the caption of image 7 is no text but None"),
        ([{"image_id": 7}], references(*REFERENCES), r"hyp.json: entry 0 lacks caption"),
        (results(([7], "a")), references(*REFERENCES), r"hyp.json: entry 0 has the image_id \[7\]; expected"),
        (results(*RESULTS), {"annotations": []}, r"ref.json: expected a list of entries with id"),
        (results(*RESULTS), results(*REFERENCES), r"ref.json: expected COCO captions JSON"),
        (references(*REFERENCES), results(*RESULTS), r"ref.json: expected COCO captions JSON"),
        ([], references(*REFERENCES), r"hyp.json: expected a JSON list of image_id and caption"),
        ("[{", references(*REFERENCES), r"hyp.json: not valid JSON"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, scored: list[Any], hyp: Any, ref: Any, said: str) -> None:
    with pytest.raises(HarnessError, match=said) as error:
        checked(tmp_path, hyp, ref)
    assert "\n" not in str(error.value)
    assert not scored


def test_json_and_texts_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "ref.txt").write_text("a ball\n")
    (tmp_path / "hyp.json").write_text(json.dumps(results(*RESULTS)))
    with pytest.raises(HarnessError, match="expected texts of a caption a line, or a JSON of results and one of"):
        captions.lines(tmp_path / "hyp.json", [tmp_path / "ref.txt"])


def test_captions_that_begin_with_a_bracket_are_still_captions(tmp_path: Path, scored: list[Any]) -> None:
    checked(tmp_path, "[unk] a ball [unk]\n", "[a ball]\n", "txt")
    assert scored == [["[unk] a ball [unk]"], [["[a ball]"]]]


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "hyp.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(HarnessError, match=r"hyp.txt: not UTF-8 \(byte 3"):
        captions.lines(tmp_path / "hyp.txt", [tmp_path / "hyp.txt"])
