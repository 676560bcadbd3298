"""Facts about training: losses by hand, and a tiny run that learns, repeats itself and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.cli.main import main
from harness.data.scene_layout import TYPES, make_scenes
from harness.data.scene_text import Claim, caption_text, captions, questions
from harness.hosts.parts.tokenizer import CLS, MASK, PAD, SEP, TextTokenizer
from harness.hosts.weights.own import VOCABULARY_FILE, assets_of, load_model
from harness.kit.errors import HarnessError
from harness.train.request import PretrainRequest
from harness.train.scenes import objectives
from harness.train.scenes.corpus import IGNORED, Corpus, build_corpus, caption_facts, look_up
from harness.train.scenes.curriculum import Trainer, pretrain
from harness.train.scenes.progress import LOG_BYTES, thin_log
from harness.train.scenes.recipe import Recipe
from harness.train.scenes.warmup import image_facts

SMALL = Recipe(
    training_scenes=24,
    captions_per_scene=2,
    questions_per_scene=4,
    batch_scenes=4,
    vision_steps=2,
    text_steps=1,
    masked_word_scenes=2,
    joint_steps=3,
    matching_from_step=1,
    ramp_steps=1,
    log_every_steps=1,
    validate_every_steps=2,
    validation_scenes=8,
    final_scenes=8,
    rerank_top=4,
)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, 48)


@pytest.fixture(scope="module")
def corpus(tokenizer: TextTokenizer) -> Corpus:
    return build_corpus(tokenizer.vocabulary, 24, 2, 4, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    pretrain("albef-tiny", "scenes", out, seed=0, recipe=SMALL, quiet=True)
    return out


def test_looking_words_up_agrees_with_word_pieces(tokenizer: TextTokenizer) -> None:
    texts = [question.text for scene in make_scenes(0, "train", 20) for question in questions(scene, 6)]
    texts += [caption_text(claims) for scene in make_scenes(0, "train", 20) for claims in captions(scene)]
    assert [look_up(text, tokenizer.vocabulary) for text in texts] == tokenizer.words(texts)


def test_the_corpus_hides_the_answer_at_the_mask(corpus: Corpus) -> None:
    at_mask = corpus.questions_SQL.gather(2, corpus.mask_positions_SQ[..., None])
    assert (at_mask == MASK).all()
    assert (corpus.captions_SCL != corpus.foils_SCL).any(dim=-1).all()


def test_facts_of_a_caption_hold_in_its_scene() -> None:
    scene = next(make_scenes(0, "train", 1))
    for claims in captions(scene):
        stated = caption_facts(claims) == 1
        assert image_facts(scene)[stated].all()
    related = caption_facts([Claim(2, 1, relation=0, other_shape=0, other_colour=0)])
    kind = 2 * 6 + 1
    assert related[kind] == 1
    assert (related[TYPES + kind * 4 : TYPES + kind * 4 + 4] == IGNORED).all()


def test_contrast_is_small_only_where_pairs_agree() -> None:
    temperature = torch.tensor(0.1)
    assert objectives.contrast_loss(torch.eye(4), temperature) < 0.01
    assert objectives.contrast_loss(torch.zeros(4, 4), temperature).item() == pytest.approx(1.3863, abs=1e-4)


def test_hard_negatives_are_never_the_pair_itself_and_follow_similarity() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity = torch.zeros(3, 3)
    similarity[0, 2] = 1.0
    drawn = torch.stack([objectives.hard_negatives(similarity, torch.tensor(0.05), generator) for _ in range(200)])
    assert (drawn != torch.arange(3)).all()
    assert (drawn[:, 0] == 2).all()
    assert len(drawn[:, 1].unique()) == 2


def test_only_ordinary_words_are_hidden_at_the_asked_rate() -> None:
    ids = torch.full((400, 10), 30)
    ids[:, 0], ids[:, -2], ids[:, -1] = CLS, SEP, PAD
    hidden, target = objectives.mask_words(ids, 0.15, torch.Generator().manual_seed(0))
    chosen = hidden == MASK
    assert not chosen[:, [0, -2, -1]].any()
    assert chosen[:, 1:-2].float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert torch.equal(target != objectives.IGNORE_INDEX, chosen)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(ramp_steps=10, decay_share=0.5)
    factors = [recipe.rate_factor(step, 100) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9:51] == [1.0] * 42
    assert factors[75] == 0.5
    assert factors[99] == pytest.approx(0.02)


def test_a_short_run_changes_weights_and_writes_its_folder(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "log.jsonl",
        "model.safetensors",
        "recipe.json",
        "vocab.txt",
    ]
    record = json.loads((run / "recipe.json").read_text())
    assert record["recipe"] == SMALL.model_dump()
    loaded = load_model("albef-tiny", run / "model.safetensors")
    assert loaded.weights_digest == record["weights_sha256"]
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [(step["stage"], step["step"]) for step in steps if "losses" in step] == [
        ("vision", 1),
        ("vision", 2),
        ("text", 1),
        ("joint", 1),
        ("joint", 2),
        ("joint", 3),
    ]
    assert "matching" in steps[-2]["losses"]


def test_the_same_seed_gives_the_same_losses_also_after_resuming(tmp_path: Path, corpus: Corpus) -> None:
    whole, part = (Trainer("albef-tiny", corpus, SMALL, 1) for _ in range(2))
    whole.enter("joint")
    part.enter("joint")
    before = [value.clone() for value in whole.model.state_dict().values()]
    losses = [whole.advance() for _ in range(3)]
    assert all(torch.equal(value, losses[0][key]) for key, value in part.advance().items())
    part.save_state(tmp_path / "state.pt")
    resumed = Trainer("albef-tiny", corpus, SMALL, 1)
    resumed.load_state(tmp_path / "state.pt")
    again = [resumed.advance() for _ in range(2)]
    assert all(torch.equal(value, losses[2][key]) for key, value in again[1].items())
    after = whole.model.state_dict().values()
    assert sum(torch.equal(old, new) for old, new in zip(before, after, strict=True)) == 0


def test_another_seed_gives_other_losses(corpus: Corpus) -> None:
    one, other = (Trainer("albef-tiny", corpus, SMALL, seed).advance()["patch"] for seed in (1, 2))
    assert one != other


def test_a_state_of_another_run_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    torch.save({"model": {}}, tmp_path / "state.pt")
    with pytest.raises(HarnessError, match=r"state.pt: not the state of such a run"):
        Trainer("albef-tiny", corpus, SMALL, 0).load_state(tmp_path / "state.pt")


def test_a_long_log_is_thinned_but_keeps_what_was_measured(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "losses": {"x": "y" * 200}}) for step in range(3000)]
    lines.insert(7, json.dumps({"step": 7, "held_out": {"vqa": 1}}))
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    thin_log(tmp_path)
    text = (tmp_path / "log.jsonl").read_text()
    assert len(text) <= LOG_BYTES
    assert "held_out" in text


@pytest.mark.parametrize(("model", "data"), [("albef-huge", "scenes"), ("blip-tiny", "scenes"), ("albef-tiny", "coco")])
def test_what_cannot_be_trained_is_refused(tmp_path: Path, model: str, data: str) -> None:
    with pytest.raises(HarnessError):
        pretrain(model, data, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "blip-tiny"},
        {"data": ("scenes", "more.json")},
        {"method": "elip"},
        {"recipe": {"batch_size": 8}},
        {"init": "albef-tiny"},
        {"vocabulary": 100},
        {"recompute": True},
        {"precision": "bf16"},
        {"device": "cuda"},
        {"store": "float16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_seed_steps_and_folder_may_differ_in_the_curriculum_of_the_shipped_weights(change):
    plain = {"model": "albef-tiny", "data": ("scenes",), "out": Path("weights"), "seed": 3, "steps": 5, "quiet": True}
    assert PretrainRequest(**plain).is_curriculum
    assert not PretrainRequest(**plain | change).is_curriculum


def test_the_command_runs_the_curriculum_where_nothing_else_is_asked_for(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "harness.train.scenes.curriculum.pretrain", lambda *given, **more: asked.append((given, more)) or {"loss": 1.0}
    )
    monkeypatch.setattr("harness.train.pretrain.pretrain", lambda request: {"method": request.method})

    def said(*words):
        with pytest.raises(SystemExit) as caught:
            main(["pretrain", "--out", str(tmp_path), *words])
        return caught.value.code, json.loads(capsys.readouterr().out)

    assert said("--steps", "5") == (0, {"loss": 1.0})
    assert said("--method", "elip") == (0, {"method": "elip"})
    assert asked == [(("albef-tiny", "scenes", tmp_path), {"seed": 0, "steps": 5, "quiet": False})]
