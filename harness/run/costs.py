"""What a method costs in a host's tower, counted once for each tower and setting and kept from one command to the next.

Counts depend on shapes and code alone. Latency is measured in every command, the costs of adaptive methods on their
images, and memory on a GPU: none of these is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from harness.cost.report import counted_parts
from harness.hosts.facts import PACKAGES
from harness.hosts.ready import pick_dtype
from harness.kit.kept import Kept
from harness.kit.provenance import versions
from harness.kit.registry import methods
from harness.reduction import StackShape
from harness.reduction.budget import make_reducer
from harness.reduction.stack import VISION
from harness.run.cell import cost_code

# What a tower does not depend on.
ASIDE = frozenset({"task"})
# What a module holds that says how it computes, beside its parts and tensors.
PLAIN = (bool, int, float, str, tuple, type(None))


class CountedCosts:
    """The counts of one command."""

    def __init__(self) -> None:
        self._kept = Kept("costs")
        self._found: dict[str, dict[str, Any]] = {}
        self._alike: dict[str, dict[str, Any]] = {}

    def of(
        self,
        model: str,
        sizes: Mapping[str, Any],
        shape: StackShape,
        method: str,
        config: Mapping[str, Any],
        dtype: str,
        vision: Callable[[], nn.Module],
    ) -> dict[str, Any]:
        """`harness.cost.report.counted_parts` of a method with fixed counts in the tower of a host of some sizes.

        vision: makes the tower where it has to be counted; it may be on the meta device. Hosts whose towers are built
        alike share the counts, and so do seeds: what a method draws changes no number of tokens.
        """
        if "seed" in config and not methods.get(method).Config.model_fields["seed"].is_required():
            config = {setting: value for setting, value in config.items() if setting != "seed"}
        if methods.get(method).stacks == VISION:  # what stands beside the tower is nothing to it
            shape = replace(shape, beside={})
        tower = (str(shape), str({name: size for name, size in sizes.items() if name not in ASIDE}))
        name = str((model, *tower, method, config, dtype))
        if name not in self._found:
            key = {
                "model": model,
                "tower": tower,
                "method": method,
                "config": config,
                "dtype": dtype,
                "code": cost_code(model, method),
                "packages": versions(*PACKAGES),
            }

            def counted() -> dict[str, Any]:
                tower = vision()
                alike = str((built(tower), replace(shape, name=""), method, config, dtype))
                if alike not in self._alike:
                    reducer = make_reducer(method, shape, settings=config)
                    dense = None
                    if method != "dense":
                        plain = make_reducer("dense", shape).config.model_dump(mode="json")
                        dense = self.of(model, sizes, shape, "dense", plain, dtype, vision)["dense"]
                    self._alike[alike] = counted_parts(tower, reducer, dtype=pick_dtype(dtype), dense=dense)
                return self._alike[alike]

            self._found[name] = self._kept.value(key, counted)
        return self._found[name]


def built(tower: nn.Module) -> list[Any]:
    """All that a tower's counts follow from: of each module its class, its tensors' sizes and its plain settings."""
    parts: list[Any] = []
    for name, module in tower.named_modules():
        tensors = {**module._parameters, **module._buffers}
        sizes = {
            one: tensor if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
            for one, tensor in tensors.items()
        }
        plain = vars(module).items()
        held = {one: value for one, value in plain if not one.startswith("_") and isinstance(value, PLAIN)}
        parts.append((name, type(module), sizes, held))
    return parts
