"""PuMer's golden files of one ViLT block, [text, image]: METER's reduction with ViLT's scores and ways to merge.

No host here is a ViLT; what PuMer does there is composed of the method's own functions, and of the two ways of merging
that ViLT's program has beside ToMe's (`tip`, `diff`).
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from harness.check.golden.file import Golden, difference
from harness.kit.registry import methods
from harness.reduction import TokenState, policy_map


def check(golden: Golden) -> dict[str, float]:
    """Tokens, mask, attention and text length of the block, and the gradients of the mean square."""
    config, given = golden.config, golden.part("input")
    block = _block(config, golden.part("weight"))
    x, words = given["x"].clone().requires_grad_(), given["text_mask"].double()
    length = config["text_length"]
    mask = torch.cat([words, words.new_ones(len(x), x.shape[1] - length)], dim=1)
    q, k, v = (
        part.unflatten(-1, (config["num_heads"], -1)).transpose(1, 2)
        for part in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
    )
    weights = policy_map(q, k, mask)
    attended = x + block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    state = TokenState(attended, prefix=0, mask=mask)
    image = attended.shape[1] - length
    if round(config["prune_r"] * image) > 0:
        state, length = _reduced(config, state, (weights, q.mean(1), k.mean(1)), words)
    elif int(config["merge_r"]) > 0:
        pumer = _functions()
        state = pumer.with_fractions(state, *_matched(k.mean(1), int(config["merge_r"])))
    out = state.tokens + block.mlp(block.norm2(state.tokens))
    out.square().mean().backward()
    final = out.new_ones(out.shape[:2]) if state.mask is None else state.mask
    ours = {"x": out, "attention": weights, "mask": final, "text_length": torch.tensor(float(length))}
    outputs = golden.part("output")
    errors = {name: difference(ours[name].reshape(value.shape), value) for name, value in outputs.items()}
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()} | {"input.x": x.grad}
    for name, expected in golden.part("grad").items():
        gradient = gradients[name]
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if gradient is None else gradient, expected)
    return errors


def _functions() -> Any:
    return importlib.import_module(methods.get("pumer").__module__)


def _block(config: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    norm = partial(nn.LayerNorm, eps=config["norm_eps"])
    block: Any = Block(config["dim"], config["num_heads"], config["mlp_ratio"], qkv_bias=True, norm_layer=norm)
    block.double().eval().load_state_dict(weights)
    return block


def _reduced(
    config: dict[str, Any], state: TokenState, evidence: tuple[Tensor, Tensor, Tensor], words: Tensor
) -> tuple[TokenState, int]:
    """The block's tokens, pruned and merged, and the text's new length."""
    pumer, length = _functions(), config["text_length"]
    _, _, keys = evidence
    count = state.patches - length
    scores = _scores(config["sim_method"], *evidence, length) / words.sum(1, keepdim=True)
    kept = max(count - round(config["prune_r"] * count), 1)
    best, order = (part[:, :kept] for part in torch.sort(scores, dim=1, descending=True, stable=True))
    image = TokenState(state.patch_tokens[:, length:], prefix=0).keep(order)
    metric = keys[:, length:].gather(1, order.unsqueeze(-1).expand(-1, -1, keys.shape[-1]))
    image = _merged(config["merge_style"], image, metric, best, round(config["merge_r"] * count))
    text = TokenState(state.patch_tokens[:, :length], prefix=0, mask=words)
    text_count = min(round(length * config["merge_text"]), (length - 1) // 2)
    if text_count:
        text = pumer.with_fractions(text, *_matched(keys[:, :length], text_count))
    assert text.mask is not None
    ones = words.new_ones(len(words), image.patches)
    tokens = torch.cat([text.tokens, image.tokens], dim=1)
    return TokenState(tokens, prefix=0, mask=torch.cat([text.mask, ones], dim=1)), text.patches


def _scores(how: str, weights: Tensor, queries: Tensor, keys: Tensor, length: int) -> Tensor:
    """Sum over the text of what each image token gets from it, (B, N)."""
    if how in ("k_metric", "km"):
        pairs = keys[:, :length] @ keys[:, length:].transpose(1, 2)
    elif how == "qk":
        pairs = queries[:, :length] @ keys[:, length:].transpose(1, 2)
    else:
        heads = weights[:, :, :length, length:]
        pairs = {"mean_head": heads.mean(1), "mh": heads.mean(1), "first_head": heads[:, 0], "fh": heads[:, 0]}[how]
    return pairs.sum(1)


def _matched(metric: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    matched: tuple[Tensor, Tensor, Tensor] = _functions().bipartite(metric, count, 0)
    return matched


def _merged(style: str, image: TokenState, metric: Tensor, scores: Tensor, count: int) -> TokenState:
    """`tome`: means. `tip`: sums, matched by keys times scores. `diff`: sums, matched by the nearest score."""
    most = image.patches // 2 if style == "diff" else (image.patches - 1) // 2
    count = min(count, most)
    if count <= 0:
        return image
    pumer = _functions()
    if style == "tome":
        merged: TokenState = pumer.means(image, *_matched(metric, count))
        return merged
    if style == "tip":
        source, into, rest = _matched(metric * scores.unsqueeze(-1), count)
    else:
        source, into, rest = _nearest(scores, count)
    wide = into.unsqueeze(-1).expand(-1, -1, image.tokens.shape[-1])
    moved = image.tokens.gather(1, source.unsqueeze(-1).expand_as(wide))
    return TokenState(image.tokens.scatter_add(1, wide, moved), prefix=0).keep(rest)


@torch.no_grad()
def _nearest(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Even positions into the odd ones of nearest score, the nearest first; nothing is protected."""
    even, odd = (torch.arange(begin, scores.shape[1], 2) for begin in (0, 1))
    gap, match = (scores[:, even].unsqueeze(2) - scores[:, odd].unsqueeze(1)).abs().min(dim=-1)
    order = torch.sort(gap, dim=1, stable=True).indices
    source, others = order[:, :count], order[:, count:]
    return even[source], odd[match.gather(1, source)], torch.cat([even[others], odd.expand(len(order), -1)], dim=1)
