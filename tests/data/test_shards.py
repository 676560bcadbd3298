"""Facts about shards: which files a pattern names, what a tar holds, and what is kept of a damaged one."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.data.pairs import PairRef
from harness.data.shards import buffered, count_samples, expand_shards, is_shards, read_shard, round_robin, shard_names
from harness.kit.errors import HarnessError


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def samples(count: int, size: int = 3000) -> dict[str, bytes]:
    pairs = [{f"{at:03d}.jpg": bytes([at]) * size, f"{at:03d}.txt": f"text {at}".encode()} for at in range(count)]
    return {name: content for pair in pairs for name, content in pair.items()}


def read(path: Path) -> tuple[list[PairRef], list[str]]:
    damage: list[str] = []
    return list(read_shard(path, path.name, lambda _, reason: damage.append(reason))), damage


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    for number in (*range(8, 12), 100):
        write_tar(tmp_path / f"{number:05d}.tar", {})
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("{00008..00011}.tar", [8, 9, 10, 11]),
        ("000{08,11}.tar", [8, 11]),
        ("00{00,01}{8..9,0}.tar", None),
        ("000{1,0}{0..1,8..9}.tar", None),
        ("00{008..011,100}.tar", [8, 9, 10, 11, 100]),
        ("0000*.tar", [8, 9]),
        ("000{1*,09}.tar", [10, 11, 9]),
        ("00100.tar", [100]),
    ],
)
def test_patterns_name_files_in_order(numbered: Path, pattern: str, numbers: list[int] | None) -> None:
    if numbers is None:
        with pytest.raises(HarnessError, match=r"do not exist \(first .*; fetch them or narrow the pattern"):
            expand_shards(str(numbered / pattern))
    else:
        expected = [numbered / f"{number:05d}.tar" for number in numbers]
        assert expand_shards(str(numbered / pattern)) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("absent-*.tar", "nothing matches"),
        ("{00000..00003}.tar", "nothing matches"),
        ("{00008..00020}.tar", r"9 of 13 do not exist \(first .*00012.tar\)"),
        ("{00009..00008}.tar", "runs backwards"),
        ("{00008.tar", "a brace without its partner"),
        ("{0000{8,9},00010}.tar", "braces within braces"),
        ("*", "is not a .tar"),
    ],
)
def test_bad_patterns_are_named(numbered: Path, pattern: str, message: str) -> None:
    (numbered / "x.json").write_text("[]")
    with pytest.raises(HarnessError, match=message):
        expand_shards(str(numbered / pattern))


def test_sources_are_shards_or_files(tmp_path: Path) -> None:
    assert [is_shards(name) for name in ("a.tar", "a/*.tar", "a/{0..3}", "a.json", "a")] == [True] * 3 + [False] * 2
    (tmp_path / "[x]").mkdir()
    assert not is_shards(str(tmp_path / "[x]"))


def test_shards_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("/d/cc3m/0.tar"), Path("/d/cc12m/0.tar"), Path("/d/cc12m/1.tar")]
    assert list(shard_names(paths).values()) == ["cc3m/0.tar", "cc12m/0.tar", "cc12m/1.tar"]
    assert list(shard_names(paths[1:]).values()) == ["0.tar", "1.tar"]


def test_members_of_one_name_are_a_sample(tmp_path: Path) -> None:
    members = {
        "./a.JPG": b"image",
        "./a.txt": b" A dog \n",
        "./a.json": json.dumps({"caption": "other"}).encode(),
        "deep/b.png": b"image",
        "deep/b.cls": b"1",
        "deep/b.json": json.dumps({"caption": ["B", "C"]}).encode(),
        "._c.jpg": b"resource fork",
        "d.webp": b"image",
        "e.txt": b"no image",
        "f.jpg": b"image",
        "f.json": b"{broken",
    }
    path = write_tar(tmp_path / "x.tar", members)
    assert read(path) == (
        [
            PairRef("x.tar/a", b"image", ("A dog",)),
            PairRef("x.tar/deep/b", b"image", ("B", "C")),
            PairRef("x.tar/d", b"image", ()),
            PairRef("x.tar/e", b"", ("no image",)),
            PairRef("x.tar/f", b"image", ()),
        ],
        [],
    )
    assert count_samples([path]) == {path: 5}


def test_a_shard_cut_anywhere_yields_what_is_whole_and_counts_the_same(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "whole.tar", samples(3, 700)).read_bytes()
    ends = [512 + 1024 + 512 + 512]  # Header, image, header and text of a sample, in blocks.
    for length in range(0, 3 * ends[0] + 256, 256):
        path = tmp_path / f"{length}.tar"
        path.write_bytes(content[:length])
        pairs, damage = read(path)
        assert len(damage) == 1
        assert len(pairs) in (length // ends[0], (length + 512) // ends[0])
        assert all(len(pair.image) == 700 and pair.captions for pair in pairs if isinstance(pair.image, bytes))
        assert count_samples([path])[path] == len(pairs)


def test_a_damaged_header_ends_the_shard_with_a_report(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(4))
    content = bytearray(path.read_bytes())
    at = content.index(b"002.jpg")
    content[at : at + 512] = b"\xff" * 512
    path.write_bytes(content)
    pairs, damage = read(path)
    assert [pair.key for pair in pairs] == ["x.tar/000", "x.tar/001"]
    assert damage == ["damaged header, or not a tar"]
    assert count_samples([path]) == {path: 2}


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    pairs, damage = read(tmp_path / "x.tar")
    assert (pairs, len(damage)) == ([], 1)


def test_a_shard_that_went_away_is_reported(tmp_path: Path) -> None:
    assert read(tmp_path / "gone.tar") == ([], [f"[Errno 2] No such file or directory: '{tmp_path / 'gone.tar'}'"])


def test_counts_are_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "x.tar", samples(3))
    done: list[int] = []
    assert count_samples([path], done.append) == {path: 3}
    assert done == [1]
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"\0" * path.stat().st_size)
    os.utime(path, ns=times)
    assert count_samples([path]) == {path: 3}
    os.utime(path, ns=(times[0], times[1] + 1))
    assert count_samples([path]) == {path: 0}


def ref(number: int) -> PairRef:
    return PairRef(str(number), b"", ())


def test_shards_are_read_in_turn_and_replaced_when_done() -> None:
    readers = [iter([ref(10 * shard + at) for at in range(length)]) for shard, length in enumerate((2, 1, 0, 3))]
    keys = [one.key for one in round_robin(readers, at_once=2)]
    assert keys == ["0", "10", "1", "30", "31", "32"]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_buffer_loses_nothing(size: int) -> None:
    keys = [int(one.key) for one in buffered(map(ref, range(50)), size, random.Random(0))]
    assert sorted(keys) == list(range(50))
    assert size == 1 or keys != sorted(keys)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{0..99999999999}.tar", "more than 100,000 files"),
        ("{0..999}-{0..999}-{0..999}.tar", "stands for more than 100,000 files"),
        (f"{{0..{'9' * 50}}}.tar", "numbers of more than 18 digits"),
    ],
)
def test_a_pattern_of_more_files_than_can_be_meant_is_refused_at_once(pattern: str, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        expand_shards(pattern)
