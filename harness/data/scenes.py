"""The built-in world on disk: scenes as PNG files with annotations for every task, and its oracle.

`scene_layout` says what a scene is and draws it, `scene_text` and `scene_statements` the texts about it. Captions are
COCO's, questions VQA v2's, hypotheses and statements ALBEF's lists, which name image files of any format and place;
classes are folders. Files are written once, in the cache folder, and read by the same formats as the real sets. Extra
fields: "patches" of captions, questions and hypotheses (the patch indices, 0..63 row-major, of the objects they speak
of), "objects" of images, and "group" of statements (that of the two that are one sentence).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.data.scene_classes import TEMPLATES, class_name, class_scenes
from harness.data.scene_layout import COLOUR_NAMES, SHAPES, SPLITS, Scene, make_scenes, render
from harness.data.scene_statements import hypotheses, statements
from harness.data.scene_text import Claim, caption_patches, caption_text, captions, holds, questions
from harness.data.world import FULL, World
from harness.kit.errors import HarnessError
from harness.kit.files import cache_folder
from harness.kit.progress import SILENT, Bar, Progress

# The format of each field of an ImageTextSet that the world's files fill.
WORLD_FORMATS = {
    "captions": "coco_captions",
    "questions": "vqa_v2",
    "hypotheses": "entailment_list",
    "statements": "nlvr2_list",
    "classified": "class_folders",
}
# The files of each field that is texts, without the split's name and .json.
TEXTS = {
    "captions": ("captions",),
    "questions": ("questions", "annotations"),
    "hypotheses": ("ve",),
    "statements": ("nlvr",),
}
QUESTIONS_PER_SCENE = 2
# Each class has one image, and one more for so many scenes, of either split: a linear probe is fitted on train.
SCENES_PER_CLASS_IMAGE = 500
CLASSES = "classes"
MARKER = "complete.json"
_ANSWERS_PER_QUESTION = 10


def scenes_folder(count: int, seed: int, split: str = "val", progress: Progress = SILENT, world: World = FULL) -> Path:
    """The folder of a split's first `count` scenes, in the cache; generated when it is not there whole.

    Its name holds a digest of the generator's source, so a changed world is never served from an old folder.
    """
    folder = cached_at(count, seed, split, world)
    if not (folder / MARKER).is_file():
        write_scenes(folder, split, count, seed, progress=progress, world=world)
    return folder


def cached_at(count: int, seed: int, split: str, world: World, kind: str = "") -> Path:
    """Where a world's scenes lie in the cache; `kind` tells folders that are kept in another way."""
    name = re.sub(r"\W+", "-", world.stated)
    return cache_folder() / f"{name}-{split}-{count}-seed{seed}-{kind}{_generator_digest()}"


def write_scenes(
    folder: Path,
    split: str,
    count: int,
    seed: int,
    questions_each: int = QUESTIONS_PER_SCENE,
    progress: Progress = SILENT,
    world: World = FULL,
) -> None:
    """Write scenes 0 .. `count` - 1 of a split, and images of classes for both splits.

    images/, captions_SPLIT.json, questions_ and annotations_SPLIT.json, ve_SPLIT.json, nlvr_SPLIT.json, and
    classes/{train,val}/COLOUR_SHAPE/ beside classes/templates.txt. Everything is written beside `folder` and renamed,
    so that it is whole or absent; older scenes there are replaced. Raises HarnessError where the place cannot be
    written or holds something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise HarnessError(f"{folder}: holds something other than whole scenes; delete it or name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
            draft = Path(name) / "draft"
            with progress.bar("scenes", count) as bar:
                scenes = list(make_scenes(seed, split, count, world))
                marker = _write_files(draft, scenes, split, questions_each, bar)
            each = 1 + count // SCENES_PER_CLASS_IMAGE
            marker["classes_sha256"] = _write_classes(draft / CLASSES, seed, each, world)
            (draft / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
            if (folder / MARKER).is_file() and _same(folder / MARKER, draft / MARKER):
                return
            if folder.exists():
                shutil.rmtree(folder)
            draft.rename(folder)
    except OSError as error:
        if (folder / MARKER).is_file():
            return  # Another process finished the same folder first.
        raise HarnessError(
            f"{folder}: scenes cannot be written ({error.strerror}); "
            "free space or set HARNESS_CACHE to a folder that can be written"
        ) from error


def coco_captions(scenes: Iterable[Scene]) -> dict[str, Any]:
    """COCO captions of scenes, with their objects and the patches of each caption."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for scene in scenes:
        objects = [
            {"color": COLOUR_NAMES[thing.colour], "shape": SHAPES[thing.shape], "cell": thing.cell}
            for thing in scene.things
        ]
        images.append({"id": scene.index, "file_name": file_name(scene), "objects": objects})
        for claims in captions(scene):
            annotations.append(
                {
                    "image_id": scene.index,
                    "id": len(annotations),
                    "caption": caption_text(claims),
                    "patches": list(caption_patches(scene, claims)),
                }
            )
    return {"images": images, "annotations": annotations}


def vqa_v2(scenes: Iterable[Scene], split: str, questions_each: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """VQA v2 questions and annotations of scenes: ten equal answers each, and the patches of each question."""
    asked, answered = [], []
    for scene in scenes:
        for number, question in enumerate(questions(scene, questions_each)):
            key = {"question_id": scene.index * 1000 + number, "image_id": scene.index}
            asked.append(key | {"question": question.text})
            answers = [
                {"answer": question.answer, "answer_confidence": "yes", "answer_id": one + 1}
                for one in range(_ANSWERS_PER_QUESTION)
            ]
            answered.append(
                key
                | {"question_type": question.kind, "multiple_choice_answer": question.answer}
                | {"answers": answers, "patches": list(question.patches)}
            )
    about = {"data_type": "scenes", "data_subtype": split}
    return about | {"questions": asked}, about | {"annotations": answered}


def albef_ve(scenes: Iterable[Scene]) -> list[dict[str, Any]]:
    """ALBEF's list of hypotheses about scenes, with the patches of the objects that each may mean."""
    return [
        {"image": Path(file_name(scene)).stem, "sentence": one.text, "label": one.label, "patches": list(one.patches)}
        for scene in scenes
        for one in hypotheses(scene)
    ]


def albef_nlvr(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """ALBEF's list of statements about two scenes each, with the group of each."""
    return [
        {"images": [file_name(one.left), file_name(one.right)], "sentence": one.text}
        | {"label": str(one.label), "group": one.group}
        for one in statements(scenes)
    ]


def file_name(scene: Scene) -> str:
    """A scene's image file, named by its id as COCO's are."""
    return file_of(scene.index)


def file_of(index: int) -> str:
    """The image file of scene `index`."""
    return f"{index:012d}.png"


def text_file(name: str, split: str) -> str:
    """The file of one of TEXTS."""
    return f"{name}_{split}.json"


def texts_of(fills: str, scenes: Sequence[Scene], split: str, questions_each: int) -> dict[str, Any]:
    """What is said of scenes for one field of an ImageTextSet: the content of each of its files, by name."""
    contents: list[Any]
    if fills == "questions":
        contents = list(vqa_v2(scenes, split, questions_each))
    else:
        write: dict[str, Callable[[Sequence[Scene]], Any]]
        write = {"captions": coco_captions, "hypotheses": albef_ve, "statements": albef_nlvr}
        contents = [write[fills](scenes)]
    return dict(zip(TEXTS[fills], contents, strict=True))


def truth(scenes: Sequence[Scene], claims: Sequence[Sequence[Claim]]) -> npt.NDArray[np.bool_]:
    """(T, I): whether caption t, given by its claims, is true of scene i."""
    return np.array([[holds(scene, caption) for scene in scenes] for caption in claims], dtype=np.bool_)


def oracle_r1(truth_TI: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Text-to-image and image-to-text R@1 of one who knows every scene, caption t belonging to scene t.

    The oracle ranks by truth alone; among m true candidates the right one comes first with chance 1/m.
    """
    own = truth_TI.diagonal()
    by_text = own / np.maximum(truth_TI.sum(axis=1), 1)
    by_image = own / np.maximum(truth_TI.sum(axis=0), 1)
    return float(by_text.mean()), float(by_image.mean())


def oracle_recalls(count: int, seed: int = 0, split: str = "val", world: World = FULL) -> tuple[float, float]:
    """The oracle's text-to-image and image-to-text R@1 on a split's first scenes, one caption each."""
    scenes = list(make_scenes(seed, split, count, world))
    return oracle_r1(truth(scenes, [captions(scene, 1)[0] for scene in scenes]))


def oracle_recall(count: int, seed: int = 0, split: str = "val", world: World = FULL) -> float:
    """The oracle's text-to-image R@1 (see `oracle_recalls`)."""
    return oracle_recalls(count, seed, split, world)[0]


def _write_files(folder: Path, scenes: list[Scene], split: str, questions_each: int, bar: Bar) -> dict[str, Any]:
    """Write images and annotations; returns their digests."""
    (folder / "images").mkdir(parents=True)
    pixels = hashlib.sha256()
    for scene in scenes:
        picture = render(scene)
        pixels.update(picture.tobytes())
        Image.fromarray(picture).save(folder / "images" / file_name(scene))
        bar.advance()
    texts: dict[str, Any] = {}
    for fills in TEXTS:
        texts |= texts_of(fills, scenes, split, questions_each)
    marker: dict[str, Any] = {"pixels_sha256": pixels.hexdigest(), "count": len(scenes)}
    for name, content in texts.items():
        text = json.dumps(content)
        (folder / text_file(name, split)).write_text(text, encoding="utf-8")
        marker[f"{name}_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return marker


def _write_classes(folder: Path, seed: int, each: int, world: World) -> str:
    """Write `each` images of every class for both splits, and the templates; returns the digest of both."""
    templates = "".join(f"{text}\n" for text in TEMPLATES)
    digest = hashlib.sha256(templates.encode())
    for split in SPLITS:
        for number, scene in enumerate(class_scenes(seed, split, each, world)):
            picture, name = render(scene), class_name(scene)
            digest.update(picture.tobytes())
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            # Noise hardly gets smaller with more effort.
            Image.fromarray(picture).save(folder / split / name / f"{name}_{number % each}.png", compress_level=1)
    (folder / "templates.txt").write_text(templates, encoding="utf-8")
    return digest.hexdigest()


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@cache
def _generator_digest() -> str:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in (
        "world",
        "scene_layout",
        "scene_text",
        "scene_statements",
        "scene_classes",
        "scenes",
        "training_scenes",
    ):
        digest.update((here / f"{name}.py").read_bytes())
    return digest.hexdigest()[:10]
