"""What may be read of a module instead of calling it, and which modules a tower's loop passes by.

A tower runs a block by its parts: it calls norms, projections and MLPs, and never the block or its attention. Whatever
hangs on those (a hook, a forward of the instance's own, an adapter around them) would be left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from harness.kit.errors import HarnessError

# Of hooks that look and change nothing: transformers' collect states and maps, fvcore's name what it counts.
LOOKING_ON = ("transformers.", "fvcore.")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(linear: nn.Module) -> bool:
    """Whether a module is nothing but its product: its weight and bias may be used in its place.

    Not so for adapters (LoRA), quantised layers with a forward of their own, and whatever has hooks: call those.
    """
    return type(linear).forward is nn.Linear.forward and changed_by(linear) is None


def plain_weight(linear: nn.Module) -> Tensor | None:
    """The weight (D', D) of a plain module, None for any other."""
    return cast(nn.Linear, linear).weight if is_plain(linear) else None


def changed_by(module: nn.Module) -> str | None:
    """What makes calling a module more than its class's forward, in words; None where nothing does.

    Hooks of LOOKING_ON are none.
    """
    if "forward" in vars(module):
        return "a forward of its own"
    for kind in HOOKS:
        for hook in getattr(module, kind).values():
            if not str(getattr(hook, "__module__", "")).startswith(LOOKING_ON):
                return "a hook"
    return None


def check_not_called(model: nn.Module, by_parts: Iterable[nn.Module], package: str | None = None) -> None:
    """HarnessError where a module that is run by its parts, or one around it, does more than its class's forward.

    `by_parts`: the innermost ones; those around them are found, the model itself included. `package`: whose classes
    they are; a forward from elsewhere is one that nobody here has read.
    """
    inner = set(by_parts)
    names = [name for name, module in model.named_modules() if module in inner]
    around = {"", *(".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2))}
    for name in sorted(around):
        module = model.get_submodule(name)
        found = changed_by(module)
        if package is not None and type(module).forward.__module__.partition(".")[0] not in (package, "torch"):
            found = f"a forward ({type(module).__name__}'s) that is not {package}'s"
        if found is not None:
            place = f"{type(model).__name__}.{name}" if name else type(model).__name__
            raise HarnessError(
                f"{place} has {found}, which a reduced model would not call: it runs blocks by their parts; take it "
                "off, or put it on a part (a norm, a projection, the MLP)"
            )
