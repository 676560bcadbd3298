"""What texts, and in training a momentum tower, offer to a method.

Shapes: B texts, L tokens, D channels, n0 patches, P the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode


@dataclass(frozen=True)
class Guide:
    """What is offered: text_cls (B, D); optionally text_states (B, L, D) and text_mask (B, L).

    notes: what a method noted in the text stack, (B, ...) each and with gradient, for losses that compare both sides.
    shared: what takes image states and text states (..., D) to the space both sides share, with weights that get no
    gradient; None where a host has none. feature: (B, P), the text's place there, of a host whose text_cls is something
    else than the state that `shared` takes there. image_attention: (B, n0), what the class token of a momentum tower
    attends to among an image's patches, for methods that need one.
    """

    text_cls: Tensor
    text_states: Tensor | None = None
    text_mask: Tensor | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    shared: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None
    feature: Tensor | None = None
    image_attention: Tensor | None = None

    @property
    def text_feature(self) -> Tensor | None:
        """The text's place in the shared space, (B, P) of unit length; None where a host has no such space."""
        if self.feature is not None or self.shared is None:
            return self.feature
        return F.normalize(self.shared[1](self.text_cls), dim=-1)

    def is_finite(self) -> bool:
        """Whether no tensor of what guides has NaN or infinite values; padding does not count. Waits for the device,
        once; where values cannot be read, as while a program is traced, there is nothing to say.
        """
        if not _readable(self.text_cls):
            return True
        parts = [part.isfinite() for part in (self.text_cls, self.feature, self.image_attention) if part is not None]
        if self.text_states is not None:
            finite = self.text_states.isfinite()
            parts.append(finite if self.text_mask is None else finite | ~self.text_mask.bool()[..., None])
        return bool(torch.stack([part.all() for part in parts]).all())

    def each(self, change: Callable[[Tensor], Tensor]) -> Guide:
        """The same with every tensor changed."""

        def changed(part: Tensor | None) -> Tensor | None:
            return None if part is None else change(part)

        return Guide(
            change(self.text_cls),
            changed(self.text_states),
            changed(self.text_mask),
            {name: change(note) for name, note in self.notes.items()},
            self.shared,
            changed(self.feature),
            changed(self.image_attention),
        )

    def rows(self, part: slice | Tensor) -> Guide:
        """That of some texts."""
        return self.each(lambda values: values[part])


def _readable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read now: it has some, and nothing is traced, vectorised or captured."""
    traced = torch.compiler.is_compiling() or is_functorch_wrapped_tensor(tensor)
    captured = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return not (traced or captured or tensor.is_meta or type(tensor) is not Tensor or _get_current_dispatch_mode())


@dataclass(frozen=True)
class Offer:
    """What a host's guide holds beside text_cls, for whatever is counted or tested without texts.

    words: tokens of the longest text, whose states are offered; 0 where none are. space: P of the shared space, 0 where
    there is none. feature: whether the text's place there comes with the guide.
    """

    words: int = 0
    space: int = 0
    feature: bool = False

    def stand_in(
        self,
        text_BD: Tensor,
        image_attention: Tensor | None = None,
        make: Callable[..., Tensor] = torch.zeros,
    ) -> Guide:
        """A guide of these shapes that computes as much as the host's: norm and projection. `make`: as torch.zeros."""
        batch, width = text_BD.shape
        like = {"device": text_BD.device, "dtype": text_BD.dtype}
        guide = Guide(text_BD, image_attention=image_attention)
        if self.words:
            mask = torch.ones(batch, self.words, dtype=torch.bool, device=text_BD.device)
            guide = replace(guide, text_states=make(batch, self.words, width, **like), text_mask=mask)
        if self.space:
            weight_PD = make(self.space, width, **like)

            def place(states: Tensor) -> Tensor:
                return F.linear(F.layer_norm(states, (width,)), weight_PD)

            feature = make(batch, self.space, **like) if self.feature else None
            guide = replace(guide, shared=(place, place), feature=feature)
        return guide


NO_OFFER = Offer()
