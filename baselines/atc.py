"""ATC: agglomerative clustering of the keys, clusters merged by size (ECCV 2024, arXiv 2409.11923)."""

from heapq import heappush, heappushpop
from typing import Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt
from scipy.cluster.hierarchy import linkage as dendrogram
from torch import Tensor
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    HarnessError,
    StackShape,
    StagedConfig,
    TokenReducer,
    TokenState,
    per_block,
    phase,
)


class ATCConfig(StagedConfig):
    """variant: `staged`, the program that is fine-tuned: K = int(n0 keep) at `schedule.begin`; `off_the_shelf`, the one
    for pre-trained models: in every block, r and inflect as in ToMe, or r_per_block.

    r_counts_class_token: the off-the-shelf program asks for N - r clusters of the N - 1 patches, so that r removes
    r - 1 and r = 1 none. The default, False, removes r. proportional_attention: off, tokens also merge as if each
    counted one (staged), or by their sizes all the same (off the shelf).
    """

    variant: Literal["staged", "off_the_shelf"] = "staged"
    linkage: Literal["average", "complete", "single"] = "average"
    r: float = Field(default=8, ge=0)
    inflect: float = Field(default=0, ge=-1, le=1)
    r_per_block: tuple[NonNegativeInt, ...] | None = None
    r_counts_class_token: bool = False
    proportional_attention: bool = True

    def bent(self, gamma: float) -> "ATCConfig":
        if self.variant == "staged":
            return super().bent(gamma)
        if self.r_per_block:
            raise HarnessError("r_per_block sets the budget already: leave out r_per_block or the ratio")
        return self.model_copy(update={"r": float(gamma)})

    def removed(self, shape: StackShape) -> list[int]:
        """r of each block of the off-the-shelf variant, as in ToMe's schedule; fractions are spread evenly."""
        return list(self.r_per_block or per_block(self.r, self.inflect, shape.depth))[: shape.depth]


class ATC(TokenReducer[ATCConfig]):
    """Between attention and MLP; the distance of two tokens is 1 - cosine of their keys' means over heads.

    Rests on JoakimHaurum/ATC: ATC_setup/models/atc.py, SSLBackbone_setup/token_reduc. Clusters are found on the CPU,
    one image after the other, by scipy; tokens stand in scikit-learn's order of labels, as in the program.
    """

    Config = ATCConfig

    def __init__(self, config: ATCConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        if config.variant == "staged":
            self.clusters = {block: count for block, (_, count) in config.stages(shape).items()}
        else:
            self.clusters, current = {}, shape.patches
            for block, removed in enumerate(config.removed(shape)):
                if removed:
                    current = max(1, current - removed + config.r_counts_class_token)
                    self.clusters[block] = min(current, shape.patches)

    @property
    def proportional_attention(self) -> bool:
        return self.config.proportional_attention

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"keys"}) if block in self.clusters else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        if evidence.keys is None:
            return state
        count = self.clusters[block]
        with torch.no_grad(), phase("matching"):
            unit = F.normalize(evidence.keys[:, state.prefix :], dim=-1)
            into = cluster_labels(1 - unit @ unit.transpose(1, 2), count, self.config.linkage)
        forget = self.config.variant == "staged" and not self.proportional_attention
        return state.group(into, count, torch.ones_like(state.patch_sizes) if forget else None)


@torch.library.custom_op("baselines::cluster_labels", mutates_args=())
def cluster_labels(apart: Tensor, count: int, linkage: str) -> Tensor:
    """The cluster (B, P) of each token, of `count`, from distances (B, P, P), in scikit-learn's order of labels."""
    leaves = apart.shape[1]
    pairs = apart.detach().double().cpu()[:, *torch.triu_indices(leaves, leaves, 1)].numpy()
    if not np.isfinite(pairs).all():
        raise HarnessError(
            "method atc: keys with NaN or infinite values have no distances: look at the model and images"
        )
    found = [_labels(dendrogram(each, method=linkage)[:, :2].tolist(), count) for each in pairs]
    return torch.tensor(found, device=apart.device)


@cluster_labels.register_fake
def _(apart: Tensor, count: int, linkage: str) -> Tensor:
    return apart.new_empty(apart.shape[:2], dtype=torch.long)


def _labels(merges: list[list[float]], count: int) -> list[int]:
    """Cut a dendrogram of n leaves (row t joins two nodes to node n + t) into clusters: the label of each leaf.

    The node made last is split until there are enough; labels are places in the heap of nodes, as in scikit-learn.
    """
    children = [(int(left), int(right)) for left, right in merges]
    leaves = len(children) + 1
    heap = [-2 * (leaves - 1)]
    for _ in range(count - 1):
        left, right = children[-heap[0] - leaves]
        heappush(heap, -left)
        heappushpop(heap, -right)
    label = dict(zip((-node for node in heap), range(count)))
    for step in range(leaves - 2, -1, -1):
        if (own := label.get(leaves + step)) is not None:
            label.update(dict.fromkeys(children[step], own))
    return [label[leaf] for leaf in range(leaves)]
