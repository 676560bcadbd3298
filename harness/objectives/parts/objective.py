"""A host in training: one forward from images and texts to losses, whatever the host.

Shapes: B pairs of this process, G of all processes, L text tokens, N image tokens, P shared space, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.pair_batch import PairBatch
from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.answers import IGNORED
from harness.hosts.parts.tokenizer import Specials, Tokenizer
from harness.hosts.parts.towers import open_tower
from harness.kit import distributed
from harness.kit.draws import categorical, uniform
from harness.kit.errors import HarnessError
from harness.objectives.parts.batches import Asked, Batches, pair_batches
from harness.objectives.parts.recipe import Recipe
from harness.reduction import PLAIN, TokenReducer, Tokens, Trace, drive, encode, reducing

# Purposes of draws, so that no two of them share their numbers.
MASKS, MASK_KINDS, MASK_WORDS, WRONG_TEXTS, WRONG_IMAGES, MISMATCHES, FALSE_TEXTS = range(7)
Losses = dict[str, Tensor]
H = TypeVar("H", bound=HostModel)


class Batch:
    """What an objective reads of a step: a dataclass of tensors."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same on a device, numbers with fractions in `dtype`."""
        return _moved(self, device, dtype)


@dataclass(frozen=True)
class Pairs(Batch):
    """Images (B, 3, H, W) with one caption each: ids (B, L), mask (B, L), and the samples' own numbers (B,) int64."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    sample_ids: Tensor


@dataclass(frozen=True)
class Moment:
    """Where training stands; `alpha` is the weight of the momentum model's soft targets, `done` the share of all
    optimizer steps that are done.
    """

    seed: int = 0
    epoch: int = 0
    step: int = 0
    alpha: float = 0.0
    done: float = 0.0


class ObjectiveConfig(BaseModel):
    """Base of an objective's own settings, with the defaults of its source; none of them is a number of the recipe.

    `FILES`: fields that name a file, a folder or weights, whose content counts wherever they lie.
    """

    FILES: ClassVar[tuple[str, ...]] = ()
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Objective(nn.Module, ABC, Generic[H]):
    """Base class: holds the host, the method in its vision tower, and what training alone needs.

    Everything that a checkpoint is to hold is a parameter or a buffer: queues, prototypes, teachers, decoders.

    A class says what it asks of a host: `NEEDS`, of its abilities, and `PARTS`, of attributes beside what every host
    has. `LEAST_PAIRS`: of a batch over which negatives are drawn. `LEAVES_UNUSED`: whether the losses may leave trained
    parameters without a gradient. `FROM_RANDOM`: whether it trains from random weights what a protocol would take the
    shipped starts for. `MOMENTUM`: whether a momentum tower sees each image, whose class attention methods that need it
    are offered (`Guide.image_attention`). `VIEWS` and `TEXTS`: how many views of an image and how many texts of it a
    batch has (see PairLoader).

    The recipe's `negatives` says whether wrong texts and images come from all processes (`global`) or from one's own
    (`local`, as in the released programs). Every loss is a mean over the global batch once data-parallel training has
    averaged it over processes.
    """

    KIND: ClassVar[str] = "objective"
    Config: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    NEEDS: ClassVar[frozenset[str]] = frozenset()
    PARTS: ClassVar[tuple[str, ...]] = ()
    LEAST_PAIRS: ClassVar[int] = 1
    LEAVES_UNUSED: ClassVar[bool] = False
    FROM_RANDOM: ClassVar[bool] = False
    MOMENTUM: ClassVar[bool] = False
    VIEWS: ClassVar[int] = 1
    TEXTS: ClassVar[int] = 1

    def __init__(
        self,
        host: H,
        reducer: TokenReducer[Any],
        specials: Specials,
        recipe: Recipe,
        config: ObjectiveConfig | None = None,
    ) -> None:
        super().__init__()
        self.host, self.reducer, self.specials, self.recipe = host, reducer, specials, recipe
        self.config: Any = self.Config() if config is None else config
        self.everywhere = recipe.negatives == "global"
        self._encoded: list[tuple[Tensor, Tokens]] = []
        # The unreduced tower as it was at the start, which some methods are distilled from.
        self.dense_tower = deepcopy(host.vision).eval().requires_grad_(False) if reducer.needs_dense else None

    @classmethod
    def check_host(cls, host: HostModel) -> None:
        """HarnessError, one line, for a host that lacks what these losses ask of it."""
        lacking = [*sorted(cls.NEEDS - host.abilities), *(part for part in cls.PARTS if not hasattr(host, part))]
        if lacking:
            raise HarnessError(
                f"{cls.__name__}: {type(host).__name__} has no {', '.join(lacking)}; name another objective or host"
            )

    @classmethod
    def batches(cls, asked: Asked, config: Any) -> Batches:
        """Where batches come from: by default the augmented pairs of the data that are named.

        An objective with data of its own makes them here. HarnessError for data that it cannot use.
        """
        return pair_batches(asked, cls.VIEWS, cls.TEXTS)

    @classmethod
    def same_batches(cls, other: type[Any]) -> bool:
        """Whether another objective takes the very batches that this one does."""
        kinds: tuple[Any, Any] = cls, other
        mine, others = ((kind.batches.__func__, kind.read, kind.VIEWS, kind.TEXTS) for kind in kinds)
        return bool(mine == others)

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Pairs:
        """A loader's batch as `forward` takes it, on the CPU."""
        ids, mask = tokenizer(batch.captions)
        return Pairs(batch.pixels, ids, mask, batch.sample_ids)

    def forward(self, pairs: Any, moment: Moment) -> Losses:
        """The losses of a batch by name, the method's own among them; their sum is trained on."""
        self._encoded = []
        try:
            with reducing(self.reducer):
                return self.losses(pairs, moment) | self._of_method()
        finally:
            self._encoded = []  # no tensor of a step stays behind it

    @abstractmethod
    def losses(self, pairs: Any, moment: Moment) -> Losses:
        """The objective's own losses of a batch by name."""

    def matches(self, moment: Moment) -> bool:
        """Whether matching is trained by now, as the recipe says."""
        return moment.done >= self.recipe.matching_from

    def prepare(self) -> None:
        """Leave out of training what these losses never reach."""

    def begin(self, batches: Batches) -> None:
        """What a run begins with, also one that goes on, as reading labels of its pairs; HarnessError ends it there."""

    def before_epoch(self, epoch: int, batches: Batches, tokenizer: Tokenizer) -> None:
        """What an epoch begins with, as clustering the features of what it will show; not called where it goes on."""

    def default_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of a run that names none: the recipe's."""
        return self.recipe.steps(steps_per_epoch)

    def phase(self, step: int) -> str:
        """The phase of training that an optimizer step belongs to; at a new one the optimizer starts afresh."""
        return ""

    def enter(self, phase: str) -> None:
        """Ask for gradients of what a phase trains, and of nothing else."""

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The learning rate of optimizer step `step`, 0 .. `steps` - 1."""
        return self.recipe.rate(step, steps, steps_per_epoch)

    def decays(self, parameter: nn.Parameter) -> bool:
        """Whether weight decay works on a parameter: not on biases, norms and single numbers."""
        return parameter.ndim > 1

    def after_step(self) -> None:
        """What follows an optimizer step, as clamping a scale or moving a teacher."""

    @property
    def leaves(self) -> str:
        """The pattern of the names of the host's tensors that a finished run writes: all of them."""
        return r".+"

    def config_entries(self) -> dict[str, Any]:
        """What config.json says beside the host's sizes."""
        return {}

    def encode_images(
        self, pixels: Tensor, texts: TextBatch | None, *, traced: bool = False, **guidance: Any
    ) -> Tokens:
        """Tokens of images, each reduced for its own text; `guidance`: fields of a Guide beside the text's.

        `traced`: they say in which of them each patch lives. HarnessError for guidance without a text.
        """
        if guidance and texts is None:
            raise HarnessError(f"guidance {', '.join(guidance)}: goes with a text; give the texts of the images")
        guide = None if texts is None else replace(self.host.guide(texts), **guidance)
        trace = Trace(origins_wanted=True) if traced else None
        tokens = encode(open_tower(self.host.vision), self.reducer, pixels, guide, trace)
        self._encoded.append((pixels, tokens))
        return tokens

    def _of_method(self) -> Losses:
        """What the method itself adds, the mean over what was encoded in this step, by name (`method.NAME`)."""
        found: dict[str, list[Tensor]] = {}
        for pixels, tokens in self._encoded:
            for name, loss in self.reducer.losses(tokens, self._dense(pixels)).items():
                found.setdefault(f"method.{name}", []).append(loss)
        return {name: torch.stack(losses).mean() for name, losses in found.items()}

    @torch.no_grad()
    def _dense(self, pixels: Tensor) -> Tokens | None:
        """What the tower that training started from gives for images with all their tokens, if the method asks."""
        if self.dense_tower is None:
            return None
        tower = open_tower(self.dense_tower)
        return drive(tower, tower.open(pixels), PLAIN)

    def candidates(self, rows_B: Tensor, fill: float | int | None = None) -> Tensor:
        """The rows that negatives are drawn from: (G, …) or one's own; with `fill` padded to one width first."""
        if not self.everywhere:
            return rows_B
        wide = rows_B if fill is None else distributed.pad_to_widest(rows_B, fill)
        return distributed.gather_with_gradient(wide) if wide.is_floating_point() else distributed.gather(wide)

    def candidate_tokens(self, tokens: Tokens) -> Tokens:
        """The tokens that negatives are drawn from: of all processes, padded to one width, or one's own."""
        if not self.everywhere:
            return tokens
        if tokens.mask is None and not self.reducer.adaptive:
            return tokens.with_states(self.candidates(tokens.states))
        return Tokens(self.candidates(tokens.states, 0.0), self.candidates(tokens.standing, 0), prefix=tokens.prefix)

    def own(self, count: int, device: torch.device) -> Tensor:
        """Where one's own rows stand among the candidates, (B,)."""
        return distributed.own_rows(count, device) if self.everywhere else torch.arange(count, device=device)


def select_words(ids_BL: Tensor, specials: Specials, sample_ids_B: Tensor, moment: Moment, rate: float) -> Tensor:
    """Which words are hidden, (B, L): each ordinary token with probability `rate`."""
    drawn = uniform(sample_ids_B, ids_BL.shape[1], moment.seed, MASKS, moment.epoch)
    ordinary = torch.stack([ids_BL != token for token in specials.never_masked]).all(0)
    return (drawn < rate) & ordinary


def mask_words(
    ids_BL: Tensor, specials: Specials, sample_ids_B: Tensor, moment: Moment, vocabulary: int, rate: float = 0.15
) -> tuple[Tensor, Tensor]:
    """BERT's masking: of the chosen words 80 % become [MASK], 10 % any word, 10 % stay; ids and labels (B, L).

    Labels hold the chosen words and IGNORED elsewhere. The draw depends on seed, epoch and sample alone.
    """
    if specials.mask is None:
        raise HarnessError("the vocabulary has no mask token: words cannot be hidden")
    length = ids_BL.shape[1]
    hidden = select_words(ids_BL, specials, sample_ids_B, moment, rate)
    how = uniform(sample_ids_B, length, moment.seed, MASK_KINDS, moment.epoch)
    word = (uniform(sample_ids_B, length, moment.seed, MASK_WORDS, moment.epoch) * vocabulary).long()
    masked = torch.where(hidden & (how < 0.8), specials.mask, ids_BL)
    masked = torch.where(hidden & (how >= 0.9), word, masked)
    return masked, ids_BL.masked_fill(~hidden, IGNORED)


def word_loss(logits_BLV: Tensor, labels_BL: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the labelled words, divided by their number over all processes."""
    total = F.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return distributed.global_mean(total, (labels_BL != IGNORED).sum())


def soft_word_loss(logits_BLV: Tensor, targets_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Cross-entropy against soft targets (probabilities) at the labelled words."""
    each = -(logits_BLV.log_softmax(-1) * targets_BLV).sum(-1)
    chosen = labels_BL != IGNORED
    return distributed.global_mean((each * chosen).sum(), chosen.sum())


def soft_contrast(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean cross-entropy of rows against soft targets."""
    return -(logits_BC.log_softmax(dim=1) * targets_BC).sum(dim=1).mean()


def distilled_targets(similarity_BC: Tensor, right_BC: Tensor, alpha: float) -> Tensor:
    """alpha * softmax(momentum similarity) + (1 - alpha) * the right columns of each row, in equal shares."""
    right = right_BC.to(similarity_BC.dtype)
    return alpha * similarity_BC.softmax(dim=1) + (1 - alpha) * right / right.sum(dim=1, keepdim=True)


def hard_negatives(
    logits_BC: Tensor,
    right_BC: Tensor,
    sample_ids_B: Tensor,
    moment: Moment,
    purpose: int,
    floor: float = 0.0,
) -> Tensor:
    """For each row a column (B,) that is not right, drawn in proportion to softmax(logits) + `floor`.

    Where the softmax leaves nothing to the wrong ones, any of them will do; where none is wrong, any column.
    """
    weights = (logits_BC.detach().softmax(dim=1) + floor).masked_fill(right_BC, 0)
    for others in (~right_BC, torch.ones_like(right_BC)):
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, others.to(weights.dtype))
    return categorical(weights, uniform(sample_ids_B, 1, moment.seed, purpose, moment.step)[:, 0])


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {field.name: _moved(getattr(value, field.name), device, dtype) for field in fields(value)}
        return replace(value, **moved)
    return value
