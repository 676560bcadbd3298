"""The scenes that hosts are trained on: their texts are written at once, a picture when a training first shows it.

Which scenes a training shows follows from the number of scenes and its seed, whatever has been drawn before: a short
training draws few, a longer one goes on, and the files are bit for bit those that `write_scenes` writes.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path

from PIL import Image

from harness.data import scenes
from harness.data.scene_layout import make_scene, make_scenes, render
from harness.data.world import FULL, TRAINING_SCENES, WORLD_SEED, World
from harness.kit.errors import HarnessError
from harness.kit.files import explained, write_atomically
from harness.kit.progress import SILENT, Progress

SPLIT = "train"
# Says whose scenes the pictures of a folder are; a picture without bytes has yet to be drawn.
WORLD_FILE = ".world.json"
_REMEDY = "free space or set HARNESS_CACHE to a folder that can be written"


def training_scenes(progress: Progress = SILENT, world: World = FULL, fills: str = "captions") -> Path:
    """The folder of the scenes that are trained on, in the cache, with the texts of one field of an ImageTextSet.

    `fills`: captions, questions, hypotheses or statements. Pictures are empty files until `drawn`. Raises HarnessError
    where the cache cannot be written.
    """
    count = TRAINING_SCENES
    folder = scenes.cached_at(count, WORLD_SEED, SPLIT, world, "as-seen-")
    if not (folder / WORLD_FILE).is_file():
        _begin(folder, world, count)
    wanted = [scenes.text_file(name, SPLIT) for name in scenes.TEXTS[fills]]
    if not all((folder / name).is_file() for name in wanted):
        with progress.bar("texts of scenes", count) as bar:
            described = []
            for scene in make_scenes(WORLD_SEED, SPLIT, count, world):
                described.append(scene)
                bar.advance()
            texts = scenes.texts_of(fills, described, SPLIT, scenes.QUESTIONS_PER_SCENE)
        # The questions come last: a folder that has them has the answers.
        for name, content in reversed(texts.items()):
            write_atomically(folder / scenes.text_file(name, SPLIT), json.dumps(content).encode())
    return folder


def drawn(image: Path) -> Path:
    """The same path, once its picture is there: a training scene is drawn now where it was not before.

    Any other path is left as it is. Processes that draw the same scene write the same file. Raises HarnessError where
    the folder cannot be written.
    """
    try:
        empty = image.stat().st_size == 0
    except OSError:
        return image  # What hinders it is said by who opens it.
    world = _world_of(image.parent.parent) if empty else None
    if world is not None:
        picture = Image.fromarray(render(make_scene(WORLD_SEED, SPLIT, int(image.stem), world)))
        draft = image.with_name(f".{image.name}.{os.getpid()}.tmp")
        with explained(f"{image}: cannot be drawn", _REMEDY):
            picture.save(draft, "PNG")
            draft.replace(image)
    return image


@lru_cache
def _world_of(folder: Path) -> World | None:
    """The world whose scenes a folder of `training_scenes` holds; None for any other folder."""
    path = folder / WORLD_FILE
    return World.model_validate_json(path.read_bytes()) if path.is_file() else None


def _begin(folder: Path, world: World, count: int) -> None:
    """Make the folder with an empty file for each picture; it is there whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
            images = Path(name) / "draft" / "images"
            images.mkdir(parents=True)
            for index in range(count):
                (images / scenes.file_of(index)).touch()
            (images.parent / WORLD_FILE).write_text(world.model_dump_json() + "\n", encoding="utf-8")
            images.parent.rename(folder)
    except OSError as error:
        if not (folder / WORLD_FILE).is_file():  # Otherwise another process finished the same folder first.
            raise HarnessError(f"{folder}: scenes cannot be written ({error.strerror}); {_REMEDY}") from error
