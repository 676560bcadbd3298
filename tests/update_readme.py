"""Fills the marked blocks of the README and of docs/ with what their commands print. Run by hand after new results.

`python tests/update_readme.py` fills all; with words, the blocks whose commands begin with one of them: `table`, or
"check weights albef-tiny". A page is written when all its blocks are there, so a command that fails changes no page.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"<!-- (table|output): python -m harness ([^\n]*?) -->\n(.*?)<!-- end -->", re.DOTALL)
# What a table says of cells that failed or are missing: no record to publish.
GAPS = re.compile(
    r"no value: |record\(s\) of the same settings|come from several versions|\| (?:failed|no memory|not run|no value) "
)


def filled(match: re.Match[str], chosen: tuple[str, ...]) -> str:
    """A block with its command's output, fenced unless it is a Markdown table; as it was where it is not chosen.

    Ends the program, with what the command said, where the command fails or its table has gaps.
    """
    kind, words = match[1], match[2]
    if chosen and not words.startswith(chosen):
        return match[0]
    print(f"python -m harness {words}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "harness", *shlex.split(words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    out = done.stdout.strip()
    if done.returncode or not out:
        sys.exit("\n".join([f"python -m harness {words}: status {done.returncode}", out, done.stderr.strip()]))
    if kind == "table" and (gap := GAPS.search(out)):
        sys.exit(f"python -m harness {words}: {gap[0].strip(' |')!r} in the table; measure again, into an empty folder")
    body = out if kind == "table" else f"```\n{out}\n```"
    return f"<!-- {kind}: python -m harness {words} -->\n{body}\n<!-- end -->"


def main(chosen: tuple[str, ...]) -> None:
    """Fill the chosen blocks of all pages, and only then write them."""
    before = {page: page.read_text(encoding="utf-8") for page in PAGES}
    commands = [match[2] for text in before.values() for match in BLOCK.finditer(text)]
    if unknown := [words for words in chosen if not any(command.startswith(words) for command in commands)]:
        sys.exit(f"no block begins with {unknown[0]!r}; there are: {'; '.join(commands)}")
    after = {page: BLOCK.sub(lambda match: filled(match, chosen), text) for page, text in before.items()}
    for page, text in after.items():
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
