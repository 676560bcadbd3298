"""Random: keep tokens drawn uniformly, as many in every block as another method keeps. The control for any score."""

from torch import Tensor

from harness.reduction import (
    Evidence,
    Guide,
    HarnessError,
    MethodConfig,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    split_top,
    uniform,
)


class RandomConfig(MethodConfig):
    """like: the method whose token counts are taken (at the same ratio and schedule); filled in by the harness:
    attention_tokens and mlp_tokens, the patch-derived tokens entering each block's attention and MLP.
    """

    like: str = "elip"
    seed: int = 0
    attention_tokens: tuple[int, ...] = ()
    mlp_tokens: tuple[int, ...] = ()


class Random(TokenReducer[RandomConfig]):
    """Uniform choice without merging. An image's draw depends on the seed and its own pixels, not on its batch."""

    Config = RandomConfig
    stochastic = True

    def __init__(self, config: RandomConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        everything = (shape.patches,) * shape.depth
        for counts in (config.attention_tokens, config.mlp_tokens):
            if counts and len(counts) != shape.depth:
                raise HarnessError(f"{len(counts)} token counts for {shape.depth} blocks: leave them to the harness")
        self.attention_counts = config.attention_tokens or everything
        self.mlp_counts = config.mlp_tokens or everything

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        return self.choose(2 * block, state, self.attention_counts[block])

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        return self.choose(2 * block + 1, state, self.mlp_counts[block])

    def choose(self, step: int, state: TokenState, count: int) -> TokenState:
        """Keep `count` tokens in their order; the draw is made afresh at every step."""
        if count >= state.patches or state.sample_keys is None:
            return state
        kept, _ = split_top(self.draw(step, state.sample_keys, state.patches), count)
        return state.keep(kept.sort(dim=1).values)

    def draw(self, step: int, keys: Tensor, patches: int) -> Tensor:
        """Pseudo-random (B, P) from (seed, image, step, token)."""
        return uniform(keys, patches, self.config.seed, step)
