"""Facts about tokenizers: what stands, what is cut, where they are looked for; never the network."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, RobertaTokenizer

from harness.hosts.parts.tokenizer import (
    TOKENIZER_FOLDER,
    VOCABULARY_FILE,
    HubTokenizer,
    Specials,
    TextTokenizer,
    holds_tokenizer,
    open_tokenizer,
)
from harness.hosts.weights.find import assets_of
from harness.kit.errors import HarnessError

TEXTS = ("red red", "x", "a red")
SHIPPED = assets_of("albef-tiny") / VOCABULARY_FILE
BYTES = sorted(ByteLevel.alphabet())


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def numbered(words: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    vocabulary = numbered(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *BYTES, "re", "red", "Ġred"])
    RobertaTokenizer(vocab=vocabulary, merges=[("r", "e"), ("re", "d"), ("Ġ", "red")]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    ends = [f"{byte}</w>" for byte in BYTES]
    vocabulary = numbered([*BYTES, *ends, "re", "red</w>", "<|startoftext|>", "<|endoftext|>"])
    CLIPTokenizer(vocab=vocabulary, merges=[("r", "e"), ("re", "d</w>")]).save_pretrained(folder)
    return folder


def test_roberta_from_a_folder(roberta: Path) -> None:
    tokenizer = HubTokenizer(str(roberta), 8)
    ids, mask = tokenizer(TEXTS[:2])
    assert tokenizer.specials == Specials(pad=1, begin=0, end=2, mask=4, unknown=3)
    assert ids.dtype == torch.int64
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert ids[:, 0].tolist() == [0, 0]
    assert ids[1, 2:].tolist() == [2, 1]


def test_clip_s_end_stands_and_the_padding_of_the_same_id_does_not(clip: Path) -> None:
    tokenizer = HubTokenizer(str(clip), 8)
    ids, mask = tokenizer(TEXTS[:2])
    assert tokenizer.specials.pad == tokenizer.specials.end
    assert tokenizer.specials.mask is None
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert ids[1, 2:].tolist() == [tokenizer.specials.end] * 2


def test_long_texts_keep_their_end_and_are_counted(roberta: Path) -> None:
    tokenizer = HubTokenizer(str(roberta), 5)
    ids, mask = tokenizer(["red " * 9, "red", "red " * 9])
    assert ids.shape == (3, 5)
    assert ids[[0, 2], -1].tolist() == [2, 2]
    assert mask.sum(1).tolist() == [5, 3, 5]
    assert tokenizer.truncated == 2


def test_no_texts_are_no_rows(roberta: Path) -> None:
    for tokenizer in (HubTokenizer(str(roberta), 5), TextTokenizer(SHIPPED, 5)):
        ids, mask = tokenizer([])
        assert ids.shape == mask.shape == (0, 0)


def test_a_tokenizer_comes_back_as_it_was_saved(roberta: Path, tmp_path: Path) -> None:
    tokenizer = HubTokenizer(str(roberta), 8)
    tokenizer.save(tmp_path)
    assert holds_tokenizer(tmp_path)
    again = open_tokenizer(None, tmp_path / VOCABULARY_FILE, 8)
    assert again.specials == tokenizer.specials
    assert torch.equal(again(TEXTS)[0], tokenizer(TEXTS)[0])
    assert (tmp_path / TOKENIZER_FOLDER).is_dir()


def test_a_vocabulary_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(SHIPPED, 8)
    tokenizer.save(tmp_path)
    assert holds_tokenizer(tmp_path)
    again = open_tokenizer(None, tmp_path / VOCABULARY_FILE, 8)
    assert torch.equal(again(TEXTS)[0], tokenizer(TEXTS)[0])


def test_a_word_that_stands_twice_moves_no_other(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "red", "dog"]
    (tmp_path / VOCABULARY_FILE).write_text("\n".join(words) + "\n")
    tokenizer = TextTokenizer(tmp_path / VOCABULARY_FILE, 8)
    assert (tokenizer.words_known, tokenizer.words(["red dog"])) == (8, [[6, 7]])
    tokenizer.save(tmp_path / "again")
    again = TextTokenizer(tmp_path / "again" / VOCABULARY_FILE, 8)
    assert (again.words_known, again.words(["red dog"])) == (8, [[6, 7]])


def test_ids_are_line_numbers_even_of_lines_that_look_blank(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u3000", "\u2028", "red"]
    (tmp_path / VOCABULARY_FILE).write_text("\n".join(words) + "\n", encoding="utf-8")
    assert TextTokenizer(tmp_path / VOCABULARY_FILE, 8).vocabulary["red"] == 7


def test_the_weights_own_tokenizer_goes_before_the_host_s(roberta: Path, clip: Path) -> None:
    assert open_tokenizer(str(clip), roberta / VOCABULARY_FILE, 8).specials.begin == 0
    assert open_tokenizer(str(clip), roberta / "nowhere" / VOCABULARY_FILE, 8).specials.mask is None


def test_a_chosen_tokenizer_goes_before_all(roberta: Path, clip: Path) -> None:
    assert open_tokenizer(str(clip), SHIPPED, 8, str(roberta)).specials.begin == 0
    assert open_tokenizer(str(clip), roberta / VOCABULARY_FILE, 8, str(SHIPPED)).specials.begin == 2


def test_a_name_in_the_cache_needs_no_network(roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--someone--roberta" / "snapshots" / "0123456789abcdef"
    (snapshot.parent.parent / "refs").mkdir(parents=True)
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(roberta, snapshot)
    (snapshot / "config.json").write_text('{"model_type": "roberta"}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert torch.equal(HubTokenizer("someone/roberta", 8)(TEXTS)[0], HubTokenizer(str(roberta), 8)(TEXTS)[0])


def refused(reason: str, hub_name: str | None, vocab_file: Path, chosen: str | None = None) -> None:
    with pytest.raises(HarnessError, match=reason) as caught:
        open_tokenizer(hub_name, vocab_file, 8, chosen)
    assert "\n" not in str(caught.value)


def test_an_absent_name_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reason = r"tokenizer someone/absent: not in the .*; run `hf download someone/absent` .* with --tokenizer"
    refused(reason, "someone/absent", tmp_path / VOCABULARY_FILE)
    refused(reason, None, SHIPPED, "someone/absent")


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    refused(r"no vocabulary at .*: name one with --tokenizer", None, tmp_path / VOCABULARY_FILE)
    refused(r"this folder holds none that can be read", None, SHIPPED, str(tmp_path))
    (tmp_path / "other.txt").write_text("these are no words\n")
    refused(r"not BERT's, it lacks \[PAD\]", None, SHIPPED, str(tmp_path / "other.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    refused(r"bytes.txt: not UTF-8 \(byte 0", None, SHIPPED, str(tmp_path / "bytes.txt"))


def test_what_a_stranger_left_as_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(r"pipe: is no regular file", None, SHIPPED, str(tmp_path / "pipe"))
    refused(r"/dev/zero: is no regular file", None, SHIPPED, "/dev/zero")
    config = tmp_path / "tokenizer_config.json"
    for content, reason in (
        ("[" * 100_000, "nested too deeply"),
        (f'{{"model_max_length": {"9" * 5000}}}', "an integer of more than"),
        ("[]", "holds no JSON object"),
    ):
        config.write_text(content)
        refused(rf"tokenizer_config.json: .*{reason}", None, SHIPPED, str(tmp_path))
    config.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "nonsense"}}')
    refused(r"this folder holds none that can be read", None, SHIPPED, str(tmp_path))
