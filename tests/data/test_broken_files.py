"""Facts about folders as they are found on disks: whatever lies in them, the answer is a line, and comes soon."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.check.data import lines
from harness.data.annotations.listing import Listing
from harness.data.annotations.rows import TEXT_LIMIT_CHARACTERS
from harness.data.digest import data_digest
from harness.data.formats import load_captions
from harness.data.images import LIMIT_BYTES, open_image
from harness.data.pairs import read_pairs
from harness.data.shards import TEXT_LIMIT_BYTES, read_shard
from harness.kit.errors import HarnessError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def captions(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "c.json"
    path.write_text(json.dumps(list(rows)))
    return path


def row(image: str, *texts: Any) -> dict[str, Any]:
    return {"image": image, "caption": list(texts)}


def check(where: Path) -> tuple[str, bool]:
    found = lines(where)
    return "\n".join(line for line, _ in found), all(good for _, good in found)


def command(where: Path | str | bytes) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    parts: list[Any] = [sys.executable, "-m", "harness", "check", "data", where]
    return subprocess.run(parts, capture_output=True, check=False, timeout=60, env=environment)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    picture(tmp_path / "b.jpg")
    captions(tmp_path, row("b.jpg", "A \U0001f600", "B"), row("\u4e2d.jpg", "C", "D"))
    folder = tmp_path / os.fsdecode(b"d\xe9")
    assert data_digest(tmp_path)
    answer = command(tmp_path)
    assert (answer.returncode, b"\\u4e2d.jpg" in answer.stdout, answer.stderr) == (1, True, b"")
    folder.mkdir()
    answer = command(folder)
    assert (answer.returncode, b"Traceback" in answer.stderr) == (1, False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("half \ud83d", "holds half a character"),
        ("x" * (TEXT_LIMIT_CHARACTERS + 1), "has 100,001 characters, more than 100,000"),
    ],
)
def test_captions_that_are_broken_or_too_long_are_bad_and_named(tmp_path: Path, text: str, why: str) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
    path = captions(tmp_path, row("a.jpg", "fine", "good"), row("b.jpg", text))
    with pytest.raises(HarnessError, match=f"c.json: caption 2 {why}"):
        load_captions(tmp_path)
    found, good = check(tmp_path)
    assert not good
    assert f"captions: 1 (first: {path}: caption 2 {why}" in found
    said: list[str] = []
    pairs = read_pairs(path, warn=said.append)
    assert (len(pairs.refs), pairs.unusable, len(said)) == (2, 1, 1)
    assert f"caption 2 {why}" in said[0]


def test_what_editors_and_archives_leave_is_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    captions(tmp_path, row("a.jpg", "A", "B"))
    before = data_digest(tmp_path)
    for name in ("._c.json", "~$c.json", ".#c.json", "__MACOSX/._c.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert len(load_captions(tmp_path).captions) == 2
    assert data_digest(tmp_path) == before


def test_links_in_circles_and_what_is_no_file(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    path = captions(tmp_path, row("a.jpg", "A", "B"))
    (tmp_path / "self.json").symlink_to(tmp_path / "self.json")
    (tmp_path / "up").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "p.jpg")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    assert len(load_captions(tmp_path).captions) == 2
    captions(tmp_path, row("p.jpg", "A", "B"))
    with pytest.raises(HarnessError, match=r"the image p.jpg, which is a pipe, a device or a link to nothing"):
        load_captions(tmp_path)
    with pytest.raises(HarnessError, match="none of its 1 images exists"):
        read_pairs(path)
    left_out = "left out: 4 pipes, devices or links to nothing (first: p.jpg)"
    assert (left_out, True) in lines(tmp_path)
    with pytest.raises(HarnessError, match="it is no regular file"):
        open_image(tmp_path / "p.jpg", "p")
    with pytest.raises(HarnessError, match="is a pipe or a device"):
        lines(tmp_path / "pipe.json")
    with pytest.raises(HarnessError, match="is a pipe or a device"):
        data_digest(tmp_path / "pipe.json")


def test_folders_without_permission_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(HarnessError, match=r"closed: cannot be listed \(Permission denied\); make it readable"):
        lines(tmp_path)


def test_folders_within_folders_without_end(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    try:
        assert Listing(tmp_path).images == []
    finally:
        # Too deep for pytest, which removes old folders by recursion.
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


@pytest.mark.parametrize("content", ["[" * 100_000, '[{"image": ' + "9" * 5000 + "}]", b"=\xd8"])
def test_json_that_no_parser_takes(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "x.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    found, good = check(tmp_path)
    assert not good
    assert found.startswith(f"unusable: {tmp_path}/x.json: not ")


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/../secret.jpg", "sub/../../secret.jpg", "x\0y.jpg", "a" * 5000]
)
def test_paths_that_leave_the_folder_name_no_image(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "secret.jpg")
    picture(tmp_path / "set" / "a.jpg")
    path = captions(tmp_path / "set", row(name, "A", "B"), row("a.jpg", "A", "B"))
    with pytest.raises(HarnessError, match="which is not under"):
        load_captions(tmp_path / "set")
    pairs = read_pairs(path, warn=lambda line: None)
    assert pairs.unusable == 1
    assert not Path(str(pairs.refs[0].image).replace("\0", "")).exists()


def test_a_drawing_called_jpg_starts_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **named: pytest.fail("Ghostscript"))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    for source in (drawing, tmp_path / "a.jpg"):
        (tmp_path / "a.jpg").write_bytes(drawing)
        with pytest.raises(HarnessError, match="cannot identify image file"):
            open_image(source, "a")


def test_images_beyond_the_limits_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(HarnessError, match="more than 268,435,456"):
        open_image(tmp_path / "large.png", "large.png")
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    began = time.process_time()
    with pytest.raises(HarnessError, match="has more than 89,478,485 pixels"):
        open_image(out.getvalue(), "bomb")
    assert time.process_time() - began < 1


def test_members_of_a_tar_that_leave_it_or_are_too_large(tmp_path: Path) -> None:
    path, inside = tmp_path / "set" / "0.tar", picture(tmp_path / "a.jpg").read_bytes()
    path.parent.mkdir()
    members = {
        "../../out.jpg": inside,
        "../../out.txt": b"Out",
        "/tmp/abs.jpg": inside,
        "/tmp/abs.txt": b"Abs",
        "long.jpg": inside,
        "long.txt": b"x" * (TEXT_LIMIT_BYTES + 1),
    }
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    refs = list(read_shard(path, "0.tar", lambda shard, reason: pytest.fail(reason)))
    assert [(bool(ref.image), ref.captions) for ref in refs] == [(True, ("Out",)), (True, ("Abs",)), (True, ())]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.jpg", "set"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_said_to_be_links(kind: bytes, tmp_path: Path) -> None:
    inside = picture(tmp_path / "a.jpg").read_bytes()
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in {"a.jpg": inside, "a.txt": b"A"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = kind, "a.jpg"
        tar.addfile(link)
    damage: list[str] = []
    refs = list(read_shard(tmp_path / "0.tar", "0.tar", lambda shard, reason: damage.append(reason)))
    assert [ref.captions for ref in refs] == [("A",)]
    wanted = "b.jpg is a link to a.jpg: pack it again with the files themselves (tar --dereference --hard-dereference)"
    assert damage == [wanted]


def test_check_data_needs_no_torch_and_no_second(tmp_path: Path) -> None:
    """Of processor time; where a machine takes a third of a second to import what reads pictures, three times that."""
    for number in range(80):
        picture(tmp_path / f"{number}.jpg")
    captions(tmp_path, *(row(f"{number}.jpg", "A", "B") for number in range(80)))
    ends = "print('torch' in sys.modules, time.process_time(), ended)\n"
    called = (
        "import sys, time\n"
        "from harness.cli.main import main\n"
        f"try: main(['check', 'data', {str(tmp_path)!r}])\n"
        f"except SystemExit as end: ended = end.code\n{ends}"
    )
    needed = f"import sys, time, numpy, pydantic, typer, yaml, PIL.Image, PIL.JpegImagePlugin; ended = 0; {ends}"
    # As in an environment that people have, where a module is compiled once.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    best = {called: 10.0, needed: 10.0}
    for program in [called, needed] * 3:
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, env=kept)
        torch, seconds, status = told.stdout.splitlines()[-1].split()
        assert (torch, status) == ("False", "0"), told.stdout
        best[program] = min(best[program], float(seconds))
    assert best[called] < max(1, 3 * best[needed])
