"""Image captioning: one caption per image by beam search, scored against the image's references as for COCO."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from harness.data.formats import ImageTextSet, load_captions
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import BlindOptions, Outcome, Task, TaskData, TaskOptions
from harness.hosts.build import skeleton
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.ready import Host
from harness.kit.distributed import on_main_process
from harness.kit.errors import HarnessError
from harness.kit.registry import models
from harness.metrics.captions import caption_scores
from harness.metrics.java import java_path
from harness.metrics.quantity import Quantity

SHOWN = 20
RUNS_ON_JAVA = "METEOR, a metric of captioning,"


class CaptioningOptions(BlindOptions):
    """Beam search as BLIP's released configuration for COCO has it; lengths in tokens, with the first and the prompt.

    prompt: what every caption begins with and what is left out of it; none: what the weights were fine-tuned with, as
    their config.json says. BLIP's released captioners were trained with "a picture of ".
    """

    beams: PositiveInt = 3
    max_length: PositiveInt = 20
    min_length: NonNegativeInt = 5
    prompt: str | None = None


class Captioning(Task):
    """The images are seen without a text, so text-guided methods fall back as they say.

    Every image has one caption, whatever the batch it was written in, and all its references. SPICE is left out, with
    the reason, where its parser is not installed.
    """

    Options = CaptioningOptions
    NEEDS = frozenset({"caption"})
    READS = "captions"
    quantities = (
        Quantity("bleu_1", "BLEU-1", headline=False, with_text=False),
        Quantity("bleu_2", "BLEU-2", headline=False, with_text=False),
        Quantity("bleu_3", "BLEU-3", headline=False, with_text=False),
        Quantity("bleu_4", "BLEU-4", with_text=False),
        Quantity("cider", "CIDEr", "× 100", with_text=False),
        Quantity("meteor", "METEOR", with_text=False),
        Quantity("rouge_l", "ROUGE-L", with_text=False),
        Quantity("spice", "SPICE", with_text=False),
    )

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            java_path(RUNS_ON_JAVA)
        except HarnessError as error:
            return str(error)
        return None

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_captions(folder, limit, split)

    def check(self, host: Host, annotations: ImageTextSet, options: TaskOptions) -> None:
        assert isinstance(options, CaptioningOptions)
        prompt = prompt_ids(host.tokenizer, prompt_of(host, options))
        if prompt is not None and len(prompt) + 2 > options.max_length:
            raise HarnessError(
                f"captioning: a prompt of {len(prompt)} tokens and max_length {options.max_length}, which counts it "
                "and the first: no room for a word; shorten the prompt or raise captioning.max_length"
            )

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, CaptioningOptions)
        if "caption" not in encoder.host.model.abilities:
            raise cannot_caption(encoder.host.name)
        on_main_process(lambda: java_path(RUNS_ON_JAVA))
        if options.blank_images:
            encoder.show_blank()
        captions = written(encoder, options)
        texts: dict[Any, list[str]] = {image: [] for image in data.annotations.images}
        for reference in data.annotations.captions:
            texts[reference.image].append(reference.text)
        scores = on_main_process(lambda: caption_scores(captions, list(texts.values())))
        names = data.names
        outcomes = {metric: (names, names, values) for metric, values in scores.samples.items()}
        diagnostics = {"captions": dict(zip(names[:SHOWN], captions)), "absent": scores.absent}
        throughput = encoder.throughput("images", len(captions))
        return Outcome("captioning", outcomes, throughput, diagnostics, scores.parts)


def written(encoder: VisionEncoder, options: CaptioningOptions) -> list[str]:
    """One caption per image of the encoder, without the prompt."""
    host = encoder.host
    model: Any = host.model
    prompt = prompt_ids(host.tokenizer, prompt_of(host, options))

    def captions(rows: Tensor) -> Tensor:
        ids_BL: Tensor = model.caption(
            encoder.tokens(rows),
            prompt,
            beams=options.beams,
            max_length=options.max_length,
            min_length=options.min_length,
        )
        return ids_BL

    total = len(encoder.images)
    ids_IL = encoder.map_shared(total, captions, "captions", images=torch.arange(total))
    return [host.tokenizer.decode(row) for row in ids_IL.tolist()]


def prompt_of(host: Host, options: CaptioningOptions) -> str:
    """What every caption begins with."""
    return host.prompt if options.prompt is None else options.prompt


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> Tensor | None:
    """The prompt's word pieces (words,) without special tokens, or None for an empty one.

    As many as the tokenizer gives to a text at most.
    """
    ids_1L, mask_1L = tokenizer([prompt])
    words = ids_1L[mask_1L][1:-1]
    return words.to(torch.int64) if len(words) else None


def cannot_caption(name: str) -> HarnessError:
    """The error of a host without a text decoder, with the hosts that have one."""
    writers = [host for host in models.names() if "caption" in skeleton(host).heads()]
    return HarnessError(f"captioning: {name} writes no text; hosts that do: {', '.join(writers)}")
