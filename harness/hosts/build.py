"""Host models from their names: the class, its sizes, and a model with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.hosts.host import HostConfig, HostModel
from harness.kit.errors import HarnessError
from harness.kit.registry import methods, models
from harness.kit.settings import validated

AT_LEAST_ONE = ("image_size", "patch_size", "width", "depth", "heads")
# Far above every model that there is, and far below what would end a machine.
MOST_LAYERS, LARGEST_SIZE = 1000, 2**20


# What draws and fills a new tensor: on the meta device there is nothing to fill, but each takes as long as on any.
_IN_PLACE = ("normal_", "uniform_", "fill_", "zero_", "erfinv_", "clamp_", "mul_", "add_", "copy_")
_OF_INIT = ("normal_", "uniform_", "constant_", "kaiming_uniform_")
DRAWS = frozenset([*(getattr(Tensor, name) for name in _IN_PLACE), *(getattr(nn.init, name) for name in _OF_INIT)])


class Undrawn(TorchFunctionMode):
    """Inside, tensors without data are left as they are by what would draw or fill them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in DRAWS:
            filled: Tensor = given["tensor"] if "tensor" in given else args[0]
            if filled.is_meta:
                return filled
        return func(*args, **given)


def split_name(name: str) -> tuple[str, str]:
    """('albef', 'tiny') of 'albef-tiny'; HarnessError for a host nobody registered."""
    models.entry(name)
    family, _, preset = name.partition("/") if "/" in name else name.rpartition("-")
    return family, preset


def host_class(name: str) -> type[HostModel]:
    """The class of a host by its name; HarnessError for a host nobody registered."""
    found: type[HostModel] = models.get(name)
    return found


def host_config(name: str, **changes: Any) -> HostConfig:
    """The sizes of a host's preset, some of them changed; HarnessError for sizes that cannot be."""
    kind = host_class(name)
    preset = kind.preset(name)
    given = {key: value for key, value in changes.items() if value is not None}
    config = validated(kind.Config, preset | given, f"model {name}")
    _check_sizes(name, given)
    if config.image_size % config.patch_size and config.image_size != preset["image_size"]:
        raise HarnessError(f"image size {config.image_size}: expected a multiple of the patch size {config.patch_size}")
    return config


def _check_sizes(name: str, given: Mapping[str, Any]) -> None:
    """HarnessError for changed sizes that no host has: none at all, or so many that no machine holds them."""
    for field, size in given.items():
        if not isinstance(size, int):
            continue
        least = 1 if field in AT_LEAST_ONE else 0
        most = MOST_LAYERS if field == "depth" or field.endswith("_layers") else LARGEST_SIZE
        if not least <= size <= most:
            raise HarnessError(f"model {name}: {field} {size}: expected {least} to {most:,}")


def build_host(name: str, **changes: Any) -> HostModel:
    """A host with random weights, drawn from torch's current generator."""
    return host_class(name)(host_config(name, **changes))


def skeleton(name: str, image_size: int | None = None, sizes: Mapping[str, Any] | None = None) -> HostModel:
    """The host on the meta device: shapes without weights, `image_size` before that of `sizes`.

    HarnessError for a size its patches do not divide.
    """
    asked = {} if image_size is None else {"image_size": image_size}
    with torch.device("meta"), Undrawn():
        return build_host(name, **{**(sizes or {}), **asked}).eval()


def paper_settings(
    name: str,
    method: str,
    schedule: Any = None,
    settings: Mapping[str, Any] | None = None,
    papers: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, Any], Any]:
    """A method's settings and schedule for this host: the user's own before the paper's for the host.

    A control that is `like` another method takes that method's schedule. `papers`: the host's PAPER_SETTINGS, where
    they are known without its class.
    """
    given = dict(settings or {})
    fields = methods.get(method).Config.model_fields
    compared = given.get("like", fields["like"].default) if "like" in fields else method
    paper = dict((host_class(name).PAPER_SETTINGS if papers is None else papers).get(compared, {}))
    own = paper.pop("schedule", None)
    if schedule in (None, "paper") and "schedule" not in given:
        schedule = own
    return (given if compared != method else paper | given), schedule
