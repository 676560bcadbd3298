"""What every method must satisfy in any tower at any budget: one case, drawn at random, and all that is checked in it.

`check method NAME --draws N` draws cases itself; the tests let hypothesis draw them. A method may refuse a case in one
line (a tower without a class token, a ratio it cannot reach); whatever it accepts has every property. Shapes: B images,
N tokens, prefix first, D channels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.cost.adaptive import ratio_on
from harness.cost.probe import skeleton
from harness.hosts.parts.towers import VisionTower, open_tower
from harness.kit.errors import BrokenMethod, HarnessError, first_line
from harness.kit.recompute import recomputing
from harness.reduction import Guide, StackShape, TokenReducer, Tokens, TokenState, Trace, encode, join
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample

DEPTH, WIDTH, HEADS = 12, 12, 2
TOLERANCE = 1e-10


class Fault(Exception):
    """A property that the method under test does not have."""


def _timm(kind: type[VisionTransformer] = VisionTransformer, **options: Any) -> VisionTransformer:
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
    return kind(**{**sizes, "mlp_ratio": 2.0, **options})


def _transformers(model: Any, config: Any) -> Any:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": DEPTH}
    return model(config(**sizes, num_attention_heads=HEADS, image_size=48, patch_size=8))


# By name, a tower with random weights; those of other images than the model's own are resized by the images.
TOWERS: dict[str, Callable[[], Any]] = {
    "timm": _timm,
    "registers": lambda: _timm(reg_tokens=4),
    "distillation token": lambda: _timm(VisionTransformerDistilled),
    "mean-pooled": lambda: _timm(class_token=False, global_pool="avg"),
    "class token, mean-pooled": lambda: _timm(global_pool="avg"),
    "patch 14": lambda: _timm(img_size=70, patch_size=14),
    "non-square": lambda: _timm(img_size=(32, 64)),
    "dynamic image size": lambda: _timm(dynamic_img_size=True),
    "transformers CLIP": lambda: _transformers(CLIPVisionModel, CLIPVisionConfig),
    "transformers BLIP": lambda: _transformers(BlipVisionModel, BlipVisionConfig),
}
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Case:
    """A tower of TOWERS with weights, images and texts of a seed, and the token ratio asked for."""

    tower: str
    ratio: float
    batch: int
    seed: int

    def model(self) -> Any:
        """The tower's model in float64 evaluation."""
        torch.manual_seed(self.seed)
        return TOWERS[self.tower]().double().eval()

    def inputs(self, model: Any, batch: int | None = None) -> Sample:
        """Images and guides; of a tower with a dynamic image size its images are larger than its own."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        height, width = (48, 48) if not isinstance(model, VisionTransformer) else model.patch_embed.img_size
        if self.tower == "dynamic image size":
            height, width = 40, 64
        batch = self.batch if batch is None else batch
        images = torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)
        text = torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64)
        patches = open_tower(model).sized_for(images).patches
        attention = torch.rand(batch, patches, generator=generator, dtype=torch.float64)
        return Sample(images, Guide(text, image_attention=attention))


def drawn_cases(count: int, seed: int = 0) -> Iterator[Case]:
    """Random cases, the same for the same seed; the first of them go once through all towers."""
    chosen = random.Random(seed)
    for number in range(count):
        tower = list(TOWERS)[number] if number < len(TOWERS) else chosen.choice(list(TOWERS))
        yield Case(tower, chosen.choice(RATIOS), chosen.randint(2, 4), chosen.randrange(2**16))


@dataclass
class Subject:
    """A method in the tower of a case."""

    case: Case
    model: Any
    tower: VisionTower
    reducer: TokenReducer[Any]
    sample: Sample

    def run(self, sample: Sample | None = None, trace: Trace | None = None) -> Tokens:
        """The tokens of the case's images, or of a sample's."""
        given = self.sample if sample is None else sample
        with torch.no_grad():
            return encode(self.tower, self.reducer, given.images, given.guide, trace)


def build_method(
    name: str, shape: StackShape, ratio: float | None, measured: Callable[..., float] | None
) -> TokenReducer[Any]:
    """The method in float64, as `make_reducer` makes it; Fault, which is no refusal, where its code raises."""
    try:
        return make_reducer(name, shape, ratio=ratio, measured=measured).double()
    except BrokenMethod as error:
        raise Fault(str(error)) from error


def subject(name: str, case: Case, ratio: float) -> Subject:
    """The method at a ratio; HarnessError where it refuses the tower, or the budget in it."""
    model = case.model()
    tower, sample = open_tower(model), case.inputs(model)
    shape = tower.sized_for(sample.images)
    measured = ratio_on(tower, case.inputs(model, 4)) if shape == tower.shape else None
    torch.manual_seed(case.seed + 2)
    found = None if measured is None else lambda made: measured(made.double())
    reducer = build_method(name, shape, ratio, found)
    return Subject(case, model, tower, reducer.train(reducer.only_in_training), sample)


def check_case(name: str, case: Case) -> str:
    """'holds', or why the method refuses the case; raises Fault, which names the property that it does not have."""
    try:
        dense = subject(name, case, 1.0)
        identity(dense)
        made = subject(name, case, case.ratio)
        for check in CHECKS:
            check(made)
    except HarnessError as error:
        if "\n" in str(error):
            raise Fault(f"refuses in several lines: {error}") from error
        return f"refused: {error}"
    return "holds"


def identity(made: Subject) -> None:
    """At ratio 1 the tower is the dense one, bit for bit."""
    plain = make_reducer("dense", made.reducer.shape)
    with torch.no_grad():
        dense = encode(made.tower, plain, made.sample.images)
    if not torch.equal(made.run().states, dense.states):
        raise Fault("ratio 1.0 changes the output: it must be the dense model bit for bit")


def sizes(made: Subject) -> None:
    """Where sizes count patches, each token's is the number of patches that live in it, and none is lost where none is
    dropped; a token in which none lives is the method's own and counts one. Nothing is left but what stands.
    """
    trace = Trace(origins_wanted=True)
    check_sizes(made.reducer, made.run(trace=trace), trace)


def check_sizes(reducer: TokenReducer[Any], tokens: Tokens, trace: Trace) -> None:
    """The same of a pass whose origins were traced."""
    before, after = reducer.shape.patches + tokens.prefix, trace.mlp
    if not reducer.adaptive and tokens.mask is not None:
        raise Fault("hides tokens of images, whose number is fixed: remove them")
    left = [mlp.double().mean().item() for _, mlp in trace.standing] if reducer.adaptive else after
    if min(left) >= before:
        raise Fault(f"no tensor gets smaller: tokens per MLP {after}")
    if tokens.sizes is None or not reducer.sizes_count_patches:
        return
    found, origin = tokens.sizes[:, tokens.prefix :], trace.origins[-1]
    lives = torch.zeros_like(found).scatter_add(1, origin.clamp(min=0), (origin >= 0).to(found.dtype))
    lives = torch.where(lives == 0, 1, lives)
    wrong = (found - lives).abs()[tokens.standing[:, tokens.prefix :]]
    if wrong.numel() and float(wrong.max()) > TOLERANCE:
        raise Fault(f"sizes (sum {found[0].sum():g}) are not how many patches the tokens hold ({lives[0].sum():g})")


def prefix_untouched(made: Subject) -> None:
    """Class and register tokens stay first, and no hook of the method changes them."""

    def watched(hook: Callable[..., TokenState], place: int) -> Callable[..., TokenState]:
        def inner(*given: Any) -> TokenState:
            state, left = given[place], hook(*given)
            if not torch.equal(state.tokens[:, : state.prefix], left.tokens[:, : left.prefix]):
                raise Fault(f"{hook.__name__} of block {given[0]} changes the class token or those beside it")
            return left

        return inner

    reducer = made.reducer
    hooks = {"before_block": 1, "between": 1, "after_block": 1}
    for hook, place in hooks.items():
        reducer.__dict__[hook] = watched(getattr(reducer, hook), place)
    try:
        made.run()
    finally:
        for hook in hooks:
            del reducer.__dict__[hook]


def batch(made: Subject) -> None:
    """Permuting the batch permutes the output, and a batch equals its images one by one."""
    sample, count = made.sample, made.case.batch
    together = made.run()
    order = torch.arange(count).roll(1)
    assert sample.guide is not None
    permuted = made.run(Sample(sample.images[order], sample.guide.rows(order)))
    alone = join([made.run(sample.rows(slice(row, row + 1))) for row in range(count)])
    for what, found in (("its order", permuted.rows(order.argsort())), ("its other images", alone)):
        if not same(found, together):
            raise Fault(f"an image's output depends on {what} in the batch")


def same(found: Tokens, expected: Tokens) -> bool:
    """Whether the tokens that stand are the same; what stands at padding does not matter."""
    if found.states.shape != expected.states.shape or not torch.equal(found.standing, expected.standing):
        return False
    here = expected.standing
    return float((found.states[here] - expected.states[here]).abs().max()) <= TOLERANCE


def trained(made: Subject) -> None:
    """Gradients are finite, reach the patch embedding and the method's own parameters, and are the same when blocks
    are recomputed.
    """
    found = []
    reducer, model = made.reducer, made.model
    was_training = reducer.training
    for again in (False, True):
        for module in (model, reducer):
            module.zero_grad(set_to_none=True)
        torch.manual_seed(made.case.seed)
        with recomputing(again):
            tokens = encode(made.tower, reducer.train(), made.sample.images, made.sample.guide)
            dense = None
            if reducer.needs_dense:
                with torch.no_grad():
                    dense = encode(made.tower, make_reducer("dense", reducer.shape), made.sample.images)
            parts = [tokens.states[tokens.standing].square().mean(), *reducer.losses(tokens, dense).values()]
            torch.stack(parts).sum().backward()
        named = [*model.named_parameters(), *reducer.named_parameters()]
        found.append({label: part.grad for label, part in named if part.grad is not None})
    reducer.train(was_training)
    first, second = found
    embedding = next(grad for label, grad in first.items() if "patch_embed" in label)
    own = [first.get(label) for label, _ in reducer.named_parameters()]
    # Which of them take part may depend on the case: a threshold that nothing passes has none.
    if not _reaches(embedding) or (own and not any(_reaches(each) for each in own)):
        raise Fault("no finite, non-zero gradient reaches the patch embedding, or the method's own parameters")
    if not all(bool(gradient.isfinite().all()) for gradient in first.values()):
        raise Fault("a gradient is not finite")
    if first.keys() != second.keys() or not all(torch.equal(first[label], second[label]) for label in first):
        raise Fault("gradients differ when blocks are recomputed in backward (gradient checkpointing)")


def _reaches(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0


def autocast(made: Subject) -> None:
    """Under bfloat16 autocast the residual stream keeps its dtype, and everything is finite."""
    reducer, sample = made.reducer, made.sample
    images, guide = sample.images.float(), None if sample.guide is None else sample.guide.each(Tensor.float)
    model = made.model.float()
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            tokens = encode(open_tower(model), reducer.float(), images, guide)
    finally:
        made.model.double()
        reducer.double()
    if tokens.states.dtype != torch.float32:
        raise Fault(f"under bfloat16 autocast tokens leave as {tokens.states.dtype} instead of torch.float32")
    if not bool(tokens.states[tokens.standing].isfinite().all()):
        raise Fault("under bfloat16 autocast tokens are not finite")


def without_reading_data(made: Subject) -> None:
    """With fixed counts no block waits for the device: the method runs on tensors that have no data."""
    reducer = made.reducer
    if reducer.adaptive:
        return
    model, method = skeleton(made.model), skeleton(reducer)
    assert made.sample.guide is not None
    images, guide = made.sample.images.to("meta"), made.sample.guide.each(lambda part: part.to("meta"))
    try:
        with torch.no_grad():
            encode(open_tower(model), method.train(reducer.training), images, guide)
    except HarnessError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise Fault(f"reads tensors' values, for which a GPU has to wait: {str(error).splitlines()[0]}") from error


def compiles(made: Subject) -> None:
    """With fixed counts torch.compile makes one graph of the tower, and the graph says the same."""
    reducer, sample = made.reducer, made.sample
    if reducer.adaptive:
        return

    def whole(images: Tensor, text: Tensor, attention: Tensor) -> Tensor:
        return encode(made.tower, reducer, images, Guide(text, image_attention=attention)).states

    guide = sample.guide
    assert guide is not None
    assert guide.image_attention is not None
    torch._dynamo.reset()
    with torch.no_grad():
        graph = torch.compile(whole, fullgraph=True, backend="eager")
        found = graph(sample.images, guide.text_cls, guide.image_attention)
    if not torch.allclose(found, made.run().states, rtol=0, atol=TOLERANCE):
        raise Fault("compiled by torch.compile the tower says something else")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    sizes,
    prefix_untouched,
    batch,
    trained,
    autocast,
    without_reading_data,
)


def lines(name: str, draws: int) -> Iterator[tuple[str, bool]]:
    """(line, good) for each case drawn for a method; one in ten, the first included, is compiled too."""
    for number, case in enumerate(drawn_cases(draws)):
        label = f"{case.tower}, ratio {case.ratio:g}, batch {case.batch}, seed {case.seed}"
        try:
            said = check_case(name, case)
            if number % 10 == 0 and said == "holds":
                compiles(subject(name, case, case.ratio))
        except Fault as fault:
            yield f"{label:<62}FAIL  {fault}", False
        except Exception as error:  # noqa: BLE001 - a stranger's code: whatever it raises is this case's verdict
            yield f"{label:<62}FAIL  {first_line(error)}", False
        else:
            yield f"{label:<62}ok    {said}", True
