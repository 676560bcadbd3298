"""The captioning task with a small BLIP of random weights, and ids as text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

import harness.tasks.captioning
from harness.data.formats import Caption, ImageTextSet
from harness.data.image_store import ImageStore
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import TaskData
from harness.hosts.blip.model import PRESETS, Blip, BlipConfig
from harness.hosts.build import skeleton
from harness.hosts.parts.tokenizer import SPECIAL_WORDS, HubTokenizer, TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT
from harness.metrics.captions import CaptionScores
from harness.metrics.stats import deltas, quality
from harness.reduction.budget import make_reducer
from harness.tasks.captioning import Captioning, CaptioningOptions, prompt_ids, written

WORDS = [*SPECIAL_WORDS, *"a red man ' s dog ##s , . ball cube on the ring is".split(), "[DEC]", "[ENC]"]  # noqa: SIM905 - as a text it is read
CONFIG = {
    **PRESETS["tiny"],
    "image_size": 16,
    "width": 24,
    "depth": 2,
    "text_layers": 2,
    "projection": 16,
    "vocab_size": len(WORDS),
    "text_length": 24,
    "dec_id": WORDS.index("[DEC]"),
    "enc_id": WORDS.index("[ENC]"),
}
IMAGES = tuple(Path(f"/data/{name}.png") for name in "abcde")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return TextTokenizer(path, 24)


@pytest.fixture(scope="module")
def host(tokenizer):
    torch.manual_seed(0)
    model = Blip(BlipConfig.model_validate(CONFIG)).double().eval()
    return Host("blip-small", model, tokenizer, (), torch.device("cpu"), torch.float64)


def encoder_of(host, batch_size, method="dense", schedule=None):
    pixels = torch.randn(len(IMAGES), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    reducer = make_reducer(method, open_tower(host.model.vision).shape, schedule=schedule)
    return VisionEncoder(host, reducer, ImageStore.of(pixels), batch_size, SILENT)


def test_a_caption_depends_on_no_batch_mate(host):
    captions = [written(encoder_of(host, size), CaptioningOptions()) for size in (1, 2, 5)]
    assert captions[0] == captions[1] == captions[2]
    assert len(set(captions[0])) > 1


def test_lengths_count_the_first_token_and_the_prompt(host):
    """Ids of at most 9 with [DEC] and two words of prompt: six words of one's own, word pieces joined."""
    lengths = {"max_length": 9, "min_length": 9}
    prompt = prompt_ids(host.tokenizer, "a red ")
    ids = host.model.caption(encoder_of(host, 5).tokens(torch.arange(5)), prompt, **lengths)
    assert ids.shape == (5, 6)
    captions = written(encoder_of(host, 5), CaptioningOptions(**lengths, prompt="a red "))
    assert captions == [host.tokenizer.decode(row) for row in ids.tolist()]


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_measured(host):
    options = CaptioningOptions(max_length=8, prompt="a red ring " * 200)
    with pytest.raises(HarnessError, match=r"captioning: a prompt of \d+ tokens and max_length 8, which counts it"):
        Captioning().check(host, ImageTextSet(()), options)
    Captioning().check(host, ImageTextSet(()), CaptioningOptions(max_length=8, min_length=0, prompt="a red ring"))


def test_the_prompt_is_what_captions_go_on_from(host):
    options = {"beams": 1, "max_length": 8, "min_length": 8}
    plain = written(encoder_of(host, 5), CaptioningOptions(**options))
    led = written(encoder_of(host, 5), CaptioningOptions(**options, prompt="the ring is on"))
    assert plain != led
    assert prompt_ids(host.tokenizer, "") is None
    assert prompt_ids(host.tokenizer, "a ball ").tolist() == [WORDS.index("a"), WORDS.index("ball")]


@pytest.fixture
def counted(monkeypatch):
    """Score a caption by the number of its references, with parts of BLEU-1 that make 2 of 4 for each."""

    def scores(captions, references):
        number = np.array([len(others) for others in references], dtype=float)
        parts = np.array([[2.0, 4, 4, 4]] * len(captions))
        samples = {"bleu_1": np.zeros(len(captions)), "cider": number}
        return CaptionScores(samples, {"bleu_1": parts}, {"spice": "no parser"})

    monkeypatch.setattr(harness.tasks.captioning, "caption_scores", scores)
    monkeypatch.setattr(harness.tasks.captioning, "java_path", lambda program: program)


def evaluated(host, *method):
    owners = [IMAGES[index] for index in (0, 1, 1, 2, 3, 3, 3, 4)]
    captions = tuple(Caption(number, image, "a red ball") for number, image in enumerate(owners))
    encoder = encoder_of(host, 2, *method)
    data = TaskData(ImageTextSet(IMAGES, captions=captions), encoder.images)
    return Captioning().evaluate(encoder, data, CaptioningOptions())


def test_an_image_s_caption_meets_all_its_references(host, counted):
    outcome = evaluated(host)
    names, clusters, values = outcome.outcomes["cider"]
    assert list(names) == list(clusters) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert values.tolist() == [1, 2, 1, 3, 1]
    assert outcome.values() == pytest.approx({"bleu_1": 0.5, "cider": 8 / 5})
    assert outcome.diagnostics["absent"] == {"spice": "no parser"}
    assert list(outcome.diagnostics["captions"]) == list(names)


def test_a_record_holds_the_corpus_value_of_bleu_and_the_mean_of_cider(host, counted):
    frame = evaluated(host).frame()
    found = quality(frame)["captioning"]
    assert found["bleu_1"]["value"] == pytest.approx(0.5, abs=1e-8)
    assert found["bleu_1"]["ci95"] == pytest.approx([0.5, 0.5], abs=1e-8)
    assert deltas(frame, frame)["captioning"]["bleu_1"] == {"delta_to_dense": 0, "delta_ci95": [0, 0]}
    assert found["cider"]["value"] == pytest.approx(8 / 5)


def test_a_text_guided_method_falls_back(host, counted):
    """There is no text yet when an image is captioned: ELIP keeps all tokens, and the captions are dense's."""
    reduced = evaluated(host, "elip", "begin=1 keep=.5 lookahead=1")
    assert reduced.diagnostics["captions"] == evaluated(host).diagnostics["captions"]


def test_a_host_without_a_decoder_is_refused_with_those_that_have_one(host):
    albef = Host("albef-tiny", skeleton("albef-tiny"), host.tokenizer, (), host.device, torch.float32)
    with pytest.raises(HarnessError, match=r"captioning: albef-tiny writes no text; hosts that do: .*blip-tiny"):
        evaluated(albef)


def test_ids_become_text_up_to_the_end(tokenizer):
    ids = [WORDS.index(word) for word in ["a", "man", "'", "s", "dog", "##s", ",", "red", ".", "[SEP]", "a", "[PAD]"]]
    assert tokenizer.decode(ids) == "a man's dogs, red."
    assert tokenizer.decode(ids[:6] + [0, 0]) == "a man's dogs"
    assert tokenizer.decode([3, 0]) == tokenizer.decode([]) == ""


def test_tokenizers_of_transformers_give_the_same_text(tmp_path):
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(tmp_path)
    ids = [WORDS.index(word) for word in ["a", "man", "'", "s", "dog", "##s", ".", "[SEP]", "a"]]
    assert HubTokenizer(str(tmp_path), 24).decode(ids) == "a man's dogs."
    assert HubTokenizer(str(tmp_path), 24).decode([*ids[:2], len(WORDS) + 5, 3]) == "a man"
