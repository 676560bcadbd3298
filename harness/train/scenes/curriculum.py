"""Pre-training on the built-in world: `pretrain` runs the recipe's three stages and writes a model folder.

The folder holds model.safetensors (float16), vocab.txt, config.json, recipe.json, log.jsonl and, until the run is
over, state.pt, from which `resume` goes on.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.scene_layout import make_scenes
from harness.data.scene_text import ANSWERS
from harness.data.transforms import normalise
from harness.hosts.albef.model import Albef
from harness.hosts.build import build_host, host_config, split_name
from harness.hosts.parts.tokenizer import PAD, VOCABULARY_FILE, TextTokenizer
from harness.hosts.weights.own import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    assets_of,
    load_state,
    read_weights,
    save_weights,
)
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.train.provenance import provenance
from harness.train.scenes import objectives
from harness.train.scenes.corpus import IGNORED, Corpus, build_corpus
from harness.train.scenes.progress import Progress, thin_log
from harness.train.scenes.recipe import Recipe
from harness.train.scenes.validate import validate
from harness.train.scenes.warmup import SupervisedHeads, facts_loss, patch_loss, surroundings_loss

MODEL = "albef-tiny"
STAGES = ("vision", "text", "joint")
STATE_FILE = "state.pt"
Losses = dict[str, Tensor]


class Trainer:
    """The state of a run: model, training heads, corpus and where it stands; one method per stage's losses."""

    def __init__(self, name: str, corpus: Corpus, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self.name, self.corpus, self.recipe, self.seed = name, corpus, recipe, seed
        model = build_host(name)
        assert isinstance(model, Albef)
        self.model = model
        self.heads = SupervisedHeads(self.model.config.width)
        self.stage, self.step, self.seconds = STAGES[0], 0, 0.0
        self.optimizer = self._optimizer()

    def enter(self, stage: str) -> None:
        """Begin a stage at step 0 with a fresh optimizer."""
        self.stage, self.step = stage, 0
        self.optimizer = self._optimizer()

    def steps_of(self, stage: str) -> int:
        """Length of a stage in optimizer steps."""
        recipe = self.recipe
        return {"vision": recipe.vision_steps, "text": recipe.text_steps, "joint": recipe.joint_steps}[stage]

    def advance(self) -> Losses:
        """One optimizer step on a fresh batch; returns the detached losses by name."""
        generator = torch.Generator().manual_seed(self._step_seed())
        scenes = torch.randint(self.corpus.size, (self.recipe.batch_scenes,), generator=generator)
        if self.stage == "vision":
            losses = self.vision_losses(scenes)
        else:
            losses = self.text_losses(scenes) if self.stage == "text" else self.joint_losses(scenes, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(self._parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        return {key: value.detach() for key, value in losses.items()}

    def vision_losses(self, scenes_B: Tensor) -> Losses:
        """What each patch shows and which facts hold, from the vision tower alone."""
        return self._supervised(scenes_B, self._encode(scenes_B), (1.0, 0.0, 1.0))

    def text_losses(self, scenes_B: Tensor) -> Losses:
        """Which facts each caption of the scenes states, read by the head that the images trained, left as it is."""
        ids = self.corpus.captions_SCL[scenes_B].flatten(0, 1)
        stated = self.corpus.caption_facts_SCK[scenes_B].flatten(0, 1)
        return {"text_facts": self._text_facts(self.model.encode_text(ids, ids != PAD), stated)}

    def joint_losses(self, scenes_B: Tensor, generator: torch.Generator) -> Losses:
        """All objectives on one encoding of the images, weighted; matching starts at its own step."""
        recipe, corpus, model = self.recipe, self.corpus, self.model
        states = self._encode(scenes_B)
        late = self.step >= recipe.surroundings_from_step
        around = recipe.patch_weight if late else 0.0
        losses = self._supervised(scenes_B, states, (recipe.patch_weight, around, recipe.facts_weight))
        chosen = torch.randint(corpus.captions_SCL.shape[1], scenes_B.shape, generator=generator)
        ids = corpus.captions_SCL[scenes_B, chosen]
        mask = ids != PAD
        texts = model.encode_text(ids, mask)
        stated = corpus.caption_facts_SCK[scenes_B, chosen]
        losses["text_facts"] = recipe.facts_weight * self._text_facts(texts, stated)
        similarity = model.project_image(states) @ model.project_text(texts).T
        losses["contrast"] = recipe.contrast_weight * objectives.contrast_loss(similarity, model.temperature)
        if self.step >= recipe.matching_from_step:
            losses |= self._matching(scenes_B, chosen, (states, texts), similarity, generator)
        some = slice(recipe.masked_word_scenes)
        weight = recipe.masked_word_weight if late else recipe.early_masked_word_weight
        rate = recipe.mask_rate if late else recipe.early_mask_rate
        losses["masked_word"] = weight * objectives.masked_word_loss(model, states[some], ids[some], rate, generator)
        each = recipe.questions_per_scene
        asked = torch.randperm(each, generator=generator)[: recipe.questions_per_step]
        if self.step >= recipe.late_questions_from_step:
            asked = asked + each
        rows = scenes_B[:, None]
        losses["answer"] = recipe.answer_weight * objectives.answer_loss(
            model,
            states,
            corpus.questions_SQL[rows, asked],
            corpus.mask_positions_SQ[rows, asked],
            corpus.answers_SQ[rows, asked],
        )
        return losses

    def save_state(self, path: Path) -> None:
        """Write everything that `load_state` needs to go on, whole or not at all."""
        buffer = io.BytesIO()
        modules = {"model": self.model.state_dict(), "heads": self.heads.state_dict()}
        place = {"stage": self.stage, "step": self.step, "seconds": self.seconds, "seed": self.seed}
        torch.save(modules | place | {"optimizer": self.optimizer.state_dict()}, buffer)
        write_atomically(path, buffer.getvalue())

    def load_state(self, path: Path) -> None:
        """Go on where `save_state` left off; raises HarnessError for a file of another run."""
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.heads.load_state_dict(saved["heads"])
            self.enter(saved["stage"])
            if saved["optimizer"] is not None:
                self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.seconds = saved["step"], saved["seconds"]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise HarnessError(f"{path}: not the state of such a run; delete it to start afresh") from error

    def _encode(self, scenes_B: Tensor) -> Tensor:
        config = self.model.config
        pixels = normalise(self.corpus.images_SHWC[scenes_B.numpy()], config.mean, config.std)
        return self.model.encode_image(pixels)

    def _supervised(self, scenes_B: Tensor, states: Tensor, weights: tuple[float, float, float]) -> Losses:
        """What patches show, what surrounds them, which facts hold, weighted; surroundings at weight 0 are left out."""
        patches, around, facts = weights
        types = self.corpus.patch_types_SN[scenes_B]
        losses = {
            "patch": patches * patch_loss(self.heads, states, types),
            "image_facts": facts * facts_loss(self.heads, states[:, 0], self.corpus.image_facts_SK[scenes_B]),
        }
        if around:
            losses["surroundings"] = around * surroundings_loss(self.heads, states, types)
        return losses

    def _matching(
        self, scenes_B: Tensor, chosen_B: Tensor, states: tuple[Tensor, Tensor], similarity_BB: Tensor, generator: Any
    ) -> Losses:
        """Matching over captions and foils, of whole texts and of their clauses; `states` are images' and captions'."""
        corpus, model, recipe = self.corpus, self.model, self.recipe
        foil_ids = corpus.foils_SCL[scenes_B, chosen_B]
        ids = corpus.captions_SCL[scenes_B, chosen_B]
        length = max(ids.shape[1], foil_ids.shape[1])
        mask = torch.cat([F.pad(part, (0, length - part.shape[1])) for part in (ids, foil_ids)]) != PAD
        foils = model.encode_text(foil_ids, foil_ids != PAD)
        both = torch.cat([F.pad(part, (0, 0, 0, length - part.shape[1])) for part in (states[1], foils)])
        texts, images = objectives.matching_pairs(similarity_BB, model.temperature, generator)
        fused = model.fuse(both[texts], mask[texts], states[0][images])
        nouns = corpus.nouns_S2C3[scenes_B, :, chosen_B].transpose(0, 1).flatten(0, 1)[texts]
        claimed = corpus.claimed_S2C3[scenes_B, :, chosen_B].transpose(0, 1).flatten(0, 1)[texts]
        losses = {"matching": recipe.matching_weight * objectives.matching_loss(model, fused, texts, images)}
        if self.step >= recipe.claims_from_step:
            at_nouns = fused.gather(1, nouns[..., None].expand(-1, -1, fused.shape[-1]))
            truth = corpus.image_facts_SK[scenes_B][images]
            clauses = objectives.claim_loss(self.heads.claim(at_nouns)[..., 0], claimed, truth)
            losses["claims"] = recipe.claims_weight * clauses
        return losses

    def _text_facts(self, states_BLD: Tensor, stated_BK: Tensor) -> Tensor:
        return facts_loss(self.heads, states_BLD[:, 0], stated_BK.clamp(min=0), stated_BK != IGNORED)

    def _parameters(self) -> Iterator[nn.Parameter]:
        model = self.model
        parts: dict[str, list[nn.Module]] = {
            "vision": [model.vision, self.heads],
            "text": [model.embeddings, model.text],
            "joint": [model, self.heads],
        }
        for part in parts[self.stage]:
            yield from part.parameters()

    def _optimizer(self) -> torch.optim.AdamW:
        decay = self.recipe.weight_decay
        return torch.optim.AdamW(
            self._parameters(), lr=0.0, betas=(0.9, self.recipe.beta_2), weight_decay=decay, fused=True
        )

    def _learning_rate(self) -> float:
        recipe = self.recipe
        if self.stage == "joint":
            return recipe.joint_learning_rate * recipe.rate_factor(self.step, recipe.joint_steps)
        peak = recipe.vision_learning_rate if self.stage == "vision" else recipe.text_learning_rate
        return peak * min(1.0, (self.step + 1) / recipe.ramp_steps)

    def _step_seed(self) -> int:
        return (self.seed * len(STAGES) + STAGES.index(self.stage)) * 1_000_003 + self.step


def pretrain(
    model: str,
    data: str,
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    threads: int | None = None,
    recipe: Recipe | None = None,
    resume: bool = True,
    quiet: bool = False,
) -> dict[str, float]:
    """Pre-train a host on the built-in world, write its folder, and return the final held-out measures.

    `steps` replaces the recipe's joint steps; `threads` is torch's thread count (default: torch's own). A run that
    was interrupted goes on from `out`/state.pt unless `resume` is false.
    """
    if (model, data) != (MODEL, "scenes"):
        raise HarnessError(f"model {model!r} on {data!r}: the built-in world's curriculum is for {MODEL} on scenes")
    recipe = recipe or Recipe()
    if steps is not None:
        recipe = Recipe.model_validate(recipe.model_dump() | {"joint_steps": steps})
    if threads is not None:
        torch.set_num_threads(threads)
    vocabulary = assets_of(model) / VOCABULARY_FILE
    tokenizer = TextTokenizer(vocabulary, host_config(model).text_length)
    progress = Progress(out, quiet)
    progress.say(f"drawing {recipe.training_scenes} training scenes")
    corpus = build_corpus(
        tokenizer.vocabulary, recipe.training_scenes, recipe.captions_per_scene, recipe.questions_per_scene, seed
    )
    trainer = Trainer(model, corpus, recipe, seed)
    if resume and (out / STATE_FILE).is_file():
        trainer.load_state(out / STATE_FILE)
        progress.say(f"resuming {trainer.stage} at step {trainer.step}")
    run_stages(trainer, tokenizer, progress)
    return _finish(trainer, tokenizer, progress, vocabulary)


def run_stages(trainer: Trainer, tokenizer: TextTokenizer, progress: Progress) -> None:
    """Train from where the trainer stands to the end of the joint stage, logging, validating and saving."""
    recipe = trainer.recipe
    held_out = list(make_scenes(trainer.seed, "val", recipe.validation_scenes))
    for stage in STAGES[STAGES.index(trainer.stage) :]:
        if stage != trainer.stage:
            trainer.enter(stage)
        steps, before, since = trainer.steps_of(stage), trainer.seconds - time.perf_counter(), trainer.step
        began = time.perf_counter()
        while trainer.step < steps:
            losses = trainer.advance()
            trainer.seconds = before + time.perf_counter()
            if trainer.step % recipe.log_every_steps == 0 or trainer.step == steps:
                pace = (trainer.step - since) / (time.perf_counter() - began)
                images = (recipe.batch_scenes, pace * recipe.batch_scenes)
                progress.losses(stage, (trainer.step, steps), losses, images, trainer.seconds)
            if trainer.step % recipe.validate_every_steps == 0:
                if stage == "joint":
                    measures = validate(trainer.model, tokenizer, held_out, 4, recipe.rerank_top)
                    progress.measures(stage, trainer.step, measures, trainer.seconds)
                trainer.save_state(progress.folder / STATE_FILE)


def _finish(trainer: Trainer, tokenizer: TextTokenizer, progress: Progress, vocabulary: Path) -> dict[str, float]:
    """Store the weights in float16, measure what was stored, and write the folder's other files."""
    recipe, out, name = trainer.recipe, progress.folder, trainer.name
    digest = save_weights(trainer.model, out / WEIGHTS_FILE, name)
    stored = build_host(name).eval()
    assert isinstance(stored, Albef)
    load_state(stored, read_weights(out / WEIGHTS_FILE)[0], out / WEIGHTS_FILE)
    scenes = list(make_scenes(trainer.seed, "val", recipe.final_scenes))
    measures = validate(stored, tokenizer, scenes, recipe.final_questions_per_scene, recipe.rerank_top)
    progress.measures("stored", trainer.step, measures, trainer.seconds)
    if vocabulary.resolve() != (out / VOCABULARY_FILE).resolve():
        shutil.copyfile(vocabulary, out / VOCABULARY_FILE)
    command = f"python -m harness pretrain --model {name} --data scenes --seed {trainer.seed} --out DIR"
    record = provenance(trainer.seed) | {
        "command": command,
        "seconds": round(trainer.seconds, 1),
        "weights_sha256": digest,
        "recipe": recipe.model_dump(),
        "held_out": measures,
    }
    write_atomically(out / "recipe.json", (json.dumps(record, indent=2) + "\n").encode())
    family, preset = split_name(name)
    config = {"architecture": family, "preset": preset, "answers": ANSWERS}
    config |= stored.config.model_dump()
    write_atomically(out / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    thin_log(out)
    (out / STATE_FILE).unlink(missing_ok=True)
    return measures
