"""Sets of sentences that images entail, contradict or leave open."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from pathlib import Path
from typing import ClassVar

from harness.data.annotations.findings import Findings, report_repeated
from harness.data.annotations.format import Format, Found, Source
from harness.data.annotations.records import ENTAILMENT_LABELS, Hypothesis, ImageTextSet
from harness.data.annotations.report import counted
from harness.data.annotations.rows import Json, shown, text_fault
from harness.data.annotations.source import first_images

# Annotators did not agree; SNLI-VE leaves such sentences out of its figures.
_UNDECIDED = "-"


class HypothesisFormat(Format):
    """A format of sentences about images with a gold label, one of ENTAILMENT_LABELS, or "-", which is left out."""

    fills: ClassVar[str] = "hypotheses"
    noun: ClassVar[str] = "sentences to be entailed"

    @abstractmethod
    def rows(self, found: Found) -> list[Json]:
        """Entries with id, image, sentence and label; a pairID, where they have one, is theirs alone."""

    def read(
        self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings, limit: int | None = None
    ) -> ImageTextSet:
        rows, path = self.rows(found), found.path
        where = f"{path}: sentences"
        report_repeated(findings, "repeated sentence ids", where, (row["pairID"] for row in rows if "pairID" in row))
        labelled = [row for row in rows if _is_labelled(path, row, findings)]
        names = (str(row["image"]) for row in labelled)
        images = first_images(names, limit, lambda name: source.listing.named(path, name), findings)
        hypotheses = tuple(
            Hypothesis(row["id"], images[name], row["sentence"].strip(), ENTAILMENT_LABELS.index(row["label"]))
            for row in labelled
            if (name := str(row["image"])) in images
        )
        if not hypotheses:
            line = f"{path}: holds no labelled sentences about images that are there"
            findings.fault("sets without sentences", line)
        return ImageTextSet(tuple(dict.fromkeys(images.values())), hypotheses=hypotheses)

    def counts(self, data: ImageTextSet) -> list[str]:
        found = Counter(one.label for one in data.hypotheses)
        labels = ", ".join(f"{found[label]:,} {name}" for label, name in enumerate(ENTAILMENT_LABELS))
        return [f"{counted(len(data.hypotheses), 'sentence')}: {labels}"]


def _is_labelled(path: Path, row: Json, findings: Findings) -> bool:
    label, fault = row["label"], text_fault(row["sentence"])
    if label == _UNDECIDED:
        findings.odd("sentences without a gold label, left out", f"{path}: sentence {row['id']} has the label {label}")
    elif label not in ENTAILMENT_LABELS:
        expected = f"{', '.join(ENTAILMENT_LABELS)} or -"
        line = f"{path}: sentence {row['id']} has the label {shown(label)}; expected {expected}"
        findings.fault("labels outside the known", line)
    elif fault is not None:
        findings.fault(f"{fault[0]} sentences", f"{path}: sentence {row['id']} {fault[1]}; leave it out")
    else:
        return True
    return False
