"""Real images of a set, with a text each, as adaptive methods are measured on them."""

from __future__ import annotations

from harness.data.formats import ImageTextSet
from harness.data.transforms import load_images
from harness.evaluate.encoder import encode_texts
from harness.hosts.ready import Host
from harness.reduction.plan import Sample

SAMPLED_IMAGES = 128
TEXT_FIELDS = ("captions", "questions", "hypotheses")


def sample_of(host: Host, annotations: ImageTextSet, count: int = SAMPLED_IMAGES) -> Sample:
    """The first `count` images of a set as the host reads them, and its guide from the first text about each.

    Without a guide where an image has no text.
    """
    config, paths = host.model.config, annotations.images[:count]
    images = load_images(paths, config.image_size, config.mean, config.std).to(host.device, host.dtype)
    texts = first_texts(annotations)
    if any(path not in texts for path in paths):
        return Sample(images)
    batch = encode_texts(host, [texts[path] for path in paths], len(paths))
    return Sample(images, host.model.guide(batch))


def first_texts(annotations: ImageTextSet) -> dict[object, str]:
    """The first text about each image, by its path."""
    found: dict[object, str] = {}
    for field in TEXT_FIELDS:
        for entry in getattr(annotations, field, ()):
            found.setdefault(entry.image, entry.text)
    return found
