"""EViT: keep the patches the class token attends to, fuse the others into one token (arXiv 2202.07800)."""

from math import ceil

from harness.reduction import (
    Evidence,
    MethodConfig,
    Ratio,
    Schedule,
    StackShape,
    TokenReducer,
    TokenState,
    split_top,
    validated,
)


class EViTConfig(MethodConfig):
    """keep_rate counts ceil of the current tokens, at `blocks`; a schedule, if given, int of the input's patches."""

    keep_rate: Ratio = 0.7
    blocks: tuple[int, ...] = (3, 6, 9)
    fuse: bool = True
    schedule: Schedule | None = None

    def bent(self, gamma: float) -> "EViTConfig":
        if self.schedule is not None:
            return self.model_copy(update={"schedule": self.schedule.bend(gamma)})
        return self.model_copy(update={"keep_rate": max(self.keep_rate**gamma, 1e-9)})


class EViT(TokenReducer[EViTConfig]):
    """Between attention and MLP of three blocks, by the block's own class attention (section 3.2; youweiliang/evit).

    The fused token is the attention-weighted sum of the others; its weights are not normalised and carry gradient.
    """

    Config = EViTConfig
    needs_class_token = True

    def __init__(self, config: EViTConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        rates = {"begin": config.blocks, "keep": (config.keep_rate,) * len(config.blocks)}
        schedule = config.schedule or validated(Schedule, rates, "evit blocks")
        schedule.check_depth(shape.depth)
        self.counts: dict[int, int] = {}
        current = shape.patches
        for block, absolute in zip(schedule.begin, schedule.counts(shape.patches)):
            count = absolute if config.schedule else ceil(config.keep_rate * current)
            if count < current:
                self.counts[block] = count
                current = count + config.fuse

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"cls_attention"}) if block in self.counts else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        scores = evidence.cls_attention
        if scores is None:
            return state
        kept, dropped = split_top(scores, self.counts[block])
        reduced = state.keep(kept)
        return reduced.append(state.pool(dropped, scores.gather(1, dropped))) if self.config.fuse else reduced
