"""Commands that are asked for nothing from a hub run to their end while every connection is refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from harness.cli.check import checks
from harness.cli.main import COMMANDS, main
from harness.data.scenes import write_scenes


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections and look-ups that were tried; each fails."""
    tried: list[Any] = []

    def refuse(*given: Any, **named: Any) -> Any:
        tried.append(given)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


ROOT = Path(__file__).parents[2]
CELL = "--model albef-tiny --tasks vqa --limit 4 --device cpu --out OUT"
TRAINED = "--model albef-tiny --method dense --data WORLD --split val --device cpu --steps 1 --quiet --out OUT"
FEW = "--recipe batch_size=4 --recipe crop=null --recipe flip=false --recipe randaugment=false"
# A call of every command, and the status that it ends with: floors and old records may be missed in so short a time.
CALLS = {
    "run": (f"{CELL} --method evit --ratios 0.5 --quiet --no-latency", {0}),
    "plan": (f"{CELL} --method evit --ratios 0.5 --quiet", {0}),
    "list": ("", {0}),
    "cost": ("--model albef-tiny --method tome", {0}),
    "throughput": ("--model albef-tiny --method dense --batch-size 2 --steps 1 --device cpu --quiet", {0}),
    "table": (f"--runs {ROOT}/results/runs", {0}),
    "plot": (f"--runs {ROOT}/results/runs --out OUT --pareto", {0}),
    "ablate": ("STUDY --limit 4 --device cpu --out OUT --quiet --no-latency", {0}),
    "pretrain": (f"{TRAINED} {FEW}", {0}),
    "new-method": ("quiet --folder OUT", {0}),
    "finetune": (f"{TRAINED} {FEW} --task vqa", {0}),
    "evaluate": (f"{CELL} --quiet --no-latency", {0}),
    "answer": ("--model albef-tiny --data WORLD/questions_val.json --out OUT/answers.json --quiet", {0}),
    "report": ("", {1, 2}),
    "check env": ("", {0}),
    "check golden": (f"{ROOT}/tests/goldens/topk.safetensors", {0}),
    "check method": ("topk", {0}),
    "check agreement": ("STUDY --limit 2", {0}),
    "check consistency": ("OUT", {2}),
    "check learning": ("diffrate --steps 1 --limit 8", {0, 1}),
    "check weights": ("albef-tiny --limit 8", {0, 1}),
    "check results": ("OUT", {0, 1, 2}),
    "check data": ("WORLD", {0}),
    "check captions": ("WORDS WORDS", {0}),
}
STUDY = """# Two methods.
draw: tradeoff
run: {model: albef-tiny, tasks: vqa}
cells:
  - {methods: "topk,evit", ratios: [0.5]}
"""


def commands() -> set[str]:
    """The words of every command that there is."""
    return {*COMMANDS, *(f"check {one.name}" for one in checks.registered_commands)}


def test_every_command_is_called() -> None:
    assert CALLS.keys() == commands()


@pytest.mark.parametrize("command", CALLS)
def test_no_connection_is_tried(
    command: str, refused: list[Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "words.txt").write_text("a red ball\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    places = {
        "WORLD": world,
        "OUT": tmp_path / "out",
        "STUDY": tmp_path / "study.yaml",
        "WORDS": tmp_path / "words.txt",
    }
    words, status = CALLS[command]
    for name, place in places.items():
        words = words.replace(name, str(place))
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), *words.split()])
    assert refused == []
    assert ended.value.code in status


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes."""
    folder = tmp_path_factory.mktemp("quiet") / "world"
    write_scenes(folder, "val", 8, 0)
    return folder
