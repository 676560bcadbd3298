"""What a host never saw of a set that it is measured on: words, and pictures of another kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from harness.data.annotations.records import ImageTextSet
from harness.data.image_store import ImageStore
from harness.data.pixel_kind import kind_beside
from harness.evaluate.task import TaskData
from harness.hosts.parts.tokenizer import unknown_share
from harness.hosts.ready import Host
from harness.kit.distributed import is_main_process
from harness.kit.registry import tasks
from harness.run.cell import Cell

# A share of unknown words, or of unlike pictures, above which a host is not for a set.
MANY_UNKNOWN = 0.1
SAMPLED_PICTURES = 64
ELSEWHERE = "what it scores there says little; name a host that was trained on such {}, with --model and --weights"


def unknown_to(
    cell: Cell, host: Host, weights: Path, data: TaskData, warn: Callable[[str], None]
) -> dict[str, float | None]:
    """unknown_words: the share of the set's words that the host never read, None where its tokenizer spells any;
    unknown_pixels: the share of a sample of its pictures that are unlike those it was trained on, None where nothing
    says what these were, as of hosts that the cell trains itself. `warn` gets a line where either is large.
    """
    words = unknown_share(host.tokenizer, texts_of(data.annotations, tasks.get(cell.task).READS))
    kind = None if cell.training else kind_beside(weights)
    pixels = None if kind is None else kind.unlike(pictures_of(data.images).numpy())
    if is_main_process():
        what = f"{cell.data} ({cell.task})"
        if words is not None and words > MANY_UNKNOWN:
            warn(f"{cell.model} does not know {100 * words:.0f} % of the words of {what}: {ELSEWHERE.format('texts')}")
        if kind is not None and pixels is not None and pixels > MANY_UNKNOWN:
            line = f"{cell.model} was trained on pictures of {kind.data}, and {100 * pixels:.0f} % of those of {what}"
            warn(f"{line} are unlike them: {ELSEWHERE.format('pictures')}")
    shares = {"unknown_words": words, "unknown_pixels": pixels}
    return {name: None if share is None else round(share, 6) for name, share in shares.items()}


def pictures_of(images: ImageStore, most: int = SAMPLED_PICTURES) -> torch.Tensor:
    """A sample of a store's pictures (B, 3, H, W) in 0..1, evenly spaced."""
    chosen = torch.linspace(0, len(images) - 1, min(most, len(images))).round().long()
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    return (images[chosen] * std + mean).clamp(0, 1)


def texts_of(annotations: ImageTextSet, field: str) -> list[str]:
    """The texts that a field of a set brings: captions, questions, hypotheses, statements, or the names of classes;
    images alone bring none.
    """
    if field == "classified":
        return list(annotations.classes)
    return [one.text for one in getattr(annotations, field) if not isinstance(one, Path)]
