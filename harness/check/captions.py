"""The caption metrics of texts on disk, as a command: to compare with other programs' figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.metrics.captions import METRICS, caption_scores


def lines(captions: Path, references: Sequence[Path]) -> list[tuple[str, bool]]:
    """One line per metric, the value with six decimals, or why it is absent.

    Line i of every reference file belongs to line i of `captions`; an empty line of a reference file is no reference.
    HarnessError for files that cannot be read or differ in length.
    """
    written = _texts(captions)
    by_file = [_texts(path) for path in references]
    for path, texts in zip(references, by_file):
        if len(texts) != len(written):
            raise HarnessError(f"{path}: {len(texts)} lines, {captions} has {len(written)}; line i belongs to line i")
    by_caption = [[text for text in texts if text] for texts in zip(*by_file)]
    for number, texts in enumerate(by_caption, 1):
        if not texts:
            raise HarnessError(f"line {number}: no reference in {', '.join(map(str, references))}")
    scores = caption_scores(written, by_caption)
    values = scores.corpus()
    return [
        (
            f"{metric:<9}{values[metric]:.6f}" if metric in values else f"{metric:<9}absent: {scores.absent[metric]}",
            True,
        )
        for metric in METRICS
    ]


def _texts(path: Path) -> list[str]:
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read as UTF-8 text, one caption a line ({error})") from error
    texts = texts[:-1] if texts[-1] == "" else texts
    if not texts:
        raise HarnessError(f"{path}: holds no captions; expected one a line")
    return [text.strip() for text in texts]
