"""Top-K: keep the patches the class token attends to, drop the others. A control for EViT (ICCVW 2023, 2308.04657)."""

from harness.reduction import Evidence, StackShape, StagedConfig, TokenReducer, TokenState, split_top


class TopKConfig(StagedConfig):
    """As in TokenReduction (models/topk.py): K = int(n0 keep) at `schedule.begin`; the program takes 196 for any n0."""


class TopK(TokenReducer[TopKConfig]):
    """Between attention and MLP, by the block's own class attention, mean over heads; kept tokens stand by score.

    EViT without its fused token, and counted as shares of the input (JoakimHaurum/TokenReduction, models/topk.py). It
    crashes where a stage drops nothing; here that stage sorts the tokens.
    """

    Config = TopKConfig
    needs_class_token = True

    def __init__(self, config: TopKConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.stages = config.stages(shape)

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"cls_attention"}) if block in self.stages else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        if evidence.cls_attention is None:
            return state
        _, count = self.stages[block]
        kept, _ = split_top(evidence.cls_attention, count)
        return state.keep(kept)
