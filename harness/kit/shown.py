"""Text of strangers (names, captions, errors) as a terminal, a shell, a CSV file or Markdown can take it unharmed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from shlex import quote

# Marks that turn the direction of what follows them: a line would read otherwise than it is.
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL = frozenset({"Cc", "Zl", "Zp"})
_MARKDOWN = re.compile(r"([\\`*\[\]<>|~])|(?<!\w)_|_(?!\w)")
# What a spreadsheet takes for the begin of a formula, by OWASP's list.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def on_one_line(text: str) -> str:
    """A text whose control characters (line ends, escapes of a terminal) are shown as \\n and \\x1b, not sent."""
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if _is_control(sign) else sign for sign in text)


def shell_words(words: Iterable[str]) -> str:
    """Words as a line that a shell reads back as them, also where they are no UTF-8 or hold control characters."""
    return " ".join(_shell_word(word) for word in words)


def csv_cell(value: object) -> object:
    """A cell that a spreadsheet takes for text, on one line: one that would begin a formula gets a quote before it."""
    if not isinstance(value, str):
        return value
    return "'" * value.startswith(_FORMULA) + on_one_line(value)


def markdown_text(text: str) -> str:
    """A text whose marks Markdown shows and does not follow; HTML's are entities."""
    return _MARKDOWN.sub(lambda match: _MARKED.get(match[0], f"\\{match[0]}"), text.replace("&", "&amp;"))


_MARKED = {"<": "&lt;", ">": "&gt;"}


def in_utf8(text: str) -> str:
    """A text whose lone surrogates, as of file names that are not UTF-8, are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_control(sign: str) -> bool:
    return sign in _TURNING or unicodedata.category(sign) in _CONTROL


def _escaped(sign: str) -> str:
    return repr(sign)[1:-1] if ord(sign) < 0x100 else f"\\u{ord(sign):04x}"


def _shell_word(word: str) -> str:
    if word.isprintable():
        return quote(word)
    raw = word.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(one) if _is_plain(one) else f"\\{one:03o}" for one in raw) + "'"


def _is_plain(byte: int) -> bool:
    return 0x20 <= byte < 0x7F and byte not in b"'\\"
