"""Pooled features of a tower beside those of all its tokens, and what classifies by them; no text is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from harness.data.annotations.format import split_named
from harness.data.formats import ClassifiedImage, ImageTextSet, load, load_classes, opened
from harness.data.image_store import ImageStore, PixelBudget
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.linear_probe import fit_probe
from harness.evaluate.task import Outcome, Task, TaskData, TaskOptions
from harness.hosts.ready import Host
from harness.kit.errors import HarnessError
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import require_finite
from harness.tasks.classification import training_split

NEIGHBOURS = 10
AT_ONCE = 1024
# DINO's evaluation (facebookresearch/dino, eval_knn.py): neighbours vote with exp(cosine / temperature).
TEMPERATURE = 0.07


class FeaturesOptions(TaskOptions):
    """k: neighbours that vote on an image's class. linear: fit a linear probe too, on the split train/ beside the one
    that is evaluated, with the penalty linear_l2 (see classification).
    """

    k: PositiveInt = 20
    linear: bool = False
    linear_l2: PositiveFloat = 1e-3


class Features(Task):
    """`cosine`: of an image's feature and that of the same tower with all tokens. `nearest`: the image's nearest other
    image of the set is the same; `neighbours`: share of its 10 nearest that are.

    Where classes are given, `knn`: the class by weighted vote of its `k` nearest by cosine, of train/ where that lies
    beside the split, else of the other images (leave one out); `linear`: by a linear probe. Features are what the tower
    pools before any classifier, encoded under the method on both sides. Images are seen without a text.
    """

    READS = "images"
    Options = FeaturesOptions
    quantities = (
        Quantity("cosine", "cosine to dense", with_text=False),
        Quantity("knn", "k-NN", with_text=False),
        Quantity("linear", "linear probe", with_text=False),
        Quantity("nearest", "nearest as dense's", with_text=False),
        Quantity("neighbours", "10 nearest as dense's", with_text=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        """Images of classes, or those of any annotated set, or all that lie in the folder."""
        source = opened(folder)
        fields = source.fields()
        if "classified" in fields:
            return load_classes(folder, limit, split)
        if fields:
            return ImageTextSet(load(fields[0], folder, limit, split).images)
        images = tuple(sorted(source.listing.images))[:limit]
        if split is not None:
            raise HarnessError(f"data {folder}: plain images have no split {split!r}; leave --split out")
        if not images:
            raise HarnessError(f"data {folder}: holds no images; name a folder with some")
        return ImageTextSet(images)

    def check(self, host: Host, annotations: ImageTextSet, options: TaskOptions) -> None:
        assert isinstance(options, FeaturesOptions)
        _check_set(annotations, options)
        if annotations.classified:
            _training(annotations, options)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, FeaturesOptions)
        _check_set(data.annotations, options)
        names, count = data.names, len(encoder.images)
        found = features_of(encoder, torch.arange(count), "images")
        with encoder.aside():
            dense = features_of(dense_encoder(encoder), torch.arange(count), "images, all tokens")
            near = [neighbours(part, part, NEIGHBOURS + 1, own=True)[1] for part in (found, dense)]
        outcomes = {"cosine": (found * dense).sum(1).cpu().numpy()} | _agreement(*near)
        diagnostics: dict[str, Any] = {"width": found.shape[1], "neighbours": near[0].shape[1]}
        samples = {metric: (names, names, values) for metric, values in outcomes.items()}
        if data.annotations.classified:
            rows = data.places(one.image for one in data.annotations.classified)
            ids = [one.id for one in data.annotations.classified], [names[row] for row in rows.tolist()]
            with encoder.aside():
                by_class, about = _classified(encoder, data, found[rows], options)
            samples |= {metric: (*ids, values) for metric, values in by_class.items()}
            diagnostics |= about
        return Outcome("features", samples, encoder.throughput("images", count), diagnostics)


def _check_set(annotations: ImageTextSet, options: FeaturesOptions) -> None:
    if len(annotations.images) < 2:
        raise HarnessError("features: one image has no neighbours; name two or more")
    if options.linear and not annotations.classified:
        raise HarnessError("features: linear=true needs classes: DIR/train/CLASS/ and DIR/test/CLASS/")


def features_of(encoder: VisionEncoder, rows: Tensor, unit: str) -> Tensor:
    """Unit features (I, D) of images under the encoder's method, float32 at least; HarnessError for NaN."""

    def features(part: Tensor) -> Tensor:
        tokens = encoder.tokens(rows[part.cpu()], keep=False)
        pooled = encoder.host.model.features(tokens)
        return F.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=-1)

    found = encoder.map_shared(len(rows), features, unit, images=rows)
    require_finite(found)
    return found


def dense_encoder(encoder: VisionEncoder) -> VisionEncoder:
    """The same images with all tokens; of no method, itself."""
    dense = encoder.host.method("dense", {})
    if type(encoder.reducer) is type(dense):
        return encoder
    return VisionEncoder(encoder.host, dense, encoder.images, encoder.batch_size, encoder.progress, 0)


def neighbours(queries: Tensor, known: Tensor, count: int, *, own: bool) -> tuple[Tensor, Tensor]:
    """Cosines and rows (Q, K) of the nearest of unit features (N, D) to each of (Q, D), nearest first.

    `own`: queries are the known themselves, and none is its own neighbour; `count` includes it.
    """
    kept = min(count, len(known)) - own
    values, places = [], []
    for start in range(0, len(queries), AT_ONCE):
        scores = queries[start : start + AT_ONCE] @ known.T
        if own:
            rows = torch.arange(len(scores), device=scores.device)
            scores[rows, rows + start] = -float("inf")
        # Of equal ones the lower row comes first, so that no order of the machine's decides.
        best = torch.sort(scores, dim=1, descending=True, stable=True)
        values.append(best.values[:, :kept])
        places.append(best.indices[:, :kept])
    return torch.cat(values), torch.cat(places)


def vote(cosines_QK: Tensor, labels_QK: Tensor, classes: int) -> Tensor:
    """The class (Q,) with most weight among the neighbours, exp(cosine / temperature) each; ties: the lower class."""
    weights = ((cosines_QK - cosines_QK[:, :1]) / TEMPERATURE).exp()
    votes = weights.new_zeros(len(weights), classes).scatter_add(1, labels_QK, weights)
    return votes.argmax(1)


def _agreement(found_IK: Tensor, dense_IK: Tensor) -> dict[str, np.ndarray]:
    same = (found_IK[:, :, None] == dense_IK[:, None, :]).any(2).double().mean(1)
    return {
        "nearest": (found_IK[:, 0] == dense_IK[:, 0]).double().cpu().numpy(),
        "neighbours": same.cpu().numpy(),
    }


def _classified(
    encoder: VisionEncoder, data: TaskData, features_ND: Tensor, options: FeaturesOptions
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Outcomes of k-NN and the probe on images of classes, and how they were found."""
    annotations, device = data.annotations, features_ND.device
    labels_N = torch.tensor([one.label for one in annotations.classified], device=device)
    classes = max(len(annotations.classes), int(labels_N.max()) + 1)
    train = _training(annotations, options)
    kind: Literal["train/", "leave one out"] = "train/" if train else "leave one out"
    about: dict[str, Any] = {"classes": classes, "knn": kind, "k": options.k}
    known_TD, known_T = features_ND, labels_N
    if train:
        known_TD = _training_features(encoder, train)
        known_T = torch.tensor([one.label for one in train], device=device)
    cosines, places = neighbours(features_ND, known_TD, options.k + (not train), own=not train)
    found = {"knn": (vote(cosines, known_T[places], classes) == labels_N).double().cpu().numpy()}
    if options.linear:
        probe = fit_probe(known_TD, known_T, classes, options.linear_l2)
        found["linear"] = (probe.scores(features_ND).argmax(1) == labels_N).double().cpu().numpy()
        about["linear"] = {"iterations": probe.iterations, "gradient": probe.gradient}
    return found, about


def _training(annotations: ImageTextSet, options: FeaturesOptions) -> tuple[ClassifiedImage, ...]:
    """The images of train/, where that is there or wanted; HarnessError as `training_split`."""
    return training_split(annotations) if options.linear or _has_training(annotations) else ()


def _has_training(annotations: ImageTextSet) -> bool:
    """Whether train/ lies beside the split that is evaluated."""
    first = annotations.classified[0]
    folder = first.image.parents[len(Path(first.id).parts) - 1]
    return split_named(folder.name) not in (None, "train") and (folder.parent / "train").is_dir()


def _training_features(encoder: VisionEncoder, train: tuple[ClassifiedImage, ...]) -> Tensor:
    config = encoder.host.model.config
    paths = [one.image for one in train]
    images = ImageStore(paths, config.image_size, config.mean, config.std, budget=PixelBudget(0))
    training = VisionEncoder(encoder.host, encoder.reducer, images, encoder.batch_size, encoder.progress, 0)
    return features_of(training, torch.arange(len(paths)), "training images")
