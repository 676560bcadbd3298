"""Where a method reduces and how much: begin blocks, keep ratios, and the algebra between a ratio and tokens.

Torch-free. The measure of every budget is the *token ratio*: the mean over blocks of the patch-derived tokens
that enter the block's MLP, divided by n0, the number of patch tokens at the input; merged tokens count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.kit.errors import HarnessError
from harness.kit.reading import read_json, read_yaml
from harness.kit.settings import validated

GAMMA_MAX = 4096.0
MOST_REMOVED = 2**20  # a block; beyond it floating point counts wrong, and no tower has as many
LONGEST_SHOWN = 100
Ratio = Annotated[float, Field(gt=0, le=1)]


def geometric(rate: float, stages: int) -> tuple[float, ...]:
    """What stays of the input when each stage leaves `rate` of what the one before left."""
    return tuple(rate**stage for stage in range(1, stages + 1))


def per_block(r: float, inflect: float, depth: int) -> list[int]:
    """Tokens to remove in each block: r, fractions spread evenly; or from r(1 - inflect) to r(1 + inflect) in a line.

    The latter in whole numbers, as ToMe's program does (facebookresearch/ToMe, tome/utils.py, `parse_r`). HarnessError
    for more than any tower has.
    """
    if not abs(r) <= MOST_REMOVED:
        raise HarnessError(f"r {r:g}: expected {MOST_REMOVED:,} tokens a block at most")
    if inflect == 0:
        return [math.floor((block + 1) * r) - math.floor(block * r) for block in range(depth)]
    first = int(r * (1 - inflect))
    step = 2 * (r - first) / max(depth - 1, 1)
    return [int(first + block * step) for block in range(depth)]


def shallower(begin: Sequence[int], depth: int) -> list[int]:
    """Begin blocks, one a stage, at the same share of a tower of `depth` blocks as in one of twelve.

    None is block 0, where there is another: some methods ask what the block before attended to.
    """
    first = min(begin[0], 1, depth - 1)
    return [max(first, block * depth // max(12, begin[-1] + 1)) for block in begin]


def other_blocks(blocks: Sequence[int], depth: int) -> str:
    """What to ask for in a tower of `depth` blocks, of a method that takes `blocks`."""
    given = ",".join(map(str, dict.fromkeys(shallower(blocks, depth))))
    return f"the tower has blocks 0 to {depth - 1}; give others, as blocks=[{given}]"


class Schedule(BaseModel):
    """Stages of a reduction: stage s happens at block `begin[s]` and leaves `keep[s]` of the input's n0 patches.

    `keep` is relative to n0 whatever a method's own convention. `lookahead[s]` is how many blocks a look-ahead
    score looks at (ELIP); left out, each stage looks as far as the next one begins, the last to the end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    begin: tuple[int, ...] = Field(min_length=1)
    keep: tuple[float, ...] = Field(min_length=1)
    lookahead: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        stages = len(self.begin)
        for name, values in (("keep", self.keep), ("lookahead", self.lookahead)):
            if values is not None and len(values) != stages:
                raise ValueError(f"{name} has {len(values)} entries and begin has {stages}: give one per stage")
        if any(b < 0 for b in self.begin) or any(a >= b for a, b in zip(self.begin, self.begin[1:])):
            raise ValueError(f"begin {list(self.begin)}: expected block numbers from 0 in increasing order")
        for stage, ratio in enumerate(self.keep, 1):
            if not 0 < ratio <= 1:
                raise ValueError(f"keep ratio {ratio:g} for stage {stage}: expected 0 < ratio <= 1")
        for stage, (before, after) in enumerate(zip(self.keep, self.keep[1:]), 2):
            if after > before:
                raise ValueError(
                    f"keep ratio {after:g} for stage {stage} keeps more tokens than there are after "
                    f"{before:g}: expected ratios that do not rise"
                )
        if self.lookahead is not None and any(value < 1 for value in self.lookahead):
            raise ValueError(f"lookahead {list(self.lookahead)}: expected at least one block per stage")
        return self

    def bend(self, gamma: float) -> Schedule:
        """The same shape at another budget: keep_k^gamma; gamma 1 is the schedule itself, 0 keeps everything."""
        return self.model_copy(update={"keep": tuple(ratio**gamma for ratio in self.keep)})

    def counts(self, patches: int) -> tuple[int, ...]:
        """Tokens to keep at each stage, K = int(n0 * keep), at least one (ELIP's convention)."""
        return tuple(max(1, int(patches * ratio)) for ratio in self.keep)

    def lookaheads(self, depth: int) -> tuple[int, ...]:
        """Look-ahead of each stage; by default up to the next begin block, as the paper's 2,6,2 for 2,4,10."""
        if self.lookahead is not None:
            return self.lookahead
        return tuple(b - a for a, b in zip(self.begin, (*self.begin[1:], depth)))

    def check_depth(self, depth: int, *, lookahead: bool = False) -> None:
        """Raise HarnessError when a stage begins, or looks, beyond a tower of `depth` blocks."""
        for stage, begin in enumerate(self.begin, 1):
            if begin >= depth:
                raise HarnessError(
                    f"begin block {begin} for stage {stage}: the tower has blocks 0 to {depth - 1}"
                    f"{self._shallower(depth)}"
                )
        if lookahead:
            for stage, (begin, look) in enumerate(zip(self.begin, self.lookaheads(depth)), 1):
                if begin + look > depth:
                    least = [min(ahead, depth - start) for start, ahead in zip(self.begin, self.lookaheads(depth))]
                    own = self.model_copy(update={"lookahead": tuple(least)})
                    raise HarnessError(
                        f"begin {begin} plus look-ahead {look} for stage {stage} goes beyond the tower's {depth} "
                        f"blocks; give it a schedule of its own, as {own.spec()!r}"
                    )

    def _shallower(self, depth: int) -> str:
        """What to ask for in a tower of `depth` blocks; of stages that meet in one block the last."""
        keep = dict(zip(shallower(self.begin, depth), self.keep))
        own = Schedule(begin=tuple(keep), keep=tuple(keep.values()))
        return f"; give it a schedule of its own, as {own.spec()!r}"

    def spec(self) -> str:
        """The schedule as the SPEC string that `parse_schedule` reads back."""
        parts = [("begin", self.begin), ("keep", self.keep), ("lookahead", self.lookahead)]
        return " ".join(f"{name}=" + ",".join(f"{v:g}" for v in values) for name, values in parts if values)


def parse_schedule(spec: str | dict[str, Any] | None) -> Schedule | None:
    """Read a SPEC: 'paper' (None: the method's own), 'begin=2,4,10 keep=.9,.65,.4 [lookahead=2,6,2]', or a file.

    Raises HarnessError in one line for anything else.
    """
    if spec is None or spec == "paper":
        return None
    if isinstance(spec, str):
        fields = (
            _schedule_file(Path(spec)) if Path(spec).suffix in {".yaml", ".yml", ".json"} else _schedule_words(spec)
        )
    else:
        fields = spec
    return validated(Schedule, fields, f"schedule {_shown(spec)}")


def _schedule_file(path: Path) -> dict[str, Any]:
    read = read_json if path.suffix == ".json" else read_yaml
    fields = read(path)
    if not isinstance(fields, dict):
        raise HarnessError(f"schedule file {path}: expected the keys begin, keep and, optionally, lookahead")
    return fields


def _shown(spec: str | dict[str, Any]) -> str:
    """What was given, cut where it is long."""
    text = repr(spec)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _schedule_words(spec: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for word in spec.replace(";", " ").split():
        name, equals, values = word.partition("=")
        if not equals or name in fields:
            raise HarnessError(
                f"schedule {_shown(spec)}: expected 'paper', 'begin=2,4,10 keep=.9,.65,.4 [lookahead=2,6,2]' or a "
                "YAML or JSON file"
            )
        fields[name] = [value for value in values.split(",") if value]
    return fields


def parse_ratios(text: str) -> tuple[float, ...]:
    """Read '0.5,0.7'; raises HarnessError unless every entry is a number in (0, 1]."""
    return tuple(check_ratio(word) for word in re.split(r"[,\s]+", text.strip()) if word) or (check_ratio(text),)


def check_ratio(value: str | float) -> float:
    """A token ratio in (0, 1] as a float, or HarnessError."""
    try:
        ratio = float(value)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio <= 1:
        raise HarnessError(f"ratio {value}: expected a number above 0 and at most 1")
    return ratio


def token_ratio(patches_per_mlp: Sequence[int], patches: int) -> float:
    """Mean over blocks of the patch-derived tokens entering the MLP, over n0."""
    return sum(patches_per_mlp) / (len(patches_per_mlp) * patches)


def solve(
    realised: Callable[[float], float],
    target: float,
    *,
    tolerance: float = 0.01,
    step: float = 1e-4,
    what: str = "ratio",
) -> float:
    """The bend gamma >= 0 whose realised budget is nearest to `target`.

    `realised(gamma)` falls, in steps, from its value at gamma 0; a distance below half of `step` counts as exact.
    Raises HarnessError, naming the reachable range, when the nearest value is further than `tolerance` away.
    """
    seen: dict[float, float] = {}

    def distance(gamma: float) -> float:
        if gamma not in seen:
            seen[gamma] = realised(gamma)
        return seen[gamma] - target

    if abs(distance(0.0)) <= step / 2:
        return 0.0
    low, high = 0.0, 1.0
    while distance(high) > 0 and high < GAMMA_MAX:
        low, high = high, high * 2
    while min(abs(value - target) for value in seen.values()) > step / 2 and high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) > 0 else (low, middle)
    gamma = min(seen, key=lambda gamma: (abs(seen[gamma] - target), gamma))
    if abs(seen[gamma] - target) > tolerance:
        distance(GAMMA_MAX)
        raise HarnessError(
            f"{what} {target:g} is not reachable: the nearest is {seen[gamma]:.3f}, this method and schedule reach "
            f"{min(seen.values()):.3f} to {max(seen.values()):.3f}; choose another ratio or an earlier schedule"
        )
    return gamma
