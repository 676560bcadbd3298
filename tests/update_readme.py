"""Fills the README's marked blocks with what their commands print. Run by hand after new results."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def printed(match: re.Match[str]) -> str:
    """A block with its command's output, fenced unless it is a Markdown table."""
    kind, words = match[1], match[2]
    command = [sys.executable, "-m", "harness", *shlex.split(words)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=README.parent).stdout.strip()
    body = out if kind == "table" else f"```\n{out}\n```"
    return f"<!-- {kind}: python -m harness {words} -->\n{body}\n<!-- end -->"


if __name__ == "__main__":
    pattern = r"<!-- (table|output): python -m harness ([^\n]*?) -->\n.*?<!-- end -->"
    README.write_text(re.sub(pattern, printed, README.read_text(encoding="utf-8"), flags=re.DOTALL), encoding="utf-8")
