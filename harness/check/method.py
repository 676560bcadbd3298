"""What every method must satisfy, run on small random towers: the tests that an author of a method gets for free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.check.drawn import Fault, build_method, check_sizes, same
from harness.check.in_hosts import hosts
from harness.check.watched import all_finite, hooks_watched, merges_watched
from harness.cost.adaptive import ratio_on
from harness.hosts.parts.towers import VisionTower, open_tower
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.kit.sources import place_in
from harness.reduction import Guide, TokenReducer, Tokens, Trace, encode, join
from harness.reduction.budget import make_reducer, realised_ratio
from harness.reduction.guide import Offer
from harness.reduction.plan import Sample, token_counts
from harness.reduction.scores import scores_watched

DEPTH, SIDE, PATCH, WIDTH, HEADS = 12, 64, 8, 24, 3
RATIOS = (0.9, 0.7, 0.5)
OFFER = Offer(words=5, space=8)
TINY_HOSTS = ("albef-tiny", "blip-tiny", "meter-tiny", "clip-tiny")


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
    """Images and a guide that holds all that any host's holds."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    text = torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64)
    attention = torch.rand(batch, (SIDE // PATCH) ** 2, generator=generator, dtype=torch.float64)
    return images, OFFER.stand_in(text, attention, partial(torch.randn, generator=generator))


def _made(name: str, tower: VisionTower, ratio: float | None) -> TokenReducer[Any]:
    """The method at a ratio, an adaptive one as measured on a few images; its parameters, if any, drawn at random."""
    torch.manual_seed(2)
    sample = Sample(*_images(8))
    measured = ratio_on(tower, sample)
    reducer = build_method(name, tower.shape, ratio, lambda made: measured(made.double()))
    return reducer.train(reducer.only_in_training)


def _reduced(name: str, tower: VisionTower) -> tuple[TokenReducer[Any], float]:
    """The method at the largest ratio of RATIOS below 1 that it reaches."""
    for ratio in sorted(RATIOS, key=lambda ratio: abs(ratio - 0.7)):
        try:
            return _made(name, tower, ratio), ratio
        except HarnessError:
            continue
    return _made(name, tower, None), 1.0


def _run(
    tower: VisionTower, reducer: TokenReducer[Any], images: Tensor, guide: Guide, trace: Trace | None = None
) -> Tokens:
    with torch.no_grad():
        return encode(tower, reducer, images, guide, trace)


def identity(name: str) -> str:
    """Ratio 1 is the dense model, bit for bit."""
    model = small_vit()
    tower = open_tower(model)
    images, guide = _images()
    with torch.no_grad():
        dense = model.forward_features(images)
    if not torch.equal(_run(tower, _made(name, tower, 1.0), images, guide).states, dense):
        raise Fault("ratio 1.0 changes the output: it must be the dense model bit for bit")
    if not methods.get(name).only_in_training:
        return "ratio 1.0 is the dense model, bit for bit"
    reducer, _ = _reduced(name, tower)
    if not torch.equal(_run(tower, reducer.eval(), images, guide).states, dense):
        raise Fault("only_in_training, but evaluation changes the output: it must be the dense model bit for bit")
    return "ratio 1.0 and every evaluation are the dense model, bit for bit"


def finite(name: str) -> str:
    """Nothing that it chooses by, and nothing that leaves the tower, is NaN."""
    tower = open_tower(small_vit())
    reducer, _ = _reduced(name, tower)
    images, guide = _images()
    try:
        with scores_watched(reducer):
            tokens = _run(tower, reducer, images, guide)
    except HarnessError as error:
        raise Fault(str(error)) from error
    all_finite(tokens.states[tokens.standing])
    return "its scores and what leaves the tower are finite"


def conserved(name: str) -> str:
    """Prefix tokens stay as they are, and every other token is some patches'; sizes say how many."""
    tower = open_tower(small_vit())
    reducer, ratio = _reduced(name, tower)
    images, guide = _images()
    trace = Trace(origins_wanted=True)
    with hooks_watched(reducer), merges_watched():
        tokens = _run(tower, reducer, images, guide, trace)
    if ratio < 1:
        check_sizes(reducer, tokens, trace)
    counted = ", and its size is how many" if tokens.sizes is not None and reducer.sizes_count_patches else ""
    return f"every token stands for patches that were there{counted}"


def batch_order(name: str) -> str:
    """Permuting or splitting the batch permutes or splits the output."""
    tower = open_tower(small_vit())
    reducer, _ = _reduced(name, tower)
    images, guide = _images(4)
    order = torch.tensor([2, 0, 3, 1])
    together = _run(tower, reducer, images, guide)
    permuted = _run(tower, reducer, images[order], guide.rows(order))
    # Of even and of odd numbers of images.
    parts = [_run(tower, reducer, images[part], guide.rows(part)) for part in (slice(0, 1), slice(1, 4))]
    for what, found in (("its order", permuted.rows(order.argsort())), ("its other images", join(parts))):
        if not same(found, together):
            raise Fault(f"an image's output depends on {what} in the batch")
    return "an image's output does not depend on its batch"


def planned_counts(name: str) -> str:
    """What runs is what was planned, and every input patch lives in at most one token."""
    tower = open_tower(small_vit())
    reducer, _ = _reduced(name, tower)
    images, guide = _images()
    trace = Trace(origins_wanted=True)
    _run(tower, reducer, images, guide, trace)
    for block, origin in enumerate(trace.origins):
        if int(origin.max()) >= trace.mlp[block] - tower.shape.prefix:
            raise Fault(f"block {block}: a patch is said to live in a token that is not there")
    if reducer.adaptive:
        each = torch.stack([mlp for _, mlp in trace.standing], dim=1).double().mean(dim=1)
        return f"tokens per MLP, mean over blocks, of three images: {', '.join(f'{count:.1f}' for count in each)}"
    plan = token_counts(reducer)
    if (trace.attention, trace.mlp) != (plan.attention, plan.mlp):
        raise Fault(
            f"tokens per block {trace.mlp} are not the planned {plan.mlp}; if they depend on the image, set adaptive, "
            "and if on the text, needs_text"
        )
    return f"tokens per MLP as planned: {trace.mlp}"


def reachable(name: str) -> str:
    """Ratios are met within the method's tolerance, or refused with the reachable range."""
    tower = open_tower(small_vit())
    measured = ratio_on(tower, Sample(*_images(8)))
    said = []
    for ratio in RATIOS:
        try:
            reducer = _made(name, tower, ratio)
        except HarnessError as error:
            said.append(f"{ratio:g} refused ({error})")
            continue
        found = measured(reducer) if reducer.adaptive else realised_ratio(reducer)
        if abs(found - ratio) > methods.get(name).tolerance:
            raise Fault(f"ratio {ratio:g} came out as {found:.3f}")
        said.append(f"{ratio:g} -> {found:.3f}")
    return "ratios: " + ", ".join(said)


def gradients(name: str) -> str:
    """Training through the method gives finite gradients to the patch embedding, and to the method's parameters."""
    model = small_vit()
    tower = open_tower(model)
    reducer, _ = _reduced(name, tower)
    images, guide = _images(2)
    with torch.no_grad():
        dense = encode(tower, make_reducer("dense", tower.shape), images) if reducer.needs_dense else None
    tokens = encode(tower, reducer.train(), images, guide)
    own_losses = reducer.losses(tokens, dense)
    for label, loss in own_losses.items():
        if loss.dim() or not bool(loss.isfinite()):
            found = f"has the shape {tuple(loss.shape)}" if loss.dim() else f"is {loss.item():g}"
            raise Fault(f"its loss {label!r} {found}: expected a finite scalar")
    losses = [tokens.states.square().mean(), *own_losses.values()]
    torch.stack(losses).sum().backward()
    gradient = model.patch_embed.proj.weight.grad
    if not _reaches(gradient):
        raise Fault("no finite gradient reaches the patch embedding")
    idle = [name for name, parameter in reducer.named_parameters() if not _reaches(parameter.grad)]
    if idle:
        raise Fault(f"no finite, non-zero gradient reaches its own {idle[0]}: give it a loss, or a gate on the tokens")
    own = sum(parameter.numel() for parameter in reducer.parameters())
    return "finite gradients reach the patch embedding" + (f" and its own {own:,} parameters" if own else "")


def _reaches(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0


def saving(name: str) -> str:
    """What a method has learned is saved and loaded as it is; nothing but its parameters and buffers decides."""
    tower = open_tower(small_vit())
    reducer, _ = _reduced(name, tower)
    images, guide = _images()
    if not reducer.learns:
        return "has no parameters: nothing to save"
    again = type(reducer)(reducer.config, reducer.shape).double().eval()
    again.load_state_dict(reducer.state_dict())
    if not torch.equal(_run(tower, again, images, guide).states, _run(tower, reducer, images, guide).states):
        raise Fault(
            "loaded again from its state_dict, it reduces otherwise: keep what it learns in parameters or buffers"
        )
    return "saved and loaded again it is the same, bit for bit"


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
    images, rich = _images(2)
    guide = Guide(rich.text_cls, image_attention=rich.image_attention)  # what the poorest host offers
    for model in models:
        tower = open_tower(model)
        reducer, _ = _reduced(name, tower)
        tokens = _run(tower, reducer, images, guide)
        where = f"{type(model).__name__} with {tower.shape.prefix} prefix tokens"
        left, planned = tokens.states.shape[1], token_counts(reducer).mlp[-1] if not reducer.adaptive else None
        if planned not in (None, left):
            raise Fault(f"leaves {left} tokens of {where}, where {planned} are planned")
        if not bool(tokens.states[tokens.standing].isfinite().all()):
            raise Fault(f"leaves NaN or infinite numbers in {where}")
    tower = open_tower(small_vit(class_token=False, global_pool="avg"))
    try:
        reducer, _ = _reduced(name, tower)
        _run(tower, reducer, images, guide)
    except HarnessError as error:
        return f"runs with registers, in CLIP and BLIP; without a class token: {error}"
    return "runs with registers, without a class token, in CLIP and BLIP"


def text(name: str) -> str:
    """A method that is guided by texts says what it does without one, and really uses the text."""
    kind = methods.get(name)
    tower = open_tower(small_vit())
    reducer, ratio = _reduced(name, tower)
    if not reducer.needs_text:
        return "uses no text"
    if kind.without_text is None:
        raise Fault("needs_text, but without_text does not say what it does where no text is given")
    images, guide = _images()
    other = replace(guide.rows(torch.tensor([2, 1, 0])), image_attention=guide.image_attention)
    first, second = (_run(tower, reducer, images, each).states for each in (guide, other))
    if ratio < 1 and first.shape == second.shape and torch.equal(first, second):
        raise Fault("needs_text, but another text gives the same tokens")
    with torch.no_grad():
        unguided = encode(tower, reducer, images)
    kept, whole = int(unguided.standing.sum(dim=1).max()), tower.shape.prefix + tower.shape.patches
    if (kept == whole) != kind.without_text.startswith("all tokens") and ratio < 1:
        raise Fault(
            f"without_text says {kind.without_text!r}, but without a text {kept} of {whole} tokens are left: begin it "
            "with 'all tokens' where all are, and only there"
        )
    return f"follows the text; without one: {kind.without_text}"


PROPERTIES: tuple[Callable[[str], str], ...] = (
    identity,
    finite,
    conserved,
    batch_order,
    planned_counts,
    reachable,
    gradients,
    saving,
    text,
    towers,
    hosts,
)
# Of a method that leaves the vision tower alone.
ELSEWHERE = (hosts,)


def properties(name: str) -> tuple[Callable[[str], str], ...]:
    """What is checked of a registered method."""
    return PROPERTIES if "vision" in methods.get(name).stacks else ELSEWHERE


def lines(name: str) -> list[tuple[str, bool]]:
    """(line, good) for each property of a registered method."""
    methods.entry(name)
    return list(_checked(name))


def _checked(name: str) -> Iterator[tuple[str, bool]]:
    said = dict[str, str]()
    for check in properties(name):
        try:
            yield f"{check.__name__:<16}ok    {check(name)}", True
            continue
        except Fault as fault:
            reason = str(fault)
        except HarnessError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is this property's verdict
            reason = f"{place_in(error, methods.get(name).__module__)}{type(error).__name__}: {error}"
        first = said.setdefault(reason, check.__name__)
        yield f"{check.__name__:<16}FAIL  {reason if first == check.__name__ else f'as {first}'}", False
