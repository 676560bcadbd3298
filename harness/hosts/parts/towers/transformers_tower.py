"""What transformers' vision models share as towers, whatever their release names their parts.

Releases of transformers 5 name the parts of a block differently (`attention.attention.query` and `attention.q_proj`,
`encoder.layer` and `layers`); both are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.hosts.parts.towers.tower import PreNormBlock, PreNormTower, Projection, Separate, VisionTower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPooling


class TransformersTower(VisionTower):
    """What transformers' vision models share. `resizes`: they interpolate their positions where they are asked to."""

    package = "transformers"
    class_token = True
    prefix = 1

    def __init__(self, model: nn.Module) -> None:
        # Up to 5.17 a wrapper `vision_model` stands between CLIP's, BLIP's and SigLIP's models and their parts.
        self.core: Any = getattr(model, "vision_model", model)
        config: Any = self.core.config
        height, width = pair(config.image_size)
        rows, columns = pair(config.patch_size)
        grid = height // rows, width // columns
        shape = StackShape(
            depth=config.num_hidden_layers,
            patches=grid[0] * grid[1],
            prefix=self.prefix,
            width=config.hidden_size,
            class_token=self.class_token,
            name=type(model).__name__,
            heads=config.num_attention_heads,
            grid=grid,
        )
        super().__init__(model, shape, (getattr(config, "num_channels", 3), height, width))

    @property
    def patch_projection(self) -> nn.Module:
        projection: nn.Module = self.core.embeddings.patch_embedding
        return projection

    @property
    def recomputes(self) -> bool:
        return any(bool(getattr(part, "gradient_checkpointing", False)) for part in self.core.modules())

    def pooled(self, tokens: Tokens) -> Tensor:
        found: Tensor | None = self.output(tokens).pooler_output
        return tokens.mean(tokens.prefix) if found is None else found

    def sized_for(self, images: Tensor) -> StackShape:
        rows, columns = pair(self.core.config.patch_size)
        return self.gridded(int(images.shape[-2]) // rows, int(images.shape[-1]) // columns)

    def embed(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images)

    def embed_resized(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images, interpolate_pos_encoding=True)


class BlockTower(PreNormTower, TransformersTower):
    """What ViT, DeiT and the DINOs share: class token, one norm on all tokens at the end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.blocks = [self._parts(block) for block in _layers(self.core)]

    def finish(self, tokens: Tensor) -> Tensor:
        normed: Tensor = _first(self.core, "layernorm", "norm", "post_layernorm")(tokens)
        return normed

    def output(self, tokens: Tokens) -> BaseModelOutputWithPooling:
        return model_output(tokens.states, self._pooler(tokens.states))

    def by_parts(self) -> Iterable[nn.Module]:
        for block in _layers(self.core):
            attention = _first(block, "attention", "self_attn")
            holders = [attention] if hasattr(block, "mlp") else [attention, block]
            yield attention
            yield from (holder.output for holder in holders if hasattr(holder, "output"))
            yield getattr(attention, "attention", attention)

    def _pooler(self, states: Tensor) -> Tensor | None:
        return states[:, 0, :]

    def _parts(self, block: Any) -> PreNormBlock:
        attention = block.attention
        inner = getattr(attention, "attention", attention)
        rate = _first(inner, "attention_dropout", "dropout_prob", "dropout")
        drop = getattr(block, "drop_path", nn.Identity())
        scales = [getattr(block, f"layer_scale{half}", nn.Identity()) for half in (1, 2)]
        hidden = getattr(block, "dropout", nn.Identity())
        return PreNormBlock(
            lambda tokens: _first(block, "layernorm_before", "norm1")(tokens),
            _projection(inner),
            _output(attention),
            lambda tokens: _first(block, "layernorm_after", "norm2")(tokens),
            _mlp(block),
            lambda values: drop(scales[0](hidden(values))),
            lambda values: drop(scales[1](hidden(values))),
            dropout=lambda: float(getattr(rate, "p", rate)),
        )


def model_output(states: Tensor, pooled: Tensor | None) -> BaseModelOutputWithPooling:
    """What transformers' vision models return."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling  # it takes a second to import

    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


def pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _first(module: Any, *names: str) -> Any:
    """The first of some parts that a module has."""
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise HarnessError(f"{type(module).__name__} has no {' or '.join(names)}: this release of transformers is unknown")


def _layers(core: Any) -> Sequence[nn.Module]:
    """The blocks, wherever a release keeps them."""
    holder = next((getattr(core, name) for name in ("encoder", "model") if hasattr(core, name)), core)
    return list(_first(holder, "layers", "layer"))


def _projection(attention: Any) -> Projection:
    later, earlier = ("q_proj", "k_proj", "v_proj"), ("query", "key", "value")
    _first(attention, later[0], earlier[0])
    return Separate(attention, later if hasattr(attention, later[0]) else earlier)


def _output(attention: Any) -> Callable[[Tensor, Callable[[], Tensor]], Tensor]:
    if hasattr(attention, "o_proj"):
        return lambda attended, _: attention.o_proj(attended)
    return lambda attended, _: attention.output.dropout(attention.output.dense(attended))


def _mlp(block: Any) -> Callable[[Tensor], Tensor]:
    if hasattr(block, "mlp"):
        return lambda values: block.mlp(values)
    return lambda values: block.output.dropout(block.output.dense(block.intermediate(values)))
