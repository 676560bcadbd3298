"""The host of golden files that hold a ViT and no text side: ALBEF's tower with a text side that is never read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.check.golden.file import Golden, difference, vit_sizes
from harness.hosts.albef.model import Albef, AlbefConfig
from harness.hosts.parts.tokenizer import Specials
from harness.objectives.parts.objective import Objective
from harness.objectives.parts.recipe import recipe_of
from harness.reduction.budget import make_reducer

SPECIALS = Specials(pad=0, begin=-1, end=-1, mask=None, unknown=-1)


def vit_host(config: dict[str, Any]) -> Albef:
    """A host whose tower has the sizes of a golden file's ViT."""
    sizes = AlbefConfig(
        **vit_sizes(config),
        text_layers=1,
        fusion_layers=1,
        projection=1,
        vocab_size=1,
        text_length=1,
    )
    return Albef(sizes)


def objective_for(kind: type[Objective[Any]], host: Any, settings: dict[str, Any]) -> Any:
    """An objective in float64 as training makes it, without a method."""
    recipe, reducer = recipe_of("albef-tiny", {}), make_reducer("dense", host.shape)
    return kind(host, reducer, SPECIALS, recipe, kind.Config(**settings)).double().train()


def output_errors(golden: Golden, ours: dict[str, Tensor]) -> dict[str, float]:
    """Of every output of the file; a KeyError names one that this program has nothing for."""
    errors = {}
    for name, expected in golden.part("output").items():
        own = ours[name]
        errors[name] = difference(own.reshape(expected.shape) if own.numel() == expected.numel() else own, expected)
    return errors
