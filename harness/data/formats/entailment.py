"""Sentences that images entail, contradict or leave open: SNLI-VE, and ALBEF's list."""

from __future__ import annotations

from pathlib import Path

from harness.data.formats.files import Json, read_json, rows_with
from harness.data.formats.findings import Findings, report_repeated
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.records import ENTAILMENT_LABELS, Hypothesis, ImageTextSet
from harness.data.formats.source import Source, first_images, words

KINDS = (Kind.SNLI_VE, Kind.ALBEF_VE)
# Annotators did not agree; SNLI-VE leaves such sentences out of its figures.
_UNDECIDED = "-"


def load_entailment(folder: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """The hypotheses of a folder, or file; `limit` keeps the first images. Sentences with gold label "-" are left out.

    `split` chooses among files (None: test, or else val, dev, train). Raises HarnessError, one line, for a folder
    without such files, malformed files, labels outside ENTAILMENT_LABELS, empty sentences, repeated ids, and missing
    images.
    """
    return read_entailment(Source(folder), Findings(), limit, split)


def read_entailment(
    source: Source, findings: Findings, limit: int | None = None, split: str | None = None
) -> ImageTextSet:
    """`load_entailment`, with what is wrong told to `findings`."""
    found, _ = choose_entailment(source, split)
    rows = _rows(found)
    where = f"{found.path}: sentences"
    report_repeated(findings, "repeated sentence ids", where, (row["pairID"] for row in rows if "pairID" in row))
    labelled = [row for row in rows if _is_labelled(found.path, row, findings)]
    images = first_images(
        (str(row["image"]) for row in labelled), limit, lambda name: source.listing.named(found.path, name), findings
    )
    hypotheses = tuple(
        Hypothesis(row["id"], images[str(row["image"])], words(row["sentence"]), ENTAILMENT_LABELS.index(row["label"]))
        for row in labelled
        if str(row["image"]) in images
    )
    if not hypotheses:
        findings.fault(
            "sets without sentences", f"{found.path}: holds no labelled sentences about images that are there"
        )
    return ImageTextSet(tuple(dict.fromkeys(images.values())), hypotheses=hypotheses)


def choose_entailment(source: Source, split: str | None) -> tuple[Found, tuple[str, ...]]:
    """The file that sentences are read from, and its split."""
    return source.choose(source.of(*KINDS), "sentences to be entailed", KINDS, split)


def _rows(found: Found) -> list[Json]:
    """Rows with id, image, sentence and label. ALBEF's images are file names without ending."""
    content = read_json(found.path)
    if found.kind is Kind.ALBEF_VE:
        rows = rows_with(found.path, content, {"image", "sentence", "label"})
        return [row | {"id": number} for number, row in enumerate(rows)]
    lines = content if isinstance(content, list) else [content]
    return [
        row
        | {"id": row.get("pairID", number), "image": f"{row['Flickr30K_ID']}.jpg"}
        | {"sentence": row["sentence2"], "label": row["gold_label"]}
        for number, row in enumerate(rows_with(found.path, lines, {"Flickr30K_ID", "sentence2", "gold_label"}))
    ]


def _is_labelled(path: Path, row: Json, findings: Findings) -> bool:
    label = row["label"]
    if label == _UNDECIDED:
        findings.odd("sentences without a gold label, left out", f"{path}: sentence {row['id']} has the label {label}")
    elif label not in ENTAILMENT_LABELS:
        line = f"{path}: sentence {row['id']} has the label {label!r}; expected {', '.join(ENTAILMENT_LABELS)} or -"
        findings.fault("labels outside the known", line)
    elif not words(row["sentence"]):
        findings.fault("empty sentences", f"{path}: sentence {row['id']} is empty or no text; leave it out")
    else:
        return True
    return False
