"""Closed lists of answers, which question answering ranks: a JSON list of texts, as ALBEF's answer_list.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Source
from harness.data.annotations.rows import text_fault
from harness.kit.errors import HarnessError
from harness.kit.reading import read_json


def _is_answers(content: Any) -> bool:
    """Whether a content is a list of texts, which null or a number may have got into."""
    texts = [one for one in content if isinstance(one, str)] if isinstance(content, list) else []
    flat = bool(texts) and not any(isinstance(one, (list, dict)) for one in content)
    return flat and not all("{}" in one for one in texts)


ANSWER_LIST = FileKind("answer list", test=_is_answers)


def read_answer_list(path: Path) -> tuple[str, ...]:
    """The answers of a list named with --answers, each once; HarnessError for another file and for what is no text."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise HarnessError(f"--answers {path}: expected a JSON list of answers")
    if len({str(one) for one in content}) < len(content):
        raise HarnessError(f"--answers {path}: holds an answer twice")
    return tuple(_texts(path, content, Findings()))


def answer_list_of(source: Source, findings: Findings) -> tuple[str, ...]:
    """The list that a set brings; nothing where it brings none. HarnessError where there are several."""
    lists = source.of(ANSWER_LIST)
    if len(lists) > 1:
        names = ", ".join(str(one.path.relative_to(source.root)) for one in lists)
        raise HarnessError(f"data {source.where}: several lists of answers ({names}); keep one of them in the folder")
    return tuple(_texts(lists[0].path, read_json(lists[0].path), findings)) if lists else ()


def _texts(path: Path, answers: Sequence[Any], findings: Findings) -> list[str]:
    """The answers of a list that are texts, each once."""
    kept = dict[str, None]()
    for number, answer in enumerate(answers):
        fault = text_fault(answer)
        if fault is not None:
            findings.fault(f"{fault[0]} answers of the list", f"{path}: answer {number} {fault[1]}; leave it out")
        elif answer in kept:
            findings.odd("answers listed twice", f"{path}: {answer!r} stands there twice, and counts once")
        else:
            kept[answer] = None
    return list(kept)
