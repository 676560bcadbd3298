"""Whether a method runs in every host that has the stacks it works in: one of the properties of `check method`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.check.drawn import TOLERANCE, Fault, build_method
from harness.cost.adaptive import ratio_on
from harness.hosts.build import build_host
from harness.hosts.host import HostModel
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import TokenReducer, encode, reducing
from harness.reduction.plan import Sample

DEPTH, SIDE, WIDTH, HEADS = 12, 64, 24, 3
TINY_HOSTS = ("albef-tiny", "blip-tiny", "meter-tiny", "clip-tiny")


def hosts(name: str) -> str:
    """It runs in every host that has the stacks it works in, where a pair's scores depend on no other pair."""
    ran, refused = [], []
    for host in TINY_HOSTS:
        model, short = _small_host(host), host.partition("-")[0]
        try:
            reducer = _in_host(name, model)
        except HarnessError as error:
            refused.append(f"; refuses {short}: {error}")
            continue
        images, ids = _pairs_of(model)
        together = _scores(model, reducer, images, ids)
        alone = torch.cat([_scores(model, reducer, images[[row]], ids[[row]]) for row in range(len(ids))])
        if not bool(together.isfinite().all()) or float((together - alone).abs().max()) > TOLERANCE:
            raise Fault(f"{host}: a pair's scores depend on the other pairs of its batch")
        ran.append(short)
    if not ran:
        raise Fault(f"runs in no host{''.join(refused)}")
    return f"runs in {', '.join(ran)}; a pair's scores depend on no other pair{''.join(refused)}"


def _small_host(name: str) -> HostModel:
    torch.manual_seed(0)
    return build_host(name, depth=DEPTH, width=WIDTH, heads=HEADS, image_size=SIDE).double().eval()


def _pairs_of(model: HostModel) -> tuple[Tensor, Tensor]:
    """Three images and texts of one length, ids (3, L), that end as the host's texts end."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, 60, (3, 6), generator=generator)
    ids[:, 0], ids[:, -1] = 2, getattr(model.config, "end_id", 3)
    return torch.randn(3, 3, SIDE, SIDE, generator=generator, dtype=torch.float64), ids


def _in_host(name: str, model: HostModel) -> TokenReducer[Any]:
    """The method in a host at a ratio near .7 where it has one there."""
    images, ids = _pairs_of(model)
    with torch.no_grad():
        sample = Sample(images, model.guide(model.text_batch(ids, torch.ones_like(ids, dtype=torch.bool))))
    measured = ratio_on(open_tower(model.vision), sample)
    for ratio in (0.7, None):
        torch.manual_seed(2)
        try:
            reducer = build_method(name, model.shape, ratio, lambda made: measured(made.double()))
        except HarnessError:
            if ratio is None:
                raise
            continue
        return reducer.train(reducer.only_in_training)
    raise AssertionError


def _scores(model: HostModel, reducer: TokenReducer[Any], images: Tensor, ids: Tensor) -> Tensor:
    """What a host says of pairs under a method, (B, S): matching, or the features of both sides."""
    with torch.no_grad(), reducing(reducer):
        texts = model.text_batch(ids, torch.ones_like(ids, dtype=torch.bool))
        # Numbers of the image's own stand for what a momentum tower attends to.
        guide = replace(model.guide(texts), image_attention=images.flatten(1)[:, : model.shape.patches])
        seen = encode(open_tower(model.vision), reducer, images, guide)
        if "match" in model.abilities:
            return model.match(texts, seen)
        return torch.cat([model.embed_image(seen), model.embed_text(texts)], dim=1)
