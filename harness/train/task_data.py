"""What a task is learnt from: annotated sets as references to images, texts and what is to be learnt about them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.data.formats import ImageTextSet, OpenedSource, load
from harness.data.pairs import PairRef
from harness.data.shards import is_shards
from harness.kit.errors import HarnessError
from harness.kit.registry import tasks


@dataclass
class TaskData:
    """Sources that a PairLoader reads itself, pairs it is given, and the closed list of answers that a set brings."""

    sources: list[str] = field(default_factory=list)
    refs: list[PairRef] = field(default_factory=list)
    answers: tuple[str, ...] = ()


def task_data(
    task: str, sources: Sequence[str], root: Path | None = None, split: str | None = None, only: str | None = None
) -> TaskData:
    """The training data of a task. `split`: of the annotated sets; None: train, with Karpathy's restval. `only`: a
    regular expression that the texts of annotated sets contain a match of; None: all texts.

    Shards, and with `root` JSON of image-caption pairs, are read as pre-training reads them. Raises HarnessError for
    sets that cannot be read, for those that hold splits, but none for training, and for a pattern that is none or that
    no text contains a match of.
    """
    fills: str = tasks.get(task).READS
    data, pattern = TaskData(), None if only is None else _pattern(only)
    for number, source in enumerate(sources):
        as_pairs = fills == "captions" and (root is not None or _pairs_alone(source))
        if as_pairs and split is not None:
            raise HarnessError(f"--split {split}: {source} is read whole; name the file of that split")
        if as_pairs and only is not None:
            raise HarnessError(f"--only {only}: {source} is read whole; write a list of the pairs that are wanted")
        if as_pairs:
            data.sources.append(source)
            continue
        if root is not None:
            raise HarnessError(f"--root {root}: is for JSON of image-caption pairs; link the images into {source}")
        where = OpenedSource(source)
        found = load(fills, source, None, split or training_split(where, task))
        data.refs += references(found, where.root, f"{number}:" if len(sources) > 1 else "")
        data.answers = data.answers or found.answers
    if pattern is not None:
        data.refs = _matching(data.refs, pattern)
    return data


def _pattern(only: str) -> re.Pattern[str]:
    try:
        return re.compile(only)
    except re.error as error:
        raise HarnessError(f"--only {only!r}: is no regular expression ({error}); correct it") from error


def _matching(refs: Sequence[PairRef], pattern: re.Pattern[str]) -> list[PairRef]:
    """The references with a text that contains a match of the pattern."""
    found = [ref for ref in refs if any(pattern.search(text) for text in ref.captions)]
    if not found:
        raise HarnessError(
            f"--only {pattern.pattern!r}: none of the {len(refs):,} texts contains a match; name another pattern"
        )
    return found


def training_split(where: OpenedSource, task: str) -> str | None:
    """What is trained on by default of a task's own files; None for a set that says nothing of splits."""
    return where.training_split(tasks.get(task).READS)


def references(found: ImageTextSet, root: Path, prefix: str = "") -> list[PairRef]:
    """One reference per caption, per question with what its annotators answered, and per statement with its class.

    Keys begin with `prefix` and the image's path below `root`, so that references of one image share what stands
    before the #.
    """

    def key(image: Path, number: object) -> str:
        return f"{prefix}{os.path.relpath(image, root)}#{number}"

    refs = [PairRef(key(one.image, one.id), one.image, (one.text,)) for one in found.captions]
    refs += [PairRef(key(one.image, one.id), one.image, (one.text,), one.answers) for one in found.questions]
    refs += [PairRef(key(one.image, one.id), one.image, (one.text,), one.label) for one in found.hypotheses]
    for pair in found.statements:
        first, second = pair.images
        refs.append(PairRef(key(first, pair.id), first, (pair.text,), int(pair.label), second))
    return refs


def _pairs_alone(source: str) -> bool:
    """Whether a source is shards, or a list of pairs as pre-training's are."""
    if is_shards(source):
        return True
    where = OpenedSource(source)
    sets = [one.format for one in where.meant if one.is_set and one.format is not None]
    captions = [one for one in sets if one.fills == "captions" and not one.second]
    return not captions and any(one.pretrains_alone for one in sets)
