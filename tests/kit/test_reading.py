"""Facts about reading strangers' files: what is refused, in one line, and that nothing hangs or grows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.kit import reading
from harness.kit.errors import HarnessError
from harness.kit.reading import parse_json, parse_yaml, read_json, read_text, text_lines


def put(folder: Path, content: str | bytes) -> Path:
    path = folder / "x"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("{", "not valid JSON"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("9" * 5000, "not valid JSON"),
        ('{"a": 1}\n{"a": ' + "9" * 5000 + "}", "line 2: not valid JSON"),
        (b"\xff\xfe{", "not UTF-8"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    with pytest.raises(HarnessError, match=reason) as caught:
        read_json(put(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_json_and_json_lines_are_read(tmp_path: Path) -> None:
    assert read_json(put(tmp_path, b"\xef\xbb\xbf[1]\r\n")) == [1]
    assert read_json(put(tmp_path, '{"a": 1}\r\n\r\n{"a": 2}\r\n')) == [{"a": 1}, {"a": 2}]
    assert text_lines(put(tmp_path, "a\r\n\r\n b \n")) == ["a", "b"]


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(HarnessError, match="is no regular file"):
            read_text(path)
    for path in (tmp_path / "loop", tmp_path / "absent", tmp_path / "nul\0"):
        with pytest.raises(HarnessError, match="cannot be read"):
            read_text(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "0123456789")
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(HarnessError, match="has 10 bytes, more than the 9"):
        read_text(path, limit=9)


def test_yaml_of_plain_values_is_read() -> None:
    text = "a: 1\nb: [0.5, true, null, word]\nc: 2024-01-02\nd: {e: '!x'}\n"
    assert parse_yaml(text, "x") == {"a": 1, "b": [0.5, True, None, "word"], "c": "2024-01-02", "d": {"e": "!x"}}


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x",
        "a: &x [1]",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!int 3",
        "a: !mine 3",
        "a: 0x_",
        "a: " + "9" * 5000,
        "[" * 5000,
        "a: [",
        "? {a: b}\n: c",
        "a: \0",
    ],
)
def test_yaml_that_does_more_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(HarnessError, match="x: not valid YAML") as caught:
        parse_yaml(text, "x")
    assert "\n" not in str(caught.value)


def test_long_yaml_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "YAML_LIMIT_BYTES", 5)
    with pytest.raises(HarnessError, match="has 6 characters of YAML; expected 5 at most"):
        parse_yaml("a: 123", "x")


def test_numbers_to_the_base_of_sixty_are_no_numbers():
    assert parse_yaml("{limit: 1:30, share: 1:30.5, low: -0x10, high: 1_000}", "x") == {
        "limit": "1:30",
        "share": "1:30.5",
        "low": -16,
        "high": 1000,
    }


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_an_integer_of_thousands_of_digits_is_called_that(parse: Callable[[str, str], Any]) -> None:
    with pytest.raises(HarnessError, match=r"^here: not valid (JSON|YAML) \(an integer of more than [\d,]+ digits\); "):
        parse(f"[1{'0' * 6000}]", "here")
