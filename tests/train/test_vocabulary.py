"""Facts about built vocabularies: the same in any process, of the size asked for, and every word can be spelt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.hosts.parts.tokenizer import SPECIAL_WORDS, TextTokenizer
from harness.kit.errors import HarnessError
from harness.train.vocabulary import build_vocabulary

CAPTIONS = ["A dog, a Cat and a dog.", "two dogs on the grass", "Café ünder the tree", "a cat on a tree"] * 3


def test_it_is_the_same_in_any_process() -> None:
    code = (
        "import json, sys\n"
        "from harness.train.vocabulary import build_vocabulary\n"
        "print(json.dumps(build_vocabulary(json.loads(sys.argv[1]), 70)))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(CAPTIONS)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    outputs = [process.communicate()[0] for process in started]
    assert [json.loads(output) for output in outputs] == [build_vocabulary(CAPTIONS, 70)] * 2


def test_it_begins_with_the_special_words_and_holds_the_commonest() -> None:
    words = build_vocabulary(CAPTIONS, 70, ["[DEC]"])
    assert words[:6] == [*SPECIAL_WORDS, "[DEC]"]
    assert len(words) == len(set(words)) <= 70
    assert {"a", "dog", "cat", "the", "on", "tree"} <= set(words)


def test_a_word_outside_is_spelt_without_unknowns(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(build_vocabulary(CAPTIONS, 70)))
    tokenizer = TextTokenizer(path, 40)
    ids, mask = tokenizer(["a godog untested cat.", "grass"])
    assert tokenizer.specials.unknown not in ids.tolist()[0]
    assert mask.sum(1).tolist()[1] == 3


def test_the_order_of_captions_changes_nothing() -> None:
    assert build_vocabulary(reversed(CAPTIONS), 80) == build_vocabulary(CAPTIONS, 80)


def test_a_size_without_room_is_refused() -> None:
    with pytest.raises(HarnessError, match="vocabulary of 56 words: expected at least 57"):
        build_vocabulary(CAPTIONS, 56)
    assert len(build_vocabulary(CAPTIONS, 57)) <= 57
