"""Image classification: zero-shot from the names of the classes, and by a linear probe on a training split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from harness.data.annotations.format import split_named
from harness.data.formats import ClassifiedImage, ImageTextSet, load_classes
from harness.data.image_store import ImageStore, PixelBudget
from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.linear_probe import fit_probe
from harness.evaluate.task import Outcome, Task, TaskData, TaskOptions
from harness.hosts.ready import Host
from harness.kit.errors import HarnessError
from harness.metrics.accuracy import mean_per_class
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import best_ranks, require_finite

CUTOFFS = (1, 5)
DEFAULT_TEMPLATE = "a photo of a {}."
PROBE_LAYOUT = "expected the classes in DIR/train/ and in DIR/test/ (or val/), and --data DIR"
SAME_CLASSES = "the probe needs the same class folders in both"


def _with_place(template: str) -> str:
    if "{}" not in template:
        raise ValueError(f"{template!r} has no {{}} where the name of a class goes")
    return template


class ClassificationOptions(TaskOptions):
    """templates: sentences with {} where a class name goes; none: the set's own, or "a photo of a {}.".

    probe: fit a linear probe too, on the split train/ beside the one that is evaluated; probe_l2: its penalty, half of
    which times the squared weights is added to the mean cross-entropy on standardised features.
    """

    templates: tuple[Annotated[str, AfterValidator(_with_place)], ...] = ()
    probe: bool = False
    probe_l2: PositiveFloat = 1e-3


class Classification(Task):
    """Zero-shot as in CLIP's paper (section 3.1): an image's class is the one whose feature is most like its own.

    A class's feature is the mean of its sentences' unit features, of unit length again. `top1` and `top5`: the own
    class is among the first 1 or 5 (of five classes it always is), ties going to the lower class; `mean_per_class`: the
    mean of the classes' top-1 accuracies, over the classes that have images (its outcomes are those of
    `harness.metrics.accuracy`). The probe's metrics are the same with `probe_` before them; its features are the class
    tokens after the tower's last norm, encoded under the method in both splits. Images are seen without a text, so
    text-guided methods fall back as they say.
    """

    NEEDS = frozenset({"contrast"})
    READS = "classified"
    Options = ClassificationOptions
    quantities = (
        Quantity("mean_per_class", "mean per class", headline=False, with_text=False),
        Quantity("probe_mean_per_class", "probe mean per class", headline=False, with_text=False),
        Quantity("probe_top1", "probe top1", with_text=False),
        Quantity("probe_top5", "probe top5", headline=False, with_text=False),
        Quantity("top1", "top1", with_text=False),
        Quantity("top5", "top5", headline=False, with_text=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_classes(folder, limit, split)

    def check(self, host: Host, annotations: ImageTextSet, options: TaskOptions) -> None:
        assert isinstance(options, ClassificationOptions)
        self._check_set(host, annotations)
        if options.probe:
            training_split(annotations)

    def _check_set(self, host: Host, annotations: ImageTextSet) -> None:
        if not self.NEEDS & host.model.abilities:
            line = f"classification: {host.model.cannot('contrast')}"
            raise HarnessError(f"{line}; take a host that compares texts with images, as albef, blip or clip")
        if not annotations.classified:
            raise HarnessError("classification: the data has no images of classes")

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, ClassificationOptions)
        host, annotations = encoder.host, data.annotations
        self._check_set(host, annotations)
        train = training_split(annotations) if options.probe else ()
        rows = data.places(one.image for one in annotations.classified)
        labels = torch.tensor([one.label for one in annotations.classified], device=host.device)
        names = data.names
        samples = [one.id for one in annotations.classified], [names[row] for row in rows.tolist()]

        templates = options.templates or annotations.templates or (DEFAULT_TEMPLATE,)
        classes_CP, cut = class_features(encoder, annotations.classes, templates)
        found = {"": zero_shot_ranks(encoder, rows, labels, classes_CP, keep=options.probe)}
        diagnostics: dict[str, Any] = {"classes": len(annotations.classes), "templates": list(templates)}
        if cut:
            diagnostics["truncated_texts"] = cut
        if train:
            with encoder.aside():
                found["probe_"], diagnostics["probe"] = probe_ranks(encoder, train, rows, labels, options.probe_l2)
        outcomes = {
            f"{stage}{metric}": (*samples, values)
            for stage, ranks in found.items()
            for metric, values in accuracies(ranks.cpu().numpy(), labels.cpu().numpy()).items()
        }
        throughput = encoder.throughput("images", len(annotations.classified))
        return Outcome("classification", outcomes, throughput, diagnostics)


def accuracies(ranks: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Outcomes (N,) by metric, from the rank of each image's own class, 0 being the first, and its class."""
    hits = {f"top{cutoff}": (ranks < cutoff).astype(np.float64) for cutoff in CUTOFFS}
    return hits | {"mean_per_class": mean_per_class(ranks == 0, labels)}


def class_features(encoder: VisionEncoder, names: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, int]:
    """Unit features (C, P) of classes, and how many of their sentences were cut.

    They are those of the means of the sentences' unit features, in float32 at least.
    """
    host, each = encoder.host, len(templates)
    wide = torch.promote_types(host.dtype, torch.float32)
    texts = Texts(host, [template.replace("{}", name) for name in names for template in templates])

    def features(rows: Tensor) -> Tensor:
        sentences = (rows[:, None] * each + torch.arange(each, device=rows.device)).flatten()
        texts_SP = host.model.embed_text(texts.rows(sentences)).to(wide)
        return F.normalize(texts_SP.unflatten(0, (-1, each)).mean(1), dim=-1)

    at_once = max(1, 4 * encoder.batch_size // each)
    return encoder.map_shared(len(names), features, "classes", at_once=at_once), texts.cut


def zero_shot_ranks(
    encoder: VisionEncoder, rows_N: Tensor, labels_N: Tensor, classes_CP: Tensor, *, keep: bool
) -> Tensor:
    """Rank (N,) of the own class of images of the encoder among unit features of classes.

    keep: whether the images' tokens are wanted again.
    """

    def ranks(part: Tensor) -> Tensor:
        images = encoder.tokens(rows_N[part.cpu()], keep=keep)
        images_BP = encoder.host.model.embed_image(images).to(classes_CP.dtype)
        return own_ranks(images_BP @ classes_CP.T, labels_N[part])

    return encoder.map_shared(len(rows_N), ranks, "images", images=rows_N)


def own_ranks(scores_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Rank (B,) of each image's own class."""
    require_finite(scores_BC)
    return best_ranks(scores_BC, F.one_hot(labels_B, scores_BC.shape[1]).bool())


def probe_ranks(
    encoder: VisionEncoder, train: Sequence[ClassifiedImage], rows_N: Tensor, labels_N: Tensor, l2: float
) -> tuple[Tensor, dict[str, Any]]:
    """Rank (N,) of the own class by a probe that is fitted to `train`, and how the fit went."""
    features_TD = training_features(encoder, [one.image for one in train])
    known_T = torch.tensor([one.label for one in train], device=encoder.host.device)
    probe = fit_probe(features_TD, known_T, int(known_T.max()) + 1, l2)
    features_ND = class_tokens(encoder, rows_N, "images")
    fitted = (probe.scores(features_TD).argmax(1) == known_T).double().mean()
    about = {
        "train_images": len(train),
        "train_accuracy": round(float(fitted), 6),
        "iterations": probe.iterations,
        "gradient": probe.gradient,
    }
    return own_ranks(probe.scores(features_ND), labels_N), about


def training_features(encoder: VisionEncoder, paths: Sequence[Path]) -> Tensor:
    """Class tokens (T, D) of image files under the encoder's method; each is read once, and not kept."""
    config = encoder.host.model.config
    images = ImageStore(paths, config.image_size, config.mean, config.std, budget=PixelBudget(0))
    training = VisionEncoder(encoder.host, encoder.reducer, images, encoder.batch_size, encoder.progress, 0)
    return class_tokens(training, torch.arange(len(paths)), "training images")


def class_tokens(encoder: VisionEncoder, rows_N: Tensor, unit: str) -> Tensor:
    """Class tokens (N, D) of images after the tower's last norm, which CLIP's image states come without."""

    def tokens(part: Tensor) -> Tensor:
        return encoder.host.model.normed(encoder.tokens(rows_N[part.cpu()]))[:, 0]

    return encoder.map_shared(len(rows_N), tokens, unit, images=rows_N)


def training_split(annotations: ImageTextSet) -> tuple[ClassifiedImage, ...]:
    """The images of train/ beside the evaluated split; HarnessError where there is none, or its classes differ."""
    first = annotations.classified[0]
    folder = first.image.parents[len(Path(first.id).parts) - 1]
    if split_named(folder.name) in (None, "train"):
        raise HarnessError(f"classification: the probe needs a training split beside {folder}; {PROBE_LAYOUT}")
    train = load_classes(folder.parent, split="train")
    labels = {Path(one.id).parts[0]: one.label for one in train.classified}
    for one in annotations.classified:
        name = Path(one.id).parts[0]
        if labels.get(name) != one.label:
            line = f"the class {name} of {folder} is missing in train/, or has another place there"
            raise HarnessError(f"classification: {line}; {SAME_CLASSES}")
    if len(labels) != len(annotations.classes):
        counts = f"{len(labels)} classes in train/, {len(annotations.classes)} in {folder.name}/"
        raise HarnessError(f"classification: {counts} of {folder.parent}; {SAME_CLASSES}")
    return train.classified
