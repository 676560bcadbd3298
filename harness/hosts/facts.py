"""What planning asks of a host: its sizes, the shape of its tower, what it can do. A host is built for it only once.

The answers are kept from one command to the next (`harness.kit.kept`), by the code that they come from: a plan then
needs none of the packages that hosts are made of, whose import takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from harness.hosts.weights.load import stated_sizes
from harness.hosts.weights.own import file_metadata, untrained_in
from harness.hosts.weights.released_files import is_released
from harness.kit.kept import Kept
from harness.kit.provenance import versions
from harness.kit.registry import models, module_of
from harness.kit.sources import code_parts
from harness.reduction.guide import Offer
from harness.reduction.stack import StackShape

if TYPE_CHECKING:
    from harness.hosts.host import HostModel

# The packages that a host's modules come from.
PACKAGES = ("torch", "timm", "transformers")


@dataclass(frozen=True)
class HostFacts:
    """A host without its modules. shape: of its tower; config: its sizes; abilities: those that a file of
    ours leaves, of a released one without regard to its gaps; paper: its PAPER_SETTINGS.
    """

    name: str
    config: Mapping[str, Any]
    shape: StackShape
    abilities: frozenset[str]
    paper: Mapping[str, Mapping[str, Any]]

    @property
    def image_size(self) -> int:
        """Pixels of an image's side."""
        return int(self.config["image_size"])

    def skeleton(self) -> HostModel:
        """The host on the meta device, built anew."""
        from harness.hosts.build import skeleton

        return skeleton(self.name, sizes=self.config)

    @cached_property
    def vision(self) -> nn.Module:
        """The tower on the meta device."""
        return self.skeleton().vision


def host_facts(
    name: str, image_size: int | None = None, weights: Path | None = None, sizes: Mapping[str, Any] | None = None
) -> HostFacts:
    """The facts of a host at the sizes that its `weights` state (a file), or at `sizes`; `image_size` before either.

    HarnessError for a host nobody registered, for weights of another, and for a size that its patches do not divide.
    """
    released = weights is not None and is_released(weights)
    metadata = None if weights is None or released else file_metadata(weights)
    stated = stated_sizes(name, weights) if released and weights is not None else None
    key = {
        "host": name,
        "image_size": image_size,
        "sizes": sizes,
        "metadata": metadata,
        "stated": stated,
        "code": dict(code_parts("harness.hosts.build", module_of(models, name))),
        "packages": versions(*PACKAGES),
    }

    def found() -> dict[str, Any]:
        from harness.hosts.build import skeleton

        host = skeleton(name, image_size, sizes if weights is None else stated_sizes(name, weights))
        if metadata is not None and weights is not None:
            host.absent = untrained_in(metadata, weights)
        return {
            "config": host.config.model_dump(mode="json"),
            "shape": asdict(host.shape),
            "abilities": sorted(host.abilities),
            "paper": host.PAPER_SETTINGS,
        }

    made = Kept("hosts").value(key, found)
    return HostFacts(name, made["config"], _shape(made["shape"]), frozenset(made["abilities"]), made["paper"])


def _shape(fields: Mapping[str, Any]) -> StackShape:
    """A shape from JSON."""
    grid = None if fields["grid"] is None else tuple(fields["grid"])
    beside = {kind: _shape(shape) for kind, shape in fields["beside"].items()}
    return StackShape(**{**fields, "grid": grid, "beside": beside, "offer": Offer(**fields["offer"])})
