"""MACs and parameters of named ViTs against the figures their sources print.

exact: computed from the method's schedule, norms not counted (within 0.1 %). published: as printed, with the
source's rounding (within 1 %, EViT's plus half of the last digit). Sources: timm's results csv (pt240);
youweiliang/evit README; exact ToMe figures without the matching product.
"""

import pytest
import torch

from harness.cost.budget import tower_macs
from harness.cost.vits import build_vit
from harness.hosts.parts.towers import open_tower
from harness.reduction.budget import make_reducer

DENSE = {  # parameters in millions, GMACs as published, GMACs exact
    "deit_tiny_patch16_224": (5.72, 1.26, 1.2537),
    "deit_small_patch16_224": (22.05, 4.61, 4.5989),
    "vit_base_patch32_224": (88.22, 4.41, 4.4092),
    "vit_base_patch16_224": (86.57, 17.58, 17.5638),
    "vit_base_patch16_384": (86.86, 55.54, 55.4844),
    "vit_large_patch16_224": (304.33, 61.6, 61.5547),
}
EVIT_PUBLISHED = {0.9: 4.0, 0.8: 3.5, 0.7: 3.0, 0.6: 2.6, 0.5: 2.3}
EVIT_FUSED = {1.0: 4.599, 0.9: 4.022, 0.8: 3.477, 0.7: 3.029, 0.6: 2.635, 0.5: 2.309}
EVIT_DROPPED = {0.9: 3.988, 0.8: 3.444, 0.7: 2.997, 0.6: 2.608, 0.5: 2.282}
TOME = [
    ("deit_small_patch16_224", {"r": 8}, 3.416),
    ("deit_small_patch16_224", {"r": 13}, 2.703),
    ("deit_small_patch16_224", {"r": 16}, 2.291),
    ("deit_tiny_patch16_224", {"r": 8}, 0.924),
    ("deit_tiny_patch16_224", {"r": 12}, 0.769),
    ("deit_tiny_patch16_224", {"r": 16}, 0.622),
    ("vit_base_patch16_224", {"r": 16}, 8.772),
    ("vit_base_patch16_224", {"r": 16, "inflect": -1}, 5.864),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def forward(name, method="dense", **settings):
    model = build_vit(name)
    return tower_macs(model, make_reducer(method, open_tower(model).shape, settings=settings), train_step=False)


@pytest.mark.parametrize("name", DENSE)
def test_dense_vits(name):
    params, published, exact = DENSE[name]
    gmacs = forward(name).forward["main"] / 1e9
    assert gmacs == pytest.approx(exact, rel=1e-3)
    assert gmacs == pytest.approx(published, rel=0.01)
    assert sum(parameter.numel() for parameter in build_vit(name).parameters()) / 1e6 == pytest.approx(
        params, abs=0.006
    )


@pytest.mark.parametrize("rate", EVIT_FUSED)
def test_evit_fused(rate):
    gmacs = forward("deit_small_patch16_224", "evit", keep_rate=rate).forward["main"] / 1e9
    assert gmacs == pytest.approx(EVIT_FUSED[rate], rel=1e-3)
    if rate in EVIT_PUBLISHED:
        assert gmacs == pytest.approx(EVIT_PUBLISHED[rate], abs=0.01 * EVIT_PUBLISHED[rate] + 0.05)


@pytest.mark.parametrize("rate", EVIT_DROPPED)
def test_evit_dropped(rate):
    gmacs = forward("deit_small_patch16_224", "evit", keep_rate=rate, fuse=False).forward["main"] / 1e9
    assert gmacs == pytest.approx(EVIT_DROPPED[rate], rel=1e-3)


@pytest.mark.parametrize(("name", "settings", "exact"), TOME)
def test_tome(name, settings, exact):
    assert forward(name, "tome", **settings).forward["main"] / 1e9 == pytest.approx(exact, rel=1e-3)


def test_tome_with_its_matching_product():
    assert forward("deit_tiny_patch16_224", "tome", r=8).forward_total / 1e9 == pytest.approx(0.929, rel=1e-3)
