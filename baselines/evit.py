"""EViT: keep the patches the class token attends to, fuse the others into one token (arXiv 2202.07800)."""

from harness.reduction import (
    Evidence,
    RatedConfig,
    StackShape,
    TokenReducer,
    TokenState,
    split_top,
)


class EViTConfig(RatedConfig):
    """fuse: the tokens that are dropped become one."""

    blocks: tuple[int, ...] = (3, 6, 9)
    fuse: bool = True


class EViT(TokenReducer[EViTConfig]):
    """Between attention and MLP of three blocks, by the block's own class attention (section 3.2; youweiliang/evit).

    The fused token is the attention-weighted sum of the others; its weights are not normalised and carry gradient.
    """

    Config = EViTConfig
    needs_class_token = True

    def __init__(self, config: EViTConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.counts = config.counts("evit", shape, config.fuse)

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"cls_attention"}) if block in self.counts else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        scores = evidence.cls_attention
        if scores is None:
            return state
        kept, dropped = split_top(scores, self.counts[block])
        reduced = state.keep(kept)
        return reduced.append(state.pool(dropped, scores.gather(1, dropped))) if self.config.fuse else reduced
