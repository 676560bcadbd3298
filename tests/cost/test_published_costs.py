"""MACs and token counts of every method whose source prints them, each held within 0.5 % of the figure in its source.

A figure that its source rounds may lie half of its last digit further off. `exact`: figures computed from a method's
schedule, norms not counted (within 0.1 %). fvcore, which most sources used, counts norms too: ours lie a little lower.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.cost.budget import tower_macs
from harness.cost.flops import count
from harness.cost.host import host_parts
from harness.cost.probe import skeleton, tower_call, tower_inputs
from harness.cost.vits import build_vit
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

TINY, SMALL, BASE = (f"deit_{size}_patch16_224" for size in ("tiny", "small", "base"))
VIT = "vit_base_patch16_224"
DENSE = {  # timm's results csv (pt240): parameters in millions, GMACs as published, GMACs exact
    TINY: (5.72, 1.26, 1.2537),
    SMALL: (22.05, 4.61, 4.5989),
    "vit_base_patch32_224": (88.22, 4.41, 4.4092),
    VIT: (86.57, 17.58, 17.5638),
    "vit_base_patch16_384": (86.86, 55.54, 55.4844),
    "vit_large_patch16_224": (304.33, 61.6, 61.5547),
}
# OpenGVLab/DiffRate, compression_rate.json: model, exact GMACs -> tokens left by pruning and by merging, class token
# counted.
DIFFRATE = {
    (TINY, 0.655): (
        (197, 196, 180, 157, 130, 107, 86, 73, 63, 51, 40, 3),
        (197, 187, 167, 139, 114, 90, 76, 66, 57, 45, 37, 3),
    ),
    (TINY, 0.726): (
        (197, 196, 194, 180, 150, 123, 98, 82, 68, 60, 52, 3),
        (197, 196, 192, 158, 133, 103, 88, 72, 64, 58, 49, 3),
    ),
    (TINY, 0.809): (
        (197, 197, 196, 186, 166, 147, 117, 103, 92, 80, 74, 3),
        (197, 196, 190, 172, 154, 125, 107, 96, 84, 78, 70, 3),
    ),
    (TINY, 0.902): (
        (197, 197, 196, 190, 182, 166, 141, 125, 113, 105, 99, 3),
        (197, 196, 194, 188, 172, 147, 129, 115, 107, 103, 96, 3),
    ),
    (TINY, 1.003): (
        (197, 197, 196, 194, 188, 184, 178, 164, 156, 137, 129, 21),
        (197, 197, 196, 190, 186, 154, 148, 156, 145, 135, 125, 21),
    ),
    (SMALL, 2.327): (
        (197, 192, 168, 143, 121, 105, 92, 74, 62, 45, 33, 3),
        (197, 180, 156, 127, 109, 98, 80, 66, 52, 37, 31, 3),
    ),
    (SMALL, 2.504): (
        (197, 192, 174, 156, 131, 115, 111, 99, 76, 50, 39, 3),
        (197, 186, 160, 133, 119, 107, 96, 82, 66, 43, 37, 3),
    ),
    (SMALL, 2.709): (
        (197, 196, 182, 160, 141, 127, 115, 105, 88, 66, 49, 3),
        (197, 188, 170, 147, 131, 119, 109, 96, 76, 54, 45, 3),
    ),
    (SMALL, 2.905): (
        (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3),
        (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3),
    ),
    (SMALL, 3.108): (
        (197, 197, 194, 180, 160, 147, 137, 129, 115, 92, 76, 3),
        (197, 196, 186, 164, 150, 141, 133, 121, 103, 78, 68, 3),
    ),
    (BASE, 8.73): (
        (197, 192, 172, 156, 131, 107, 90, 72, 56, 33, 17, 3),
        (197, 178, 162, 141, 115, 96, 78, 60, 47, 21, 13, 3),
    ),
    (BASE, 9.985): (
        (197, 194, 182, 168, 148, 129, 113, 101, 82, 49, 25, 3),
        (197, 186, 174, 156, 137, 117, 105, 90, 66, 31, 19, 3),
    ),
    (BASE, 10.434): (
        (197, 196, 188, 174, 156, 141, 121, 103, 90, 58, 25, 3),
        (197, 190, 184, 164, 145, 131, 107, 94, 74, 31, 21, 3),
    ),
    (BASE, 11.517): (
        (197, 197, 197, 188, 170, 154, 139, 123, 107, 72, 43, 3),
        (197, 197, 192, 178, 158, 145, 127, 111, 94, 50, 35, 3),
    ),
    (BASE, 12.522): (
        (197, 197, 196, 192, 184, 170, 154, 139, 129, 94, 58, 3),
        (197, 196, 194, 190, 176, 160, 145, 131, 115, 68, 47, 3),
    ),
}


@dataclass(frozen=True)
class Figure:
    """GMACs that a source prints of a method's forward pass; `parts`: what its counter saw of it."""

    source: str
    model: str
    method: str
    gmacs: float
    settings: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ("main", "scoring", "matching", "predictor")
    within: float = 0.005
    rounding: float = 0.0

    def __str__(self) -> str:
        return f"{self.method}-{self.model}-{self.gmacs:g}"


MAIN = ("main",)
EVIT, TOME = "published_figures.yaml, evit_deit_small", "published_figures.yaml, tome"
FIGURES = [
    # The README of youweiliang/evit prints one decimal.
    *(
        Figure("youweiliang/evit README", SMALL, "evit", gmacs, {"keep_rate": rate}, MAIN, rounding=0.05)
        for rate, gmacs in {0.9: 4.0, 0.8: 3.5, 0.7: 3.0, 0.6: 2.6, 0.5: 2.3}.items()
    ),
    *(
        Figure(EVIT, SMALL, "evit", gmacs, {"keep_rate": rate}, MAIN, 0.001)
        for rate, gmacs in {1.0: 4.599, 0.9: 4.022, 0.8: 3.477, 0.7: 3.029, 0.6: 2.635, 0.5: 2.309}.items()
    ),
    *(
        Figure(EVIT, SMALL, "evit", gmacs, {"keep_rate": rate, "fuse": False}, MAIN, 0.001)
        for rate, gmacs in {0.9: 3.988, 0.8: 3.444, 0.7: 2.997, 0.6: 2.608, 0.5: 2.282}.items()
    ),
    *(
        Figure(TOME, SMALL, "tome", gmacs, {"r": r}, MAIN, 0.001)
        for r, gmacs in {8: 3.416, 13: 2.703, 16: 2.291}.items()
    ),
    *(
        Figure(TOME, TINY, "tome", gmacs, {"r": r}, MAIN, 0.001)
        for r, gmacs in {8: 0.924, 12: 0.769, 16: 0.622}.items()
    ),
    Figure(TOME, VIT, "tome", 8.772, {"r": 16}, MAIN, 0.001),
    Figure(TOME, VIT, "tome", 5.864, {"r": 16, "inflect": -1}, MAIN, 0.001),
    Figure(TOME, TINY, "tome", 0.929, {"r": 8}, within=0.001),  # with its matching product
    *(
        Figure("published_figures.yaml, dynamicvit.exact_with_predictors", model, "dynamicvit", gmacs)
        for model, gmacs in {"deit_256": 1.375, SMALL: 2.981, BASE: 11.476}.items()
    ),
    *(
        Figure(
            "OpenGVLab/DiffRate, compression_rate.json; more-methods.md",
            model,
            "diffrate",
            gmacs,
            {"prune_kept": pruned, "merge_kept": merged},
            MAIN,
            0.001,
        )
        for (model, gmacs), (pruned, merged) in DIFFRATE.items()
    ),
    *(
        Figure("logs of BWLONG/BeyondAttentiveTokens; more-methods.md", SMALL, "bat", gmacs, {"keep_rate": rate})
        for rate, gmacs in {
            0.7: 3.0047916370,
            0.6: 2.5832450780,
            0.5: 2.3444079580,
            0.4: 2.0830414740,
            0.3: 1.8232578940,
            0.2: 1.6450529900,
        }.items()
    ),
    Figure("xjwu1024/PPT, r = 50 at blocks 3, 6, 9; more-methods.md", SMALL, "ppt", 2.944411999),
    # Two decimals.
    *(
        Figure("mlvlab/MCTF README", model, "mctf", gmacs, settings, ("main", "matching"), rounding=0.005)
        for model, gmacs, settings in (
            (TINY, 0.71, {}),
            (SMALL, 2.60, {}),
            (TINY, 0.75, {"r": 0.35, "blocks": (3, 6, 9)}),
            (SMALL, 2.76, {"r": 0.35, "blocks": (3, 6, 9)}),
        )
    ),
    Figure("FLIP; more-methods.md: 99 of 197 tokens", VIT, "flip", 8.705),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def forward(name, method="dense", **settings):
    """MACs of a forward pass, by what they were spent on: of training where a method reduces there alone."""
    # deit_256 is DeiT with 256 channels.
    model = VisionTransformer(embed_dim=256, num_heads=4) if name == "deit_256" else build_vit(name)
    reducer = make_reducer(method, open_tower(model).shape, settings=settings)
    if not reducer.only_in_training:
        return tower_macs(model, reducer, train_step=False).forward
    images, guide = tower_inputs(skeleton(model), reducer.train(), 1, "meta", torch.float32)
    return count(tower_call(skeleton(model).eval(), reducer, images, guide), train_step=False).forward


@pytest.mark.parametrize("name", DENSE)
def test_dense_vits(name):
    params, published, exact = DENSE[name]
    gmacs = forward(name)["main"] / 1e9
    assert gmacs == pytest.approx(exact, rel=1e-3)
    assert gmacs == pytest.approx(published, abs=0.005 * published + 0.005)
    assert sum(parameter.numel() for parameter in build_vit(name).parameters()) / 1e6 == pytest.approx(
        params, abs=0.006
    )


@pytest.mark.parametrize("figure", FIGURES, ids=str)
def test_published_cost(figure):
    found = forward(figure.model, figure.method, **figure.settings)
    gmacs = sum(found.get(part, 0) for part in figure.parts) / 1e9
    allowed = figure.within * figure.gmacs + figure.rounding
    assert gmacs == pytest.approx(figure.gmacs, abs=allowed), figure.source


@pytest.mark.parametrize(("method", "visual", "total"), [("dense", 17.582, 20.567), ("crossget", 9.011, 12.036)])
def test_clip_with_both_towers(method, visual, total):
    """The fvcore log of sdc17/CrossGET, CLIP ViT-B/16 at 224 px, r = 16 (published_figures.yaml, crossget_clip_b16)."""
    with torch.device("meta"):
        host = build_host("clip-base")
    reducer = make_reducer(method, host.shape)
    assert tower_macs(host.vision, reducer, train_step=False).forward_total / 1e9 == pytest.approx(visual, rel=0.005)
    parts = host_parts("clip-base", reducer, None)
    assert sum(parts[part]["forward_gmacs"] for part in ("vision", "text")) == pytest.approx(total, rel=0.005)


# Tokens in each block's MLP, prefix and merged ones counted.
COUNTS = [
    ("published_figures.yaml, elip", "albef-base", "elip", {}, [257] * 2 + [232] * 2 + [168] * 6 + [104] * 2),
    ("youweiliang/evit", SMALL, "evit", {}, [197] * 3 + [140] * 3 + [100] * 3 + [72] * 3),
    ("youweiliang/evit", SMALL, "evit", {"fuse": False}, [197] * 3 + [139] * 3 + [98] * 3 + [69] * 3),
    ("raoyongming/DynamicViT", SMALL, "dynamicvit", {}, [197] * 3 + [138] * 3 + [97] * 3 + [68] * 3),
    ("FLIP, more-methods.md", VIT, "flip", {}, [99] * 12),
    ("facebookresearch/ToMe, r = 16", VIT, "tome", {"r": 16}, [197 - 16 * block for block in range(1, 12)] + [11]),
    ("mlvlab/MCTF, r = 16", SMALL, "mctf", {}, [197 - 16 * block for block in range(12)]),
    ("xjwu1024/PPT, r = 50", SMALL, "ppt", {}, [197] * 3 + [147] * 3 + [97] * 3 + [49] * 3),
    *(
        (
            "OpenGVLab/DiffRate, compression_rate.json",
            model,
            "diffrate",
            {"prune_kept": pruned, "merge_kept": merged},
            [min(min(pruned[: block + 1]), min(merged[: block + 1])) for block in range(12)],
        )
        for (model, _), (pruned, merged) in DIFFRATE.items()
    ),
]


@pytest.mark.parametrize(("source", "model", "method", "settings", "counts"), COUNTS)
def test_published_counts(source, model, method, settings, counts):
    if model == "albef-base":
        with torch.device("meta"):
            shape = build_host(model).shape
    else:
        shape = open_tower(build_vit(model)).shape
    assert token_counts(make_reducer(method, shape, settings=settings)).mlp == counts, source
