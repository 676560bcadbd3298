"""Weights of the released programs: their tensor names are translated, and every tensor is accounted for.

A host translates one name at a time (`HostModel.released`, and `HostModel.part` for files that initialise its vision
tower or its text side). A tensor is loaded, or is the double of a tied one (and must equal it), or is no weight of the
host (momentum twin, queue, position ids: named in the report); a name that the host does not know means another
architecture. What a file lacks must be what the host says that files of some kind lack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.kit.errors import HarnessError

# Of timm's ViT, and of transformers' CLIP vision model before and after it lost its inner `vision_model`.
POSITION_TABLES = (
    "vision.pos_embed",
    "vision.vision_model.embeddings.position_embedding.weight",
    "vision.embeddings.position_embedding.weight",
)


@dataclass(frozen=True)
class Tied:
    """A second name of a tensor that the host holds once."""

    name: str


@dataclass(frozen=True)
class NotAWeight:
    """A tensor that the host does not hold, and why."""

    reason: str


@dataclass(frozen=True)
class Split:
    """One tensor that the host holds in equal parts along the first axis (fused q, k, v)."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Transposed:
    """A matrix that the host holds as a Linear's weight, (out, in)."""

    name: str


@dataclass(frozen=True)
class Copied:
    """One tensor from which several of the host's start."""

    names: tuple[str, ...]


Target = str | Split | Transposed | Copied | Tied | NotAWeight
Translation = Target | None
Table = Sequence[tuple[str, Target]]
# Patterns of the host's own names, and why a file may lack what they fit: all of it, not some.
Lacking = Sequence[tuple[str, str]]


def translate(name: str, table: Table) -> Translation:
    """The first row of the table whose pattern fits the whole name, its groups filled in; None where none fits."""
    for pattern, target in table:
        found = re.fullmatch(pattern, name)
        if found:
            if isinstance(target, NotAWeight):
                return target
            if isinstance(target, Split | Copied):
                return type(target)(tuple(found.expand(part) for part in target.names))
            return found.expand(target) if isinstance(target, str) else type(target)(found.expand(target.name))
    return None


BERT_REST: Table = (
    (r"pooler\..+", NotAWeight("the pooler, which no host uses")),
    (r"cls\.seq_relationship\..+", NotAWeight("the head for the next sentence, which no host uses")),
    (r"embeddings\.(position_ids|token_type_ids)", NotAWeight("numbers of the positions")),
)


@dataclass(frozen=True)
class Part:
    """A part of a host that files of other models can initialise.

    `translate`: what a tensor of the file is here; `holds`: the pattern of the part's own names; `lacking`: which of
    them a file may lack; `grown`: tables to which the host has added rows, so that a file fills the first ones only.
    """

    translate: Callable[[str], Translation]
    holds: str
    lacking: Lacking = ()
    grown: frozenset[str] = frozenset()


@dataclass
class LoadReport:
    """What became of every tensor: loaded, resized, left out with its reason; and what the file did not hold, and why.

    `missing`: own names in the host's order; `reasons`: why a file may lack them. `guessed`: facts of the architecture
    that nothing beside the file states. `passed_over`: where else the file holds tensors, as an average of these.
    """

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """What was chosen for want of a statement: facts that are guessed, and which of several sets of tensors."""
        others = [f"passed over: the tensors in {', '.join(self.passed_over)}"] if self.passed_over else []
        return [f"guessed: {fact}" for fact in self.guessed] + others

    def lines(self) -> list[str]:
        """One line per kind, then one per tensor that was not loaded or not found."""
        found = [f"{len(self.loaded)} tensors loaded, {len(self.resized)} of them resized"]
        found += self.remarks()
        found += [f"resized: {name}" for name in self.resized]
        found += [f"not loaded: {name} ({reason})" for name, reason in self.left_out.items()]
        return found + [f"not in the file, left as initialised: {name} ({self.reasons[name]})" for name in self.missing]


class Host(Protocol):
    """What a model tells of itself to be filled (see harness.hosts.host.HostModel)."""

    def released(self, name: str) -> Translation: ...
    def part(self, name: str) -> Part: ...
    def lacking(self) -> Lacking: ...
    def filled(self, missing: Sequence[str]) -> None: ...
    def on_differing_double(self) -> str: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Any: ...


def load_released(model: Host, tensors: dict[str, Tensor], source: str) -> LoadReport:
    """Fill a host from a released program's tensors; the report accounts for every one of them.

    Position tables of another resolution are interpolated; what the host starts from what the file holds is derived
    (`HostModel.filled`). Raises HarnessError for a file of another architecture (unknown names, other shapes, a tied
    double that differs) and for one that lacks what no kind of file may lack (`HostModel.lacking`).
    """
    report = fill_part(model, tensors, source, Part(model.released, ".+", model.lacking()))
    model.filled(report.missing)
    return report


def load_parts(model: Host, tensors: dict[str, Tensor], source: str, part: str) -> LoadReport:
    """Initialise a host's "vision" (timm's ViT and DeiT, CLIP's tower) or "text" (BERT, RoBERTa); all else stays.

    A released file of the whole host serves as well: what lies in its other parts is left out.
    The report accounts for every tensor of the file, and for every one of the part that the file does not hold.
    Raises HarnessError as `load_released` does, and for a part that the host cannot take from elsewhere.
    """
    own = model.part(part)
    foreign = any(own.translate(name) is None for name in tensors)
    if foreign and all(model.released(name) is not None for name in tensors):
        own = Part(lambda name: _within(own.holds, model.released(name)), own.holds, own.lacking)
    return fill_part(model, tensors, source, own)


def _within(holds: str, target: Translation) -> Translation:
    """A target all of whose places lie in a part, else why it is left out."""
    if target is None or isinstance(target, NotAWeight):
        return target
    named = (
        target.names if isinstance(target, Split | Copied) else (target if isinstance(target, str) else target.name,)
    )
    return target if all(re.fullmatch(holds, name) for name in named) else NotAWeight("of another part of the host")


def fill_part(model: Host, tensors: dict[str, Tensor], source: str, part: Part) -> LoadReport:
    """Fill what a part holds from tensors as its `translate` places them; report and errors as of `load_parts`.

    A host on the meta device stays empty: the report says what would become of each tensor.
    """
    report, filled, tied = LoadReport(), dict[str, Tensor](), dict[str, str]()
    sources: dict[str, str] = {}
    own = model.state_dict()
    unknown, misfits = [], []

    def place(name: str, where: str, tensor: Tensor) -> Tensor | None:
        if where in own and (reason := _no_weight(tensor, own[where])):
            raise _another(model, source, f"{name} is {reason}", 1)
        fitted = fit(where, tensor, own.get(where), where in part.grown)
        if fitted is None:
            expected = tuple(own[where].shape) if where in own else "no such tensor"
            misfits.append(f"{name} is {tuple(tensors[name].shape)}, expected {expected}")
        return fitted

    for name, tensor in tensors.items():
        target = part.translate(name)
        if target is None:
            unknown.append(name)
        elif isinstance(target, NotAWeight):
            report.left_out[name] = target.reason
        elif isinstance(target, Tied):
            tied[name] = target.name
        else:
            for where, piece in parts(target, tensor):
                if (fitted := place(name, where, piece)) is not None:
                    if where in filled and not torch.equal(filled[where], fitted):
                        raise _another(model, source, f"{sources[where]} and {name} are both {where}, and differ", 1)
                    filled[where], sources[where] = fitted, name
                    report.resized += resizing(where, piece, fitted)
            report.loaded.append(name)
    if unknown:
        raise _another(model, source, f"it holds {unknown[0]}", len(unknown))
    for name, twin in tied.items():
        if (fitted := place(name, twin, tensors[name])) is None:
            continue
        if twin not in filled:
            filled[twin] = fitted
            report.resized += resizing(twin, tensors[name], fitted)
            report.loaded.append(name)
        elif torch.equal(filled[twin], fitted.to(filled[twin].dtype)):
            report.left_out[name] = f"double of {twin}"
        elif not misfits:
            reason = f"{name} differs from {twin}, to which it is tied{model.on_differing_double()}"
            raise _another(model, source, reason, 1)
    if misfits:
        raise _another(model, source, misfits[0], len(misfits))
    report.missing = [name for name in own if name not in filled and re.fullmatch(part.holds, name)]
    report.reasons = _allowed_to_lack(report.missing, own, part.lacking)
    damage = [name for name in report.missing if name not in report.reasons]
    if damage or not filled:
        raise _another(model, source, f"it lacks {(damage or report.missing)[0]}", len(damage or report.missing))
    if not any(tensor.is_meta for tensor in own.values()):  # a skeleton is asked what it lacks, and holds nothing
        model.load_state_dict({name: filled.get(name, own[name]) for name in own})
    return report


def _no_weight(tensor: Tensor, own: Tensor) -> str | None:
    """What a tensor is that no real numbers are, where the host holds such; None for weights."""
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if own.is_floating_point() and not tensor.is_floating_point():
        return f"of {str(tensor.dtype).removeprefix('torch.')}, where weights are real numbers"
    return None


def _allowed_to_lack(missing: Sequence[str], own: Iterable[str], lacking: Lacking) -> dict[str, str]:
    """Reasons, by name: those of the rows whose every tensor is missing."""
    reasons: dict[str, str] = {}
    for pattern, reason in lacking:
        meant = [name for name in own if re.fullmatch(pattern, name)]
        if set(meant) <= set(missing):
            reasons |= {name: reason for name in meant if name not in reasons}
    return reasons


def parts(target: str | Split | Transposed | Copied, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Where the parts of a tensor belong."""
    if isinstance(target, Split):
        return list(zip(target.names, tensor.chunk(len(target.names))))
    if isinstance(target, Copied):
        return [(name, tensor) for name in target.names]
    return [(target.name, tensor.T)] if isinstance(target, Transposed) else [(target, tensor)]


def fit(target: str, tensor: Tensor, own: Tensor | None, grown: bool = False) -> Tensor | None:
    """The tensor in the host's shape, or None where it cannot be.

    Position tables are interpolated, views reshaped; to a `grown` table the host's own last rows are added.
    """
    if own is None:
        return None
    if tensor.shape == own.shape:
        return tensor
    if target in POSITION_TABLES and tensor.shape[-1:] == own.shape[-1:] and _square_grids(tensor, own):
        return interpolate_positions(tensor, own.shape)
    if grown and tensor.shape[1:] == own.shape[1:] and len(tensor) < len(own):
        return torch.cat([tensor.to(own), own[len(tensor) :]])
    return tensor.view(own.shape) if tensor.numel() == own.numel() == max(own.shape, default=1) else None


def _square_grids(*tables: Tensor) -> bool:
    """Whether every table (…, 1 + side², D) has a class token and a square grid."""
    grids = [table.numel() // table.shape[-1] - 1 for table in tables]
    return all(grid >= 1 and math.isqrt(grid) ** 2 == grid for grid in grids)


def resizing(target: str, tensor: Tensor, fitted: Tensor) -> list[str]:
    """What the report says of a table that was interpolated or grown; nothing of one that has its own shape."""
    if fitted.shape == tensor.shape or fitted.numel() == tensor.numel():
        return []
    return [f"{target} {tuple(tensor.shape)} -> {tuple(fitted.shape)}"]


def of_bert(name: str, here: Callable[[str], Translation]) -> Translation:
    """What a tensor of transformers' BERT or RoBERTa is: `here` knows the names without their model's prefix."""
    bare = re.sub(r"^(bert|roberta)\.", "", name)
    bare = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", bare))
    return translate(bare, BERT_REST) or here(bare)


def interpolate_positions(table: Tensor, shape: Sequence[int]) -> Tensor:
    """A table (…, 1 + side², D) of a class token and a square grid of positions, its grid resized bicubically."""
    channels = table.shape[-1]
    table_ND = table.reshape(-1, channels)
    wanted = math.prod(shape) // channels
    before, after = round((len(table_ND) - 1) ** 0.5), round((wanted - 1) ** 0.5)
    if before**2 + 1 != len(table_ND) or after**2 + 1 != wanted:
        raise HarnessError(f"position table of {len(table_ND)} rows for {wanted} tokens: expected square grids")
    if before == after:
        return table.reshape(tuple(shape))
    grid = table_ND[1:].view(1, before, before, channels).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), size=(after, after), mode="bicubic", align_corners=False).to(table.dtype)
    return torch.cat([table_ND[:1], resized.permute(0, 2, 3, 1).reshape(-1, channels)]).view(tuple(shape))


def _another(model: Host, source: str, first: str, count: int) -> HarnessError:
    more = f" and {count - 1} more like it" if count > 1 else ""
    expected = f"{type(model).__name__} of this size"
    return HarnessError(f"weights {source}: not of {expected}: {first}{more}; name weights of this model")
