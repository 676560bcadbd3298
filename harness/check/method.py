"""What every method must satisfy, run on small random towers: the tests that an author of a method gets for free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.hosts.parts.towers import VisionTower, open_tower
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import Guide, TokenReducer, Trace, encode
from harness.reduction.budget import make_reducer, realised_ratio
from harness.reduction.plan import token_counts

DEPTH, SIDE, PATCH, WIDTH, HEADS = 12, 64, 8, 24, 3
RATIOS = (0.9, 0.7, 0.5)
TOLERANCE = 1e-10


class Fault(Exception):
    """A property that the method under test does not have."""


def small_vit(**options: Any) -> VisionTransformer:
    """A float64 ViT of 12 blocks and 64 patches with random weights."""
    torch.manual_seed(0)
    sizes = {
        "img_size": SIDE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": 0,
    }
    return VisionTransformer(**{**sizes, **options}).double().eval()


def _images(batch: int = 3) -> tuple[Tensor, Guide]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return images, Guide(torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64))


def _reduced(name: str, tower: VisionTower) -> tuple[TokenReducer[Any], float]:
    """The method at the largest ratio of RATIOS below 1 that it reaches."""
    for ratio in sorted(RATIOS, key=lambda ratio: abs(ratio - 0.7)):
        try:
            return make_reducer(name, tower.shape, ratio=ratio).double().eval(), ratio
        except HarnessError:
            continue
    return make_reducer(name, tower.shape).double().eval(), 1.0


def identity(name: str) -> str:
    """Ratio 1 is the dense model, bit for bit."""
    model = small_vit()
    tower = open_tower(model)
    images, guide = _images()
    with torch.no_grad():
        ours, dense = (
            encode(tower, make_reducer(name, tower.shape, ratio=1.0).double(), images, guide).states,
            model.forward_features(images),
        )
    if not torch.equal(ours, dense):
        raise Fault("ratio 1.0 changes the output: it must be the dense model bit for bit")
    return "ratio 1.0 is the dense model, bit for bit"


def batch_order(name: str) -> str:
    """Permuting or splitting the batch permutes or splits the output."""
    tower = open_tower(small_vit())
    reducer, _ = _reduced(name, tower)
    images, guide = _images()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        together = encode(tower, reducer, images, guide).states
        permuted = encode(tower, reducer, images[order], Guide(guide.text_cls[order])).states
        alone = encode(tower, reducer, images[:1], Guide(guide.text_cls[:1])).states
    for what, found, expected in (
        ("its order", permuted, together[order]),
        ("its other images", alone, together[:1]),
    ):
        if found.shape != expected.shape or float((found - expected).abs().max()) > TOLERANCE:
            raise Fault(f"an image's output depends on {what} in the batch")
    return "an image's output does not depend on its batch"


def planned_counts(name: str) -> str:
    """What runs is what was planned, and every input patch lives in at most one token."""
    tower = open_tower(small_vit())
    reducer, _ = _reduced(name, tower)
    images, guide = _images()
    trace = Trace(origins_wanted=True)
    with torch.no_grad():
        encode(tower, reducer, images, guide, trace)
    plan = token_counts(reducer)
    if (trace.attention, trace.mlp) != (plan.attention, plan.mlp):
        raise Fault(f"tokens per block {trace.mlp} are not the planned {plan.mlp}")
    for block, origin in enumerate(trace.origins):
        if int(origin.max()) >= trace.mlp[block] - tower.shape.prefix:
            raise Fault(f"block {block}: a patch is said to live in a token that is not there")
    return f"tokens per MLP as planned: {trace.mlp}"


def reachable(name: str) -> str:
    """Ratios are met within 0.01, or refused with the reachable range."""
    tower = open_tower(small_vit())
    said = []
    for ratio in RATIOS:
        try:
            found = realised_ratio(make_reducer(name, tower.shape, ratio=ratio))
        except HarnessError as error:
            said.append(f"{ratio:g} refused ({error})")
            continue
        if abs(found - ratio) > 0.01:
            raise Fault(f"ratio {ratio:g} came out as {found:.3f}")
        said.append(f"{ratio:g} -> {found:.3f}")
    return "ratios: " + ", ".join(said)


def gradients(name: str) -> str:
    """Training through the method gives finite gradients to the patch embedding."""
    model = small_vit()
    tower = open_tower(model)
    reducer, _ = _reduced(name, tower)
    images, guide = _images(2)
    encode(tower, reducer, images, guide).states.square().mean().backward()
    gradient = model.patch_embed.proj.weight.grad
    if gradient is None or not bool(gradient.isfinite().all()) or float(gradient.abs().max()) == 0:
        raise Fault("no finite gradient reaches the patch embedding")
    return "finite gradients reach the patch embedding"


def towers(name: str) -> str:
    """It runs with register tokens, in CLIP and BLIP, and without a class token or says that it cannot."""
    small = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    models = [
        small_vit(reg_tokens=4),
        CLIPVisionModel(CLIPVisionConfig(**small)).double().eval(),
        BlipVisionModel(BlipVisionConfig(**small)).double().eval(),
    ]
    images, guide = _images(2)
    for model in models:
        tower = open_tower(model)
        reducer, _ = _reduced(name, tower)
        with torch.no_grad():
            tokens = encode(tower, reducer, images, guide).states
        if not bool(tokens.isfinite().all()) or tokens.shape[1] != token_counts(reducer).mlp[-1]:
            raise Fault(f"fails in {type(model).__name__} with {tower.shape.prefix} prefix tokens")
    tower = open_tower(small_vit(class_token=False, global_pool="avg"))
    try:
        reducer, _ = _reduced(name, tower)
        with torch.no_grad():
            encode(tower, reducer, images, guide)
    except HarnessError as error:
        return f"runs with registers, in CLIP and BLIP; without a class token: {error}"
    return "runs with registers, without a class token, in CLIP and BLIP"


PROPERTIES: tuple[Callable[[str], str], ...] = (
    identity,
    batch_order,
    planned_counts,
    reachable,
    gradients,
    towers,
)


def lines(name: str) -> list[tuple[str, bool]]:
    """(line, good) for each property of a registered method."""
    methods.entry(name)
    return list(_checked(name))


def _checked(name: str) -> Iterator[tuple[str, bool]]:
    for check in PROPERTIES:
        try:
            yield f"{check.__name__:<16}ok    {check(name)}", True
        except Fault as fault:
            yield f"{check.__name__:<16}FAIL  {fault}", False
        except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is this property's verdict
            yield f"{check.__name__:<16}FAIL  {type(error).__name__}: {error}", False
