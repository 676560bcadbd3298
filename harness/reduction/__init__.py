"""The common interface of token reduction: all that a method's file needs to import.

Each name is imported when it is asked for, so that schedules can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.kit.draws import uniform as uniform
    from harness.kit.errors import HarnessError as HarnessError
    from harness.kit.settings import validated as validated
    from harness.reduction.clustering import density_peaks as density_peaks
    from harness.reduction.clustering import distances as distances
    from harness.reduction.driver import drive as drive
    from harness.reduction.driver import encode as encode
    from harness.reduction.driver import reducing as reducing
    from harness.reduction.driver import sample_keys as sample_keys
    from harness.reduction.driver import working_in as working_in
    from harness.reduction.grid import patch_grid as patch_grid
    from harness.reduction.grid import patches_in as patches_in
    from harness.reduction.grid import resized_to as resized_to
    from harness.reduction.grid import smaller_grid as smaller_grid
    from harness.reduction.guide import Guide as Guide
    from harness.reduction.indexing import add_to as add_to
    from harness.reduction.indexing import split_top as split_top
    from harness.reduction.indexing import take as take
    from harness.reduction.kernels import attention as attention
    from harness.reduction.kernels import attention_map as attention_map
    from harness.reduction.kernels import one_query_map as one_query_map
    from harness.reduction.kernels import policy_map as policy_map
    from harness.reduction.matching import bipartite as bipartite
    from harness.reduction.matching import even_and_odd as even_and_odd
    from harness.reduction.method import MethodConfig as MethodConfig
    from harness.reduction.method import TokenReducer as TokenReducer
    from harness.reduction.patch_blocks import PATCHES_OF_A_BLOCK as PATCHES_OF_A_BLOCK
    from harness.reduction.patch_blocks import check_even_grid as check_even_grid
    from harness.reduction.patch_blocks import kept_blocks as kept_blocks
    from harness.reduction.patch_blocks import kept_patches as kept_patches
    from harness.reduction.patch_blocks import removed_patches as removed_patches
    from harness.reduction.phases import PHASES as PHASES
    from harness.reduction.phases import current_phase as current_phase
    from harness.reduction.phases import phase as phase
    from harness.reduction.predicted import PredictedConfig as PredictedConfig
    from harness.reduction.predicted import PredictedStages as PredictedStages
    from harness.reduction.schedule import Ratio as Ratio
    from harness.reduction.schedule import Schedule as Schedule
    from harness.reduction.schedule import geometric as geometric
    from harness.reduction.schedule import other_blocks as other_blocks
    from harness.reduction.schedule import per_block as per_block
    from harness.reduction.smaller_images import SmallerImages as SmallerImages
    from harness.reduction.smaller_images import SmallerImagesConfig as SmallerImagesConfig
    from harness.reduction.stack import EVIDENCE_KINDS as EVIDENCE_KINDS
    from harness.reduction.stack import PLAIN as PLAIN
    from harness.reduction.stack import BlockHooks as BlockHooks
    from harness.reduction.stack import Evidence as Evidence
    from harness.reduction.stack import Stack as Stack
    from harness.reduction.stack import StackShape as StackShape
    from harness.reduction.stack import Trace as Trace
    from harness.reduction.staged import MixedStages as MixedStages
    from harness.reduction.staged import RatedConfig as RatedConfig
    from harness.reduction.staged import StagedConfig as StagedConfig
    from harness.reduction.state import Pooled as Pooled
    from harness.reduction.state import TokenState as TokenState
    from harness.reduction.tokens import Tokens as Tokens
    from harness.reduction.tokens import join as join

_HOMES = {
    "harness.kit.draws": ("uniform",),
    "harness.kit.errors": ("HarnessError",),
    "harness.kit.settings": ("validated",),
    "harness.reduction.clustering": (
        "density_peaks",
        "distances",
    ),
    "harness.reduction.driver": (
        "drive",
        "encode",
        "reducing",
        "sample_keys",
        "working_in",
    ),
    "harness.reduction.grid": (
        "patch_grid",
        "patches_in",
        "resized_to",
        "smaller_grid",
    ),
    "harness.reduction.guide": ("Guide",),
    "harness.reduction.indexing": (
        "add_to",
        "split_top",
        "take",
    ),
    "harness.reduction.kernels": (
        "attention",
        "attention_map",
        "one_query_map",
        "policy_map",
    ),
    "harness.reduction.matching": (
        "bipartite",
        "even_and_odd",
    ),
    "harness.reduction.method": (
        "MethodConfig",
        "TokenReducer",
    ),
    "harness.reduction.patch_blocks": (
        "check_even_grid",
        "kept_blocks",
        "kept_patches",
        "PATCHES_OF_A_BLOCK",
        "removed_patches",
    ),
    "harness.reduction.phases": (
        "current_phase",
        "phase",
        "PHASES",
    ),
    "harness.reduction.predicted": (
        "PredictedConfig",
        "PredictedStages",
    ),
    "harness.reduction.schedule": (
        "geometric",
        "other_blocks",
        "per_block",
        "Ratio",
        "Schedule",
    ),
    "harness.reduction.smaller_images": ("SmallerImages", "SmallerImagesConfig"),
    "harness.reduction.stack": (
        "BlockHooks",
        "Evidence",
        "EVIDENCE_KINDS",
        "PLAIN",
        "Stack",
        "StackShape",
        "Trace",
    ),
    "harness.reduction.staged": (
        "MixedStages",
        "RatedConfig",
        "StagedConfig",
    ),
    "harness.reduction.state": (
        "Pooled",
        "TokenState",
    ),
    "harness.reduction.tokens": (
        "join",
        "Tokens",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness.reduction' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
