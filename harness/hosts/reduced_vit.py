"""A ViT with a token-reduction method inside, called like the ViT itself.

Shapes: B images, N tokens, D channels, n0 patches.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from harness.hosts.parts.plain_modules import check_not_called
from harness.hosts.parts.towers import VisionTower, open_tower
from harness.hosts.parts.towers.siglip import Siglip2Tower
from harness.hosts.parts.towers.transformers_tower import TransformersTower
from harness.kit import recompute
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.reduction import Guide, StackShape, TokenReducer, Tokens, Trace, drive, encode, join

Make = Callable[[StackShape], TokenReducer[Any]]
# Methods of a wrapped model that run none of its blocks; every other one is to be called on the model itself.
PASSED_ON = frozenset(
    {"forward_head", "get_classifier", "reset_classifier", "no_weight_decay", "set_grad_checkpointing"}
    | {"gradient_checkpointing_enable", "gradient_checkpointing_disable", "get_input_embeddings", "post_init"}
    | {"num_parameters"}
)
# Methods of transformers' models that write the model to a folder.
SAVING = frozenset({"save_pretrained", "push_to_hub"})
CALL_WITH_GUIDE = "call with guide=harness.Guide(text_cls), in a CLIP with harness.clip_guide(model, text_features)"


class Wrapper(nn.Module):
    """A module around `model`: what it does not have itself is asked of the model.

    What saves the model writes it as it is without the method, under its own names: the folder is one of the model's
    class, to be loaded and reduced anew. `state_dict` is of all of this module, what the method learned included.
    """

    model: nn.Module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "model" not in self.__dict__.get("_modules", {}) or name.startswith("__"):
                raise
        return self.of_model(name)

    def of_model(self, name: str) -> Any:
        """An attribute that the model has and this module does not."""
        found = getattr(self.model, name)
        return partial(self._saved, found) if name in SAVING else found

    @contextmanager
    def unreduced(self) -> Iterator[nn.Module]:
        """The model without the method, for the length of the block."""
        yield self.model

    def _saved(self, save: Callable[..., Any], *places: Any, **options: Any) -> Any:
        if self.reducer.learns:
            warn_on_stderr("what the method learned is not saved with its model: save the state_dict of .reducer too")
        with self.unreduced():
            return save(*places, **options)


def _opened(model: nn.Module) -> VisionTower:
    """The tower of a ViT; HarnessError, besides what open_tower raises, for hooks that it would not call."""
    tower = open_tower(model)
    check_not_called(model, tower.by_parts(), tower.package)
    return tower


class ReducedModel(Wrapper):
    """A ViT with a token-reduction method inside; called like the model it was made from, plus `guide` for text.

    Images of another size than the model was built for, where it takes such, are reduced to the same ratio. Without a
    guide a text-guided method sees no text: a warning says once what became of the tokens, or `strict` refuses.
    What else one asks of a model (config, num_classes, dtype, …) is the wrapped model's own.
    """

    def __init__(
        self, model: nn.Module, reducer: TokenReducer[Any], make: Make | None = None, *, strict: bool = False
    ) -> None:
        """`make`: a reducer for a tower of another number of patches; without it, other sizes are refused."""
        super().__init__()
        self.model = model
        self.reducer = reducer
        self.strict = strict
        self.averaged = False
        self.guide: Guide | None = None
        self._make = make
        self._others: dict[tuple[int, int] | int, TokenReducer[Any]] = {}
        self._warned = False
        # Opened once: a compiled graph holds what is called, not what is made.
        self._tower: VisionTower | None = _opened(model)

    def __getstate__(self) -> dict[str, Any]:
        """Without the opened tower, whose parts are functions; it is opened again where it is asked for."""
        return self.__dict__ | {"_tower": None}

    def of_model(self, name: str) -> Any:
        """As the base class; AttributeError for methods that would run its blocks with all tokens."""
        found = super().of_model(name)
        if name == "group_matcher":
            return partial(_groups, found)
        if isinstance(found, types.MethodType) and name not in PASSED_ON:
            raise AttributeError(
                f"{name} of the reduced {type(self.model).__name__}: call it on .model, where all tokens are"
            )
        return found

    @property
    def tower(self) -> VisionTower:
        """The model, opened; anew where another model was put in its place."""
        if self._tower is None or self._tower.model is not self.model:
            self._tower = _opened(self.model)
        return self._tower

    def forward_features(self, images: Tensor, guide: Guide | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N', D) after the final norm."""
        return self.encode(images, guide).states

    def encode(self, images: Tensor, guide: Guide | None = None, trace: Trace | None = None) -> Tokens:
        """The same with what the tokens stand for; HarnessError for a guide of another width or number."""
        return self._encode(self.tower, images, guide, trace)

    def forward(
        self,
        images: Tensor | None = None,
        guide: Guide | None = None,
        *,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """What the model's own forward returns, from the reduced tokens; images by timm's or transformers' name.

        Of a model of transformers also its options; hidden states have as many tokens as each block left.
        """
        given = images if images is not None else pixel_values
        if given is None:
            raise HarnessError("no images: call with images or pixel_values (B, C, H, W)")
        tower = self.tower
        self._options(tower, others)
        config = getattr(self.model, "config", None)
        wanted = (
            getattr(config, "output_hidden_states", False) if output_hidden_states is None else output_hidden_states
        )
        trace = Trace(states=[]) if wanted else None
        guide = self.guide if guide is None else guide
        tokens = self._encode(tower, given, guide, trace, resized=bool(interpolate_pos_encoding))
        output = tower.output(self._averaged(tokens) if self.averaged else tokens)
        if not isinstance(tower, TransformersTower):
            return output
        if trace is not None and trace.states is not None:
            output["hidden_states"] = tuple(state.tokens for state in trace.states)
        return output.to_tuple() if return_dict is False else output

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        guide: Guide | None = None,
    ) -> Any:
        """As of timm's models. In each map a patch has the state of the token that it lives in, zeros where it is gone.

        `stop_early` changes nothing but time, and not that here.
        """
        tower = self.tower
        if not hasattr(self.model, "forward_intermediates") or isinstance(tower, TransformersTower):
            raise AttributeError(f"{type(self.model).__name__} has no forward_intermediates")
        if output_fmt not in ("NCHW", "NLC"):
            raise HarnessError(f"output_fmt {output_fmt!r}: expected NCHW or NLC")
        chosen = indices if indices is None or isinstance(indices, int) else list(indices)
        taken, _ = feature_take_indices(tower.shape.depth, chosen)
        trace = Trace(origins_wanted=True, states=[])
        tokens = self._encode(tower, images, guide, trace)
        states = [(trace.states or [])[block + 1] for block in sorted(taken)]
        maps, prefixes = [], []
        for state in states:
            spread = state.left(tower.finish(state.tokens) if norm else state.tokens).at_inputs()
            prefixes.append(spread[:, : state.prefix])
            maps.append(spread[:, state.prefix :])
        if output_fmt == "NCHW":
            rows, columns = self._grid(tower, images)
            maps = [part.transpose(1, 2).unflatten(2, (rows, columns)).contiguous() for part in maps]
        found = list(zip(maps, prefixes, strict=True)) if return_prefix_tokens and tower.shape.prefix else maps
        return found if intermediates_only else (tokens.states, found)

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        guide: Guide | None = None,
    ) -> Any:
        """As of timm's VisionTransformer: what `forward_intermediates` gives, by DINO's name and options."""
        if not hasattr(self.model, "get_intermediate_layers"):
            raise AttributeError(f"{type(self.model).__name__} has no get_intermediate_layers")
        output_fmt = "NCHW" if reshape else "NLC"
        return self.forward_intermediates(
            images, n, return_prefix_tokens, norm, output_fmt=output_fmt, intermediates_only=True, guide=guide
        )

    @staticmethod
    def _grid(tower: VisionTower, images: Tensor) -> tuple[int, int]:
        model: Any = tower.model
        if hasattr(model, "patch_embed"):
            rows, columns = model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
            return int(rows), int(columns)
        return tower.shape.grid or (1, tower.shape.patches)

    @staticmethod
    def _averaged(tokens: Tokens) -> Tokens:
        """Tokens whose plain mean behind the prefix counts each by its size: that mean alone."""
        if tokens.sizes is None and tokens.mask is None:
            return tokens
        mean = tokens.mean(tokens.prefix)[:, None]
        return Tokens(torch.cat([tokens.states[:, : tokens.prefix], mean], dim=1), prefix=tokens.prefix)

    def _options(self, tower: VisionTower, others: dict[str, Any]) -> None:
        """Take the further arguments of a model of transformers; HarnessError for what a reduced one cannot give."""
        if isinstance(tower, Siglip2Tower):
            tower.shapes, tower.standing = others.pop("spatial_shapes", None), others.pop("pixel_attention_mask", None)
        for name, value in others.items():
            if value is not None and value is not False:
                raise HarnessError(f"{name} is not taken by a reduced {type(self.model).__name__}; leave it out")

    def _encode(
        self, tower: VisionTower, images: Tensor, guide: Guide | None, trace: Trace | None, *, resized: bool = False
    ) -> Tokens:
        self._check(images, guide, tower.shape.width)
        reducer = self._fitting(tower.sized_for(images))
        saves = self.training and tower.recomputes and not recompute.wanted()
        with recompute.recomputing(True) if saves else nullcontext():
            if resized:
                tokens = drive(tower, tower.open_resized(images), reducer, guide, trace)
            elif isinstance(tower, Siglip2Tower) and tower.standing is not None and not bool(tower.standing.all()):
                tokens = self._unpadded(tower, images, guide, trace)
            else:
                tokens = encode(tower, reducer, images, guide, trace)
        if guide is None and self.reducer.needs_text and not self._warned:
            self._warned = True
            kept = self.reducer.without_text or _what_is_left(tokens, reducer.shape)
            warn_on_stderr(f"{self._unguided()} kept {kept}: {CALL_WITH_GUIDE}")
        return tokens

    def _unpadded(self, tower: Siglip2Tower, images: Tensor, guide: Guide | None, trace: Trace | None) -> Tokens:
        """Images of different numbers of patches, those of one number together and without padding.

        So a ratio is of the patches that an image has, and no method sees padding.
        """
        if trace is not None:
            raise HarnessError("hidden states of images of different shapes: give them one shape at a time")
        standing, shapes = tower.standing, tower.shapes
        if standing is None or shapes is None:
            raise HarnessError(f"{tower.shape.name}: patches without their spatial_shapes; give them")
        counts = standing.sum(dim=1)
        if int(counts.min()) == 0:
            raise HarnessError("pixel_attention_mask: an image without a patch that is not padding; leave it out")
        parts, order = [], []
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero()[:, 0]
            tower.standing, tower.shapes = None, shapes[rows]
            own = None if guide is None else guide.rows(rows)
            parts.append(encode(tower, self._fitting(tower.counted(count)), images[rows, :count], own))
            order.append(rows)
        return join(parts).rows(torch.cat(order).argsort())

    def _check(self, images: Tensor, guide: Guide | None, width: int) -> None:
        if not isinstance(images, Tensor):
            raise HarnessError(f"images: a {type(images).__name__}, expected a torch.Tensor (B, C, H, W)")
        if guide is not None and not isinstance(guide, Guide):
            raise HarnessError(f"guide: a {type(guide).__name__}, expected harness.Guide(text_cls), text_cls (B, D)")
        if len(images) == 0:
            raise HarnessError("images: a batch of none; give one or more")
        if not images.is_floating_point():
            raise HarnessError(f"images of {images.dtype}: expected floats, normalised as the model was trained with")
        if guide is not None and len(guide.text_cls) != len(images):
            raise HarnessError(f"guide of {len(guide.text_cls)} texts for {len(images)} images: give one for each")
        if guide is not None and guide.text_cls.shape[-1] != width:
            raise HarnessError(
                f"guide of width {guide.text_cls.shape[-1]}: expected the tower's, {width}; project the text into it"
            )
        if guide is not None and guide.text_states is not None and guide.text_mask is not None:
            shape, states = tuple(guide.text_mask.shape), tuple(guide.text_states.shape)
            if shape != states[:2]:
                raise HarnessError(f"guide with a text_mask of {shape} for text_states of {states}: give one per token")
        if guide is not None and not guide.is_finite():
            raise HarnessError("guide with NaN or infinite values: the model of the text that made it is at fault")
        if guide is None and self.reducer.needs_text and self.strict:
            raise HarnessError(f"{self._unguided()} is refused (strict): {CALL_WITH_GUIDE}")

    def _unguided(self) -> str:
        return f"{type(self.reducer).__name__}, which a text guides, without one"

    def _fitting(self, shape: StackShape) -> TokenReducer[Any]:
        """The reducer for a tower with such patches: the model's own, or one made for them and kept."""
        own = self.reducer.shape
        if shape.patches == own.patches and own.grid in (None, shape.grid):
            return self.reducer
        if self._make is None or self.reducer.learns:
            raise HarnessError(
                f"{shape.patches} patches: the method was made for the {own.patches} of the model's own image size; "
                "give images of that size"
            )
        place = shape.grid or shape.patches
        if place not in self._others:
            self._others[place] = self._make(shape)
        return self._others[place]


def _what_is_left(tokens: Tokens, shape: StackShape) -> str:
    """In words, how many of a tower's tokens left it."""
    whole, left = shape.prefix + shape.patches, tokens.states.shape[1]
    return "all tokens" if left == whole and tokens.mask is None else f"at most {left} of {whole} tokens"


def _groups(theirs: Callable[..., dict[str, Any]], *options: Any, **others: Any) -> dict[str, Any]:
    """timm's patterns of the layers that parameters are of, for the names that they have within this module."""

    def within(pattern: str) -> str:
        return rf"^model\.(?:{pattern.replace('^', '')})"

    found = theirs(*options, **others)
    return {
        group: within(of) if isinstance(of, str) else [(within(pattern), place) for pattern, place in of]
        for group, of in found.items()
    }
