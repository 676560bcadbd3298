"""--download fetches a repository into the Hugging Face cache, here from a local server, its code left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

from harness.hosts.weights import hub
from harness.hosts.weights.find import find_weights
from harness.kit.errors import HarnessError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"tensors", "pytorch_model.bin": b"pickle", "modeling.py": b"code"}


class Hub(BaseHTTPRequestHandler):
    """One repository, someone/vit, as the hub serves it."""

    def do_HEAD(self) -> None:
        self.serve(body=False)

    def do_GET(self) -> None:
        self.serve(body=True)

    def serve(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        file = path.rpartition("/")[2]
        if path.startswith("/api/models/someone/vit"):
            siblings = [{"rfilename": name} for name in FILES]
            content = json.dumps({"id": "someone/vit", "sha": COMMIT, "siblings": siblings}).encode()
            if "/tree/" in path:
                content = json.dumps(
                    [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "a"} for name in FILES]
                )
                content = content.encode() if isinstance(content, str) else content
        elif path.startswith("/someone/vit/resolve/") and file in FILES:
            content = FILES[file]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine and an empty cache."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=served.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{served.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", place)
    monkeypatch.setattr(hub, "ENDPOINT", endpoint)
    monkeypatch.setattr(hub, "CACHE", tmp_path / "cache")
    yield tmp_path / "cache"
    served.shutdown()
    served.server_close()


def test_a_repository_is_fetched_where_that_is_asked_for(server: Path) -> None:
    with pytest.raises(HarnessError, match="not in the Hugging Face cache; run `hf download"):
        find_weights("someone/vit")
    hub.fetch(Path("someone/vit"))
    found = find_weights("someone/vit")
    assert found.read_bytes() == b"tensors"
    assert {path.name for path in found.parent.iterdir()} == {"config.json", "model.safetensors"}


def test_what_is_not_there_is_one_line(server: Path) -> None:
    with pytest.raises(HarnessError, match="weights someone/else: cannot be fetched from the hub") as caught:
        hub.fetch("someone/else")
    assert "\n" not in str(caught.value)


def test_offline_is_respected(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HarnessError, match="HF_HUB_OFFLINE is set"):
        hub.fetch("someone/vit")
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_files_and_folders_that_are_here_are_not_fetched(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the hub has a repository of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "vit").mkdir(parents=True)
    hub.fetch(None)
    hub.fetch("someone/vit")
    assert not server.exists()
    (tmp_path / "someone" / "vit").rmdir()
    hub.fetch("someone/vit")
    assert server.exists()
