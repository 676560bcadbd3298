"""The report of `throughput` in words, as measured or read back from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.reading import read_json


def read_throughput(path: Path) -> dict[str, Any]:
    """A report that `throughput --json` printed to a file; HarnessError for another file."""
    report: Any = read_json(path)
    if not isinstance(report, dict) or not {"train_step_gmacs", "time"} <= set(report):
        raise HarnessError(f"--show {path}: not what throughput --json prints; measure again")
    return dict(report)


def render_throughput(report: dict[str, Any]) -> str:
    """The `throughput --json` object in words."""
    step, product, where = report["step"], report["product"], report["run"]
    pairs = report["batch_size"] * report["accumulate"]
    rows = [(name, part["train_step_gmacs"]) for name, part in report["parts"].items()]
    rows.append(("whole host", report["train_step_gmacs"]))
    lines = [
        f"{report['model']}, {report['method']}, {report['image_size']} px, texts of {report['text_tokens']} tokens",
        (
            f"{pairs} pairs a step, precision {report['precision']}, {where['device']}, {where['threads']} threads, "
            f"attention {report['attention_backend']}" + (", blocks recomputed" if report["recompute"] else "")
        ),
        "",
        f"training step       {step['median_s']:.3f} s, the median of {len(step['seconds'])}",
        f"model alone         {step['pairs_per_s']:.2f} pairs/s",
        (
            f"matrix product      {product['gmacs_per_s']:.1f} GMACs/s, {product['side']} cubed, {product['dtype']}, "
            "before and after each step"
        ),
        "GMACs per pair      in a training step",
        *(f"  {name:<18}{macs:>10.3f}" for name, macs in rows),
        f"ideal step          {report['ideal_s']:.3f} s at the product's rate",
        f"share               {report['share']:.1%} of the product's rate",
        "time of a step      " + ", ".join(f"{kind} {share:.0%}" for kind, share in report["time"].items()),
    ]
    if report["peak_mib"] is not None:
        lines.append(f"peak memory         {report['peak_mib']:.0f} MiB")
    return "\n".join(lines + ([] if report["loader"] is None else ["", *_loader_lines(report["loader"])]))


def _loader_lines(loader: dict[str, Any]) -> list[str]:
    workers, needed = loader["workers"], loader["workers_needed"]
    place = f"{workers} workers" if workers else "in the training process"
    step, load = 1 / loader["model_images_per_s"], 1 / loader["images_per_s"]
    seconds = loader["pairs_per_epoch"] * (max(step, load) if workers else step + load)
    verdict = "is the bottleneck" if loader["bottleneck"] else "is not the bottleneck"
    return [
        f"loader alone        {loader['images_per_s']:.1f} images/s, {place}",
        f"the loader {verdict}: steps wait {loader['wait_share']:.1%} of the time; --workers {needed} feeds this model",
        f"an epoch            {loader['pairs_per_epoch']} pairs, {seconds / 60:.1f} min at these rates",
    ]
