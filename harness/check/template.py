"""A working method to start from: what `new-method` writes."""

from __future__ import annotations

from pathlib import Path

from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.packages import package_folder
from harness.kit.registry import NAME, methods

TEMPLATE = '''"""{title}: say in one line what it keeps and why (shown by `list`; name the paper)."""

from torch import Tensor

from harness.reduction import Evidence, MethodConfig, TokenReducer, TokenState, StackShape, split_top
from harness.reduction.schedule import Schedule


class {title}Config(MethodConfig):
    """The paper's defaults; `--set name=value` reaches every field, `--ratios` bends the schedule."""

    schedule: Schedule = Schedule(begin=(3, 6, 9), keep=(0.7, 0.5, 0.35))


class {title}(TokenReducer[{title}Config]):
    """Between attention and MLP, keep the tokens with the largest norm."""

    Config = {title}Config

    def __init__(self, config: {title}Config, shape: StackShape) -> None:
        super().__init__(config, shape)
        config.schedule.check_depth(shape.depth)
        self.counts = dict(zip(config.schedule.begin, config.schedule.counts(shape.patches)))

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        count = self.counts.get(block, state.patches)
        if count >= state.patches:
            return state
        scores: Tensor = state.patch_tokens.norm(dim=-1)
        kept, _ = split_top(scores, count)
        return state.keep(kept.sort(dim=1).values)
'''


def write_template(name: str, folder: Path | None = None) -> Path:
    """Write baselines/NAME.py; HarnessError for a bad or taken name, or a folder that cannot be written."""
    if not NAME.fullmatch(name) or "-" in name:
        raise HarnessError(f"method name {name!r}: expected lower-case letters, digits and _")
    if name in methods.names():
        raise HarnessError(f"method {name!r} exists already ({methods.entry(name).target}): choose another name")
    path = (folder or package_folder("baselines")) / f"{name}.py"
    title = "".join(part.capitalize() for part in name.split("_"))
    if path.exists():
        raise HarnessError(f"{path}: exists already; choose another name or folder")
    if not path.parent.is_dir():
        raise HarnessError(f"{path}: cannot be written (no such folder); make it first or choose another --folder")
    write_atomically(path, TEMPLATE.format(title=title).encode())
    return path
