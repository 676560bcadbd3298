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
    ],
)
def test_no_connection_is_tried(words: str, refused: list[Any], world: Path) -> None:
    line = [word.replace("WORLD", str(world)) for word in words.split()]
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 0
    assert refused == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes."""
    folder = tmp_path_factory.mktemp("quiet") / "world"
    write_scenes(folder, "val", 8, 0)
    return folder
