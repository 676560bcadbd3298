"""What a task is learnt from: annotated sets as references to images, texts and what is to be learnt about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.data.formats import ImageTextSet, load_captions, load_entailment, load_nlvr2, load_questions
from harness.data.formats.kinds import Kind
from harness.data.formats.source import Source
from harness.data.pairs import PairRef
from harness.data.shards import is_shards
from harness.errors import HarnessError

# Tasks whose training data are image-caption pairs, as pre-training's are.
CAPTION_TASKS = ("retrieval", "captioning")
LOADERS = {"vqa": load_questions, "entailment": load_entailment, "nlvr2": load_nlvr2}


@dataclass
class TaskData:
    """Sources that a PairLoader reads itself, pairs it is given, and the closed list of answers that a set brings."""

    sources: list[str] = field(default_factory=list)
    refs: list[PairRef] = field(default_factory=list)
    answers: tuple[str, ...] = ()


def task_data(task: str, sources: Sequence[str], root: Path | None = None, split: str | None = None) -> TaskData:
    """The training data of a task. `split`: of the annotated sets; None: train, with Karpathy's restval.

    `root` is for image-caption pairs as pre-training reads them. Raises HarnessError for sets that cannot be read and
    for those that hold splits, but none for training.
    """
    data = TaskData()
    for source in sources:
        if task in CAPTION_TASKS and not _of_splits(source):
            data.sources.append(source)
            continue
        if root is not None:
            raise HarnessError(f"--root {root}: is for JSON of image-caption pairs; link the images into {source}")
        wanted = split or training_split(source)
        load = load_captions if task in CAPTION_TASKS else LOADERS[task]
        found = load(source, None, wanted)
        data.refs += references(found)
        data.answers = data.answers or found.answers
    return data


def training_split(source: str) -> str | None:
    """What is trained on by default; None for a set that says nothing of splits."""
    named = {split for one in Source(source).found for split in one.splits}
    if "train" in named:
        return "train+restval" if "restval" in named else "train"
    if named:
        raise HarnessError(
            f"data {source}: holds {', '.join(sorted(named))}, no train; say what to train on with --split"
        )
    return None


def references(found: ImageTextSet) -> list[PairRef]:
    """One reference per image with all its captions, per question with what its annotators answered, and per statement
    with its class.
    """
    captions: dict[Path, list[str]] = {}
    for caption in found.captions:
        captions.setdefault(caption.image, []).append(caption.text)
    refs = [PairRef(f"{image.name}#0", image, tuple(texts)) for image, texts in captions.items()]
    for one in found.questions:
        refs.append(PairRef(f"{one.image.name}#{one.id}", one.image, (one.text,), one.answers))
    for claim in found.hypotheses:
        refs.append(PairRef(f"{claim.image.name}#{claim.id}", claim.image, (claim.text,), claim.label))
    for pair in found.statements:
        refs.append(PairRef(str(pair.id), pair.images[0], (pair.text,), int(pair.label), pair.images[1]))
    return refs


def _of_splits(source: str) -> bool:
    """Whether a source is a set of captions whose publisher put its splits into one file or folder."""
    if is_shards(source) or not Path(source).exists():
        return False
    where = Source(source)
    kinds = {one.kind for one in where.found if where.file in (None, one.path)}
    return bool(kinds & {Kind.KARPATHY, Kind.ENTITIES})
