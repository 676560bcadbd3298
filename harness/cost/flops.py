"""Count multiply-adds (MACs) of matrix products, convolutions and attention as they are dispatched, by phase.

The counter sits below autograd, where every product is one of a few aten operators, so it sees fused
attention (which common counters miss) and gives one number on CPU, GPU or meta tensors, with fused or
materialised attention, with gradients on or off. Norms, softmax, activations and sums are not counted. A
product it cannot count is an error.

Shapes: B batch, H heads, M queries, N keys, d channels of a head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.kit.errors import HarnessError
from harness.reduction import PHASES, current_phase

GIGA = 1e9

FUSED_ATTENTION = frozenset(
    {
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_attention_math_for_mps",
    }
)
FUSED_ATTENTION_BACKWARD = frozenset(f"{name}_backward" for name in FUSED_ATTENTION if not name.endswith("mps"))

# Operators that multiply matrices in a way no rule below counts. Left to run, they would count 0.
UNCOUNTED = frozenset(
    {
        "_native_multi_head_attention",
        "_transformer_encoder_layer_fwd",
        "_triton_multi_head_attention",
        "_triton_scaled_dot_attention",
        "_flash_attention_forward",
        "_efficient_attention_forward",
        "_cudnn_attention_forward",
        "_trilinear",
        "_cdist_forward",
        "_euclidean_dist",
        "_pdist_forward",
        "_cudnn_rnn",
        "_thnn_fused_gru_cell",
        "_thnn_fused_lstm_cell",
        "mkldnn_linear",
        "mkldnn_convolution",
        "mkldnn_rnn_layer",
        "linear_backward",
        "_grouped_mm",
        "_scaled_grouped_mm",
        "_foreach_mm",
        "_sparse_mm",
        "_sparse_addmm",
        "hspmm",
        "smm",
        "sspaddmm",
    }
)
# Names that later releases or other packages may bring; HARMLESS holds those that match and multiply nothing.
SUSPECT = re.compile(
    r"attention|attn|multi_head|transformer|gemm|cdist|conv(\d?d|olution|_t|_d)"
    r"|(^|_)(mm|bmm|addmm|baddbmm|addbmm|addmv|mv|dot|vdot|matmul|linear|gru|lstm|rnn)(_|$)"
)
SOFTMAX = frozenset({"_softmax", "_safe_softmax"})
HARMLESS = frozenset({"_fused_sdp_choice", "_compute_linear_combination", "_use_cudnn_rnn_flatten_weight"})

Macs = dict[str, int]


def _matrices(left: Tensor, right: Tensor) -> int:
    """(…, m, k) by (…, k, n), or by a vector (k,): multiply-adds."""
    return left.numel() * (right.shape[-1] if right.dim() > 1 else 1)


def _convolution(weight: Tensor, source: Tensor, result: Tensor, transposed: bool) -> int:
    """Each output (of a transposed convolution: each input) element meets one weight row."""
    return (source if transposed else result).numel() * prod(weight.shape[1:])


def _convolution_backward(args: tuple[Any, ...], out: Any) -> int:
    grad, source, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
    return _convolution(weight, source, grad, transposed) * (bool(mask[0]) + bool(mask[1]))


def _attention_products(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, int]:
    """Multiply-adds of q kᵀ and of the map times v: q (B, H, M, d), k (B, H, N, d), v (B, H, N, e)."""
    pairs = q.shape[:-1].numel() * k.shape[-2]
    return pairs * q.shape[-1], pairs * v.shape[-1]


def _attention(args: tuple[Any, ...], out: Any) -> int:
    return sum(_attention_products(*args[:3]))


def _attention_backward(args: tuple[Any, ...], out: Any) -> int:
    """One product for each input that needs a gradient, as with a materialised map; without recomputation."""
    q, k, v = args[1:4]
    logits, mixed = _attention_products(q, k, v)
    through_map = q.requires_grad or k.requires_grad
    return logits * (q.requires_grad + k.requires_grad) + mixed * (through_map + v.requires_grad)


RULES: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "_int_mm", "_scaled_mm"), lambda args, out: _matrices(args[0], args[1])),
    **dict.fromkeys(
        (
            "addmm",
            "baddbmm",
            "addmv",
            "addbmm",
            "_addmm_activation",
            "addmm_",
            "baddbmm_",
            "addmv_",
            "addbmm_",
        ),
        lambda args, out: _matrices(args[1], args[2]),
    ),
    **dict.fromkeys(("dot", "vdot"), lambda args, out: args[0].numel()),
    "convolution": lambda args, out: _convolution(args[1], args[0], out, args[6]),
    "convolution_backward": _convolution_backward,
    **dict.fromkeys(FUSED_ATTENTION, _attention),
    **dict.fromkeys(FUSED_ATTENTION_BACKWARD, _attention_backward),
}


@dataclass(frozen=True)
class Counts:
    """MACs of a call by phase (reduction.PHASES) or other label: `forward`, and `train_step` = forward plus gradients.

    attention: fused attention operators that were dispatched in the forward pass, with how often.
    """

    forward: Macs
    train_step: Macs
    attention: Mapping[str, int]

    @property
    def forward_total(self) -> int:
        return sum(self.forward.values())

    @property
    def train_step_total(self) -> int:
        return sum(self.train_step.values())

    def gmacs(self) -> dict[str, dict[str, float]]:
        """{"forward": {"main_gmacs": …, …, "total_gmacs": …}, "train_step": the same}."""
        return {"forward": _gmacs(self.forward), "train_step": _gmacs(self.train_step)}


def _gmacs(macs: Macs) -> dict[str, float]:
    named = {f"{name}_gmacs": macs.get(name, 0) / GIGA for name in PHASES}
    return {**named, "total_gmacs": sum(macs.values()) / GIGA}


class MacCounter(TorchDispatchMode):
    """Counts what is dispatched inside it into `macs[label()]`; HarnessError at a product it has no rule for.

    label: where a product belongs, by default the phase; `base` is the label of what no other one claims.
    fused: how often each fused attention operator was dispatched, by (operator, phase).
    maps: how many softmaxes (B, H, M, N) with M, N > 1 were, by phase.
    """

    def __init__(self, label: Callable[[], str] = current_phase, base: str = "main") -> None:
        super().__init__()
        self.label, self.base = label, base
        self.macs: Counter[str] = Counter()
        self.fused: Counter[tuple[str, str]] = Counter()
        self.maps: Counter[str] = Counter()
        self.phase: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operator_name(func)
        rule = RULES.get(name)
        if rule is None:
            if is_composite(func):
                with self:
                    return func.decompose(*args, **kwargs)
            if is_suspect(name):
                raise HarnessError(
                    f"operator {name} multiplies matrices in a way the MAC counter cannot see: expected "
                    "separate products or scaled_dot_product_attention (for nn.MultiheadAttention: "
                    "torch.backends.mha.set_fastpath_enabled(False))"
                )
        out = func(*args, **kwargs)
        where = self.phase or self.label()
        if rule is not None:
            self.macs[where] += rule(args, out)
            if name in FUSED_ATTENTION:
                self.fused[name, where] += 1
        elif name in SOFTMAX and out.dim() == 4 and min(out.shape[-2:]) > 1:
            self.maps[where] += 1
        return out


@cache
def operator_name(func: Any) -> str:
    """'mm' of aten.mm.default; the plain name of anything that is no operator overload."""
    packet = getattr(func, "overloadpacket", func)
    return str(getattr(packet, "__name__", packet))


@cache
def is_suspect(name: str) -> bool:
    """Whether an operator without a rule multiplies matrices, by UNCOUNTED or by the look of its name."""
    return name in UNCOUNTED or (name not in HARMLESS and SUSPECT.search(name) is not None)


@cache
def is_composite(func: Any) -> bool:
    """Whether an operator is made of others; under inference_mode such ones (linear, matmul) arrive whole."""
    # prim operators (the device of a fake tensor) are not registered with the dispatcher.
    if not isinstance(func, torch._ops.OpOverload) or func.namespace == "prim":
        return False
    return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


class PhaseTags(TorchFunctionMode):
    """Makes the gradient of each product count where the product itself was computed.

    Every autograd node made inside is marked; nodes of other labels than the base switch the counter as they run.
    """

    def __init__(self, counter: MacCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        where = self.counter.label()
        fresh: list[Any] = [tensor.grad_fn for tensor in tensors(out)]
        while fresh:
            node = fresh.pop()
            if node is None or self in node.metadata or node.name().endswith("AccumulateGrad"):
                continue
            node.metadata[self] = where
            if where != self.counter.base:
                node.register_prehook(self._switch(where))
                node.register_hook(self._switch_back)
            fresh.extend(parent for parent, _ in node.next_functions)
        return out

    def _switch(self, where: str) -> Callable[[Any], None]:
        def prehook(gradients: Any) -> None:
            self.counter.phase = where

        return prehook

    def _switch_back(self, inputs: Any, outputs: Any) -> None:
        self.counter.phase = self.counter.base


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a result: a tensor, or one nested in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from tensors(entry)


def scalar(result: Any) -> Tensor | None:
    """A scalar whose gradient reaches all of a result that can have one; None where nothing can."""
    parts = [tensor.sum() for tensor in tensors(result) if tensor.requires_grad]
    return torch.stack(parts).sum() if parts else None


def count(
    call: Callable[[], Any],
    *,
    train_step: bool = True,
    label: Callable[[], str] = current_phase,
    base: str = "main",
) -> Counts:
    """MACs of one call and, with `train_step`, of it and its real backward pass from the sum of its outputs.

    Gradients are left in the `.grad` of the parameters used: pass a copy (`probe.skeleton`) to keep a model
    clean. `label` and `base` as in MacCounter. Raises HarnessError at an operator that multiplies matrices and has no
    rule.
    """
    counter = MacCounter(label, base)
    with ExitStack() as modes:
        if train_step:
            modes.enter_context(torch.enable_grad())
            modes.enter_context(PhaseTags(counter))
        modes.enter_context(counter)
        result = call()
    forward = dict(counter.macs)
    attention = Counter[str]()
    for (name, _), times in counter.fused.items():
        attention[name] += times
    loss = scalar(result) if train_step else None
    if loss is not None:
        counter.phase = counter.base
        with counter:
            loss.backward()
    return Counts(forward, dict(counter.macs), attention)
