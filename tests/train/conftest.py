"""What tests of pre-training share: a few real JPEGs with captions, runs of seconds, and the tensors they end with."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.hosts.build import build_host, host_class
from harness.hosts.parts.tokenizer import TextTokenizer
from harness.hosts.weights.own import save_weights
from harness.train.request import PretrainRequest

WORDS = ["red", "green", "blue", "dog", "cat", "house", "tree", "car", "small", "large", "near", "behind", "street"]
SIZES: dict[str, dict[str, int]] = {
    "albef": {"text_layers": 1, "fusion_layers": 1, "projection": 12},
    "blip": {"text_layers": 1, "projection": 12},
    "meter": {"text_layers": 1, "fusion_layers": 1},
    "clip": {"text_layers": 1, "text_width": 24, "projection": 12},
}
TOWER = {"depth": 3, "width": 24, "heads": 3}
RECIPE: dict[str, Any] = {"image_size": 32, "queue_size": 32, "warmup_steps": 2, "learning_rate": 0.003}
ANSWERS = ("red", "blue", "dog")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STAGES = "begin=1 keep=.6 lookahead=2"

Command = Callable[..., list[str]]
Ask = Callable[..., PretrainRequest]
LastState = Callable[[Path], dict[str, Tensor]]


def picture(number: int) -> tuple[bytes, str]:
    """A JPEG and its caption."""
    source = np.random.default_rng(number)
    buffer = io.BytesIO()
    pixels = source.integers(0, 255, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 40)).save(buffer, "JPEG")
    return buffer.getvalue(), " ".join(source.choice(WORDS, 4 + number % 4))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An ALBEF-style JSON of 20 pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for number in range(20):
        content, caption = picture(number)
        (folder / f"{number}.jpg").write_bytes(content)
        rows.append({"image": f"{number}.jpg", "caption": caption})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return str(folder / "pairs.json")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pattern of three tars with 20 pairs in all."""
    folder = tmp_path_factory.mktemp("shards")
    for shard, count in enumerate((8, 7, 5)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for at in range(count):
                content, caption = picture(100 * shard + at)
                for name, held in ((f"{at:03d}.jpg", content), (f"{at:03d}.txt", caption.encode())):
                    about = tarfile.TarInfo(name)
                    about.size = len(held)
                    tar.addfile(about, io.BytesIO(held))
    return str(folder / "{00000..00002}.tar")


@pytest.fixture(scope="session")
def ask(pairs: str) -> Ask:
    """A request of a run of about a second; recipe and sizes are added to."""

    def make(family: str, out: Path, recipe: dict[str, Any] | None = None, **changes: Any) -> PretrainRequest:
        asked: dict[str, Any] = {
            "model": f"{family}-tiny",
            "data": (pairs,),
            "out": out,
            "method": "elip",
            "schedule": STAGES,
            "steps": 6,
            "vocabulary": 100,
            "device": "cpu",
            "save_every": 2,
            "log_every": 1,
            "quiet": True,
        }
        sizes = TOWER | SIZES[family] | changes.pop("sizes", {})
        return PretrainRequest(**asked | changes, recipe={"batch_size": 8} | RECIPE | (recipe or {}), sizes=sizes)

    return make


@pytest.fixture(scope="session")
def command() -> Command:
    """The words of the command line for such a run."""

    def words(family: str, data: str, out: Path, *more: object) -> list[str]:
        numbers = [f"--recipe={name}={value}" for name, value in RECIPE.items()]
        numbers += [f"--size={name}={value}" for name, value in (TOWER | SIZES[family]).items()]
        plain = "--method elip --vocabulary 100 --device cpu --threads 1 --save-every 2 --log-every 1 --quiet"
        place = ["--data", data, "--out", str(out), "--schedule", STAGES]
        return ["pretrain", "--model", f"{family}-tiny", *place, *plain.split(), *numbers, *map(str, more)]

    return words


@pytest.fixture(scope="session")
def last_state() -> LastState:
    """Every tensor of a run's last checkpoint by its path in it: weights, twin, queues, optimizer, generators."""

    def read(out: Path) -> dict[str, Tensor]:
        newest = max((out / "checkpoints").glob("*.pt"))
        return dict(_tensors(torch.load(newest, weights_only=True), ""))

    return read


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per task, each with sixteen images and annotations as the publishers ship them."""
    root = tmp_path_factory.mktemp("world")
    captions, questions, answered, claims, statements = [], [], [], [], []
    for number in range(16):
        content, caption = picture(number)
        name, word = f"COCO_val2014_{number:012d}.jpg", ANSWERS[number % 3]
        for task, file in (
            ("captions", name),
            ("vqa", name),
            ("entailment", f"{number}.jpg"),
            ("nlvr2", f"dev-{number}-0-img0.png"),
        ):
            (root / task).mkdir(exist_ok=True)
            (root / task / file).write_bytes(content)
        (root / "nlvr2" / f"dev-{number}-0-img1.png").write_bytes(picture(number + 50)[0])
        captions.append({"image": name, "caption": [caption, f"{caption} again"]})
        key = {"question_id": number, "image_id": number}
        questions.append(key | {"question": "what is left?"})
        answered.append(key | {"answers": [{"answer": word}] * 7 + [{"answer": "left"}] * 3})
        claims.append(
            {"Flickr30K_ID": str(number), "sentence2": caption, "gold_label": ("neutral", "entailment")[number % 2]}
        )
        statements.append(
            {"identifier": f"dev-{number}-0-0", "sentence": caption, "label": ("True", "False")[number % 2]}
        )
    (root / "captions" / "pairs.json").write_text(json.dumps(captions))
    (root / "vqa" / "questions.json").write_text(json.dumps({"questions": questions}))
    (root / "vqa" / "annotations.json").write_text(json.dumps({"annotations": answered}))
    (root / "entailment" / "dev.jsonl").write_text("\n".join(map(json.dumps, claims)))
    (root / "nlvr2" / "dev.json").write_text("\n".join(map(json.dumps, statements)))
    return root


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A folder of random weights of a small host, as pre-training leaves one."""
    root = tmp_path_factory.mktemp("start")

    def folder(family: str) -> str:
        path = root / family
        if not path.is_dir():
            path.mkdir()
            words = [*SPECIAL, *host_class(f"{family}-tiny").EXTRA_WORDS, *WORDS, "left", "again", "what", "is", "?"]
            (path / "vocab.txt").write_text("\n".join(words) + "\n")
            sizes = host_class(f"{family}-tiny").vocabulary_sizes(TextTokenizer(path / "vocab.txt", 20).vocabulary)
            torch.manual_seed(0)
            host = build_host(f"{family}-tiny", image_size=32, **TOWER, **SIZES[family], **sizes)
            save_weights(host, path / "model.safetensors", f"{family}-tiny", torch.float32)
        return str(path)

    return folder


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(part, f"{path}/{name}")
