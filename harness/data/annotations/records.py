"""What loaders return: images in the set's own order, and what the set says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

# The order of the classes of visual entailment, as in ALBEF's and METER's released programs.
ENTAILMENT_LABELS = ("contradiction", "neutral", "entailment")


@dataclass(frozen=True)
class Caption:
    """A caption of an image; `patches` (row-major indices) where the set knows what it speaks of."""

    id: int | str
    image: Path
    text: str
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Question:
    """A question about an image with its annotators' answers; `patches` as for captions.

    `answer_type`: "yes/no", "number" or "other" where the set says so, as VQA v2's annotations do.
    """

    id: int | str
    image: Path
    text: str
    answers: tuple[str, ...]
    patches: tuple[int, ...] | None = None
    answer_type: str | None = None


@dataclass(frozen=True)
class Hypothesis:
    """A sentence that an image entails, contradicts or leaves open; `label` is its place in ENTAILMENT_LABELS."""

    id: int | str
    image: Path
    text: str
    label: int


@dataclass(frozen=True)
class PairStatement:
    """A statement about two images, left and right; `label` says whether it is true.

    Statements of one `group` are the same sentence about other pairs: NLVR2's consistency is the share of groups whose
    statements are all judged rightly.
    """

    id: int | str
    images: tuple[Path, Path]
    text: str
    label: bool
    group: str


@dataclass(frozen=True)
class ClassifiedImage:
    """An image of a class; `id` is its path below the set's folder, `label` the place of its class in the list."""

    id: str
    image: Path
    label: int


@dataclass(frozen=True)
class ImageTextSet:
    """Images in the set's own order, each once, with the annotations about them; `in_order` gives the canonical one.

    `answers`: the closed list that answers are ranked from, where the set brings one. `classes`: names in the order of
    labels. `templates`: sentences with {} where a class name goes, where the set brings them.
    """

    images: tuple[Path, ...]
    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    statements: tuple[PairStatement, ...] = ()
    classified: tuple[ClassifiedImage, ...] = ()
    answers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def in_order(self) -> ImageTextSet:
        """The same set in an order that no annotation file chooses: by image.

        Images go by path, compared folder by folder; annotations by the path of their image, statements by the first,
        then the second. Texts about one image (or pair) keep the file's order. Annotations refer to images by
        path, labels to `classes`, which stay as they are, so nothing in them changes.
        """
        return replace(
            self,
            images=tuple(sorted(self.images, key=_place)),
            captions=tuple(sorted(self.captions, key=lambda one: _place(one.image))),
            questions=tuple(sorted(self.questions, key=lambda one: _place(one.image))),
            hypotheses=tuple(sorted(self.hypotheses, key=lambda one: _place(one.image))),
            statements=tuple(sorted(self.statements, key=lambda one: tuple(map(_place, one.images)))),
            classified=tuple(sorted(self.classified, key=lambda one: _place(one.image))),
        )


def _place(image: Path) -> tuple[str, ...]:
    """What images are sorted by: alike on every system, where Path's own order follows the system's case."""
    return image.parts
