"""Commands that are asked for nothing from a hub run to their end while every connection is refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
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


@pytest.mark.parametrize(
    "words",
    [
        "list",
        "cost --model albef-tiny --method tome",
        "check env",
        "check data WORLD",
        "plan --method tome --ratios 0.7 --data WORLD --tasks vqa --out OUT",
        "run --method tome --ratios 0.7 --data WORLD --tasks vqa --out OUT --quick --quiet",
        "table --runs OUT",
        "check results OUT",
        "evaluate --model albef-tiny --data WORLD --tasks vqa --out OUT --quick --quiet",
        "answer --data WORLD/questions_val.json --out OUT/answers.json --quiet",
        "pretrain --model clip-tiny --data WORLD/captions_val.json --steps 1 --batch-size 4 --out OUT/p --quiet",
        "finetune --model albef-tiny --task vqa --data WORLD --split val --steps 1 --batch-size 4 --out OUT/f --quiet",
        "throughput --model clip-tiny --steps 1 --batch-size 2 --quiet",
        "new-method quiet --folder OUT",
    ],
)
def test_no_connection_is_tried(words: str, refused: list[Any], world: Path) -> None:
    out = world.with_name("out")
    line = [word.replace("WORLD", str(world)).replace("OUT", str(out)) for word in words.split()]
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 0
    assert refused == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes; beside them lies a folder for what the commands write, one after the other."""
    folder = tmp_path_factory.mktemp("quiet") / "world"
    write_scenes(folder, "val", 8, 0)
    folder.with_name("out").mkdir()
    return folder
