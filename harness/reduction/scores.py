"""Scores that are no numbers: what a method chooses by is watched, inside its hooks alone, for one look at the end.

A NaN has no place in an order: it would be chosen, or not, in silence, and the tokens that are kept look as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.kit.errors import HarnessError
from harness.reduction.stack import BlockHooks

# Functions that choose by value: those that give a NaN wherever they looked at one, and those that may not.
TELLING = ("max", "min", "amax", "amin", "median", "quantile")
SILENT = ("sort", "msort", "argsort", "argmax", "argmin", "topk", "kthvalue")
CHOOSING = {getattr(space, name): name for space in (torch, Tensor) for name in TELLING + SILENT}
# Where a method computes something of its own; the first argument is the block.
HOOKS = ("before_block", "attention", "cross_attention", "between", "after_block")


class NanWatch(TorchFunctionMode):
    """Keeps what tells of NaN among the values that are chosen by inside it; nothing is waited for yet."""

    def __init__(self) -> None:
        super().__init__()
        self.where = ""
        self.found: list[tuple[str, str, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs) if kwargs else func(*args)
        if func in CHOOSING:
            self._note(CHOOSING[func], args, kwargs or {}, out)
        return out

    def _note(self, name: str, args: Any, given: dict[str, Any], out: Any) -> None:
        scores: Tensor = args[0] if args else given["input"]
        dim = given.get("dim", args[1] if len(args) > 1 else -1)
        # torch.max of two tensors chooses nothing: it goes number by number.
        if scores.is_floating_point() and scores.numel() and not isinstance(dim, Tensor):
            self.found += [(self.where, name, part) for part in _telling(name, scores, dim, out)]

    def first(self) -> str:
        """The first place with a NaN, in words; empty where there is none. Waits for the device, once."""
        kept = [values.flatten() for *_, values in self.found]
        if not kept or not bool(torch.cat(kept).isnan().any()):
            return ""
        where, name, _ = next(one for one in self.found if bool(one[-1].isnan().any()))
        return f"{where}: NaN among the scores that it chooses by ({name})"


def _telling(name: str, scores: Tensor, dim: Any, out: Any) -> list[Tensor]:
    """A few values, some of which are NaN where any score is: sorted, NaN stands at one of the ends."""
    if name in TELLING:
        return [out if isinstance(out, Tensor) else out[0]]
    if name == "sort" and isinstance(dim, int):
        return [out[0].select(dim, 0), out[0].select(dim, -1)]
    return [scores.amax()]


@contextmanager
def scores_watched(hooks: BlockHooks) -> Iterator[None]:
    """Inside, whatever a method's hooks choose by is watched; HarnessError at the end where any of it was NaN.

    The line names the method, the block, its hook and the operator.
    """
    watch, kind = NanWatch(), type(hooks)

    def watched(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def inner(block: int, *given: Any, **named: Any) -> Any:
            watch.where = f"{kind.__name__}, block {block} ({name})"
            with watch:
                return hook(block, *given, **named)

        return inner

    own = [name for name in HOOKS if getattr(kind, name) is not getattr(BlockHooks, name)]
    before = {name: vars(hooks)[name] for name in own if name in vars(hooks)}
    for name in own:
        vars(hooks)[name] = watched(name, getattr(hooks, name))
    try:
        yield
    finally:
        for name in own:
            del vars(hooks)[name]
        vars(hooks).update(before)
    line = watch.first()
    if line:
        raise HarnessError(line)
