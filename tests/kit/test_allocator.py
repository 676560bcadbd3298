"""Freed memory stays with the process, so that no forward pass pays for page faults."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

# The faults of a child that frees and allocates 4 blocks of 48 MiB, eight times; as many times before are not counted.
SCRIPT = """
import resource, sys
import torch
from harness.kit.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def blocks():
    held = [torch.ones(12 * 2**20) for _ in range(4)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
for _ in range(8):
    blocks()
before = faults()
for _ in range(8):
    blocks()
print(faults() - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back and can be told not to")
def test_blocks_that_are_freed_and_allocated_again_cause_no_page_faults() -> None:
    pages = 8 * 4 * 48 * 2**20 // resource.getpagesize()
    assert page_faults("left") > pages / 2
    assert page_faults("kept") < pages / 100
