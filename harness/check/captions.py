"""The caption metrics of texts on disk, as a command: to compare with other programs' figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.check.captions_coco import coco_pairs, is_json
from harness.kit.errors import HarnessError
from harness.kit.reading import read_text
from harness.metrics.captions import METRICS, caption_scores


def lines(captions: Path, references: Sequence[Path]) -> list[tuple[str, bool]]:
    """One line per metric, the value with six decimals, or why it is absent.

    Text: line i of every reference file belongs to line i of `captions`; an empty line of a reference file is no
    reference. JSON: COCO's list of results and one file of COCO captions, joined by image id. HarnessError for files
    that cannot be read or do not fit together.
    """
    paths = (captions, *references)
    kinds = [is_json(path, read_text(path)) for path in paths]
    if all(kinds) and len(references) == 1:
        written, by_caption = coco_pairs(captions, references[0])
    elif any(kinds):
        named = ", ".join(map(str, paths))
        raise HarnessError(f"{named}: expected texts of a caption a line, or a JSON of results and one of references")
    else:
        written, by_caption = _line_pairs(captions, references)
    scores = caption_scores(written, by_caption)
    values = scores.corpus()
    return [
        (
            f"{metric:<9}{values[metric]:.6f}" if metric in values else f"{metric:<9}absent: {scores.absent[metric]}",
            True,
        )
        for metric in METRICS
    ]


def _line_pairs(captions: Path, references: Sequence[Path]) -> tuple[list[str], list[list[str]]]:
    written = _texts(captions)
    by_file = [_texts(path) for path in references]
    for path, texts in zip(references, by_file):
        if len(texts) != len(written):
            raise HarnessError(f"{path}: {len(texts)} lines, {captions} has {len(written)}; line i belongs to line i")
    by_caption = [[text for text in texts if text] for texts in zip(*by_file)]
    for number, texts in enumerate(by_caption, 1):
        if not texts:
            raise HarnessError(f"line {number}: no reference in {', '.join(map(str, references))}")
    return written, by_caption


def _texts(path: Path) -> list[str]:
    texts = read_text(path).split("\n")
    texts = texts[:-1] if texts[-1] == "" else texts
    if not texts:
        raise HarnessError(f"{path}: holds no captions; expected one a line")
    return [text.strip() for text in texts]
