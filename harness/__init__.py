"""Benchmark and ablation harness for token reduction in vision-language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.hosts.clip_guide import clip_guide as clip_guide
    from harness.hosts.reduced import reduce as reduce
    from harness.reduction import Guide as Guide

__version__ = "0.1.0"
__all__ = ["Guide", "__version__", "clip_guide", "reduce"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used, so that the command line starts at once."""
    if name == "reduce":
        from harness.hosts.reduced import reduce

        return reduce
    if name == "Guide":
        from harness.reduction import Guide

        return Guide
    if name == "clip_guide":
        from harness.hosts.clip_guide import clip_guide

        return clip_guide
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
