"""What is no regular file is written into; a rename would put a file in its place (as root, of /dev/null too)."""

import os
import stat
import threading

import pytest

from harness.kit.errors import HarnessError
from harness.kit.files import replace_all, write_atomically


def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path):
    pipe, beside = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    replace_all({pipe: b"a table\n", beside: b"a file\n"})
    reader.join(timeout=10)
    assert read == [b"a table\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert beside.read_bytes() == b"a file\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "pipe"]


def test_a_device_stays_a_device(tmp_path):
    device = tmp_path / "null"
    device.symlink_to(os.devnull)
    write_atomically(device, b"gone")
    assert device.is_symlink()
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_folder_is_one_line(tmp_path):
    with pytest.raises(HarnessError, match="cannot be written"):
        write_atomically(tmp_path, b"")
