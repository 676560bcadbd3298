"""A cost report as text for one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from harness.cost.quantities import extra_costs
from harness.reduction import PHASES


def render_cost(report: Mapping[str, Any]) -> str:
    """The `cost --json` object in words; scoring and matching stand apart from the main pass."""
    lines = [
        f"{report['model']} at {report['image_size']} px, {report['params_m']:.2f} M parameters",
        f"{report['method']} {_settings(report['config'])}".rstrip(),
        "",
        f"tokens per block    {_runs(report['tokens_per_block'])}",
        f"tokens per MLP      {_runs(report['tokens_per_mlp'])}",
        f"token ratio         {report['ratio']:.3f}",
        "",
        *_macs(report),
        "",
        *_memory(report["memory"], of="vision tower alone" if report["parts"] else ""),
    ]
    if report.get("host"):
        lines += ["", *_host(report["host"])]
    if report["latency"]:
        lines += ["", *_latency(report["latency"])]
    if report.get("fvcore"):
        lines += ["", *_opinion(report["fvcore"])]
    return "\n".join([*lines, *_extra(report)])


def _opinion(found: Mapping[str, Any]) -> list[str]:
    """fvcore's count beside ours, and the operations that only one of the two counts."""
    unit, scale = ("GMACs", 1) if found["ours_gmacs"] >= 1 else ("MMACs", 1000)
    rows = [("fvcore", found["total_gmacs"]), ("ours", found["ours_gmacs"])]
    rows += [(f"fvcore alone: {name}", count) for name, count in found["counted_by_fvcore_alone"].items()]
    rows += [(f"ours alone: {name}", count) for name, count in found["counted_by_us_alone"].items()]
    rows.append(("unexplained", found["unexplained_gmacs"]))
    return [f"forward {unit}, a second opinion", *(f"  {name:<42}{scale * count:>10.3f}" for name, count in rows)]


def _extra(report: Mapping[str, Any]) -> list[str]:
    """A line for each figure of the registered costs."""
    found = [(one, report.get(key, {}).get(name)) for (key, name), one in extra_costs().items()]
    texts = [f"{one.title:<20}{one.scale * value:.2f} {one.unit}" for one, value in found if value is not None]
    return ["", *texts] if texts else []


def _macs(report: Mapping[str, Any]) -> list[str]:
    forward, step, dense = report["forward"], report["train_step"], report["dense"]
    unit, scale = ("GMACs", 1) if dense["forward_gmacs"] >= 1 else ("MMACs", 1000)
    rows = [(part, forward[f"{part}_gmacs"], step[f"{part}_gmacs"]) for part in PHASES]
    rows = [row for row in rows if row[0] == "main" or any(row[1:])]
    rows.append(("total", forward["total_gmacs"], step["total_gmacs"]))
    rows.append(("dense", dense["forward_gmacs"], dense["train_step_gmacs"]))
    parts = report["parts"] or {}
    own = [(label, part["forward_gmacs"], part["train_step_gmacs"]) for label, part in parts.items()]
    own += [("whole host", sum(row[1] for row in own), sum(row[2] for row in own))] if own else []
    shares = (
        forward["total_gmacs"] / dense["forward_gmacs"],
        step["total_gmacs"] / dense["train_step_gmacs"],
    )
    return [
        f"{unit + ' per image':<20}{'forward':>10} {'training step':>15}",
        *(f"  {label:<18}{one * scale:>10.3f} {whole * scale:>15.3f}" for label, one, whole in rows),
        f"  {'total / dense':<18}{shares[0]:>10.1%} {shares[1]:>15.1%}",
        *(["", f"{unit + ' per pair':<20}in a pre-training step, with this method"] if own else []),
        *(f"  {label:<18}{one * scale:>10.3f} {whole * scale:>15.3f}" for label, one, whole in own),
    ]


def _memory(memory: Mapping[str, Any], of: str = "") -> list[str]:
    """Training memory, and the largest batch where one was asked for; `of`: the part of a model it is of."""
    per_image, fixed = memory["train_mib_per_image"], memory["train_mib_fixed"]
    how = ", ".join(filter(None, (of, memory["source"], f"{memory['attention']} attention")))
    lines = [f"training memory     {per_image:.1f} MiB per image + {fixed:.0f} MiB  ({how})"]
    if "peak_mib_per_image" in memory:
        peak, gap = memory["peak_mib_per_image"], memory["gap"]
        lines.append(f"  allocator's peak  {peak:.1f} MiB per image ({gap:+.1%})")
    if "gap_parts" in memory:
        saved, temporary, place = (memory["gap_parts"][name] for name in ("saved_mib", "temporary_mib", "peak_in"))
        held = "MiB per image held when the forward pass ends"
        lines.append(f"    saved           {saved:.1f} {held}, {saved - per_image:+.1f} to what was counted")
        lines.append(f"    temporary       {temporary:+.1f} MiB per image from there to the peak, in the {place} pass")
    if "largest_batch" in memory:
        lines.append(f"  largest batch     {memory['largest_batch']} in {memory['gib']:g} GiB" + (of and f"  ({of})"))
    return lines


def _host(host: Mapping[str, Any]) -> list[str]:
    """What a pre-training step of the whole host takes, and the largest batch, dense and reduced."""
    lines = [f"{'whole host':<20}{'MiB per pair':>24}{'MiB fixed':>12}   largest batch in {host['gib']:g} GiB"]
    for path in ("fused", "math"):
        dense, reduced, gain = (host[path][name] for name in ("dense", "reduced", "gain"))
        pair = f"{dense['train_mib_per_image']:.1f} -> {reduced['train_mib_per_image']:.1f}"
        batches = f"{dense['largest_batch']} -> {reduced['largest_batch']}"
        times = "" if gain is None else f"  (x {gain:.2f})"
        lines.append(f"  {path + ' attention':<18}{pair:>24}{dense['train_mib_fixed']:>12.0f}   {batches}{times}")
    return lines


def _latency(latency: Mapping[str, Any]) -> list[str]:
    median, iqr, dense = latency["median_ms"], latency["iqr_ms"], latency["dense_median_ms"]
    return [
        (f"latency             {median:.2f} ms (IQR {iqr:.2f}), dense {dense:.2f} ms, ratio {latency['ratio']:.3f}"),
        (
            f"                    batch {latency['batch_size']}, {latency['runs']} runs, "
            f"{latency['threads']} threads, {latency['device']}, {latency['attention_backend']}"
        ),
    ]


def _settings(config: Mapping[str, Any]) -> str:
    """Settings as name=value words; what is unset, and lists longer than a screen line, are left out."""
    words = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            words += [f"{key}={_value(entry)}" for key, entry in value.items() if entry is not None]
        elif value is not None and not (isinstance(value, list) and len(value) > 6):
            words.append(f"{name}={_value(value)}")
    return " ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_value, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _runs(counts: Sequence[int]) -> str:
    """[257, 257, 232] -> '257 x2, 232'."""
    runs = [(tokens, len(list(group))) for tokens, group in groupby(counts)]
    return ", ".join(f"{tokens} x{times}" if times > 1 else f"{tokens}" for tokens, times in runs)
