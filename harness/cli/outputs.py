"""What `table` and `plot` write: records of a folder or a study as text, figures, and the picture of kept patches."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.reduction.schedule import check_ratio
from harness.report.frame import to_frame
from harness.report.tables import render_study_table, render_summary, render_table
from harness.run.compare import with_deltas
from harness.run.store import Store
from harness.run.study_index import read_index

PICTURE_METHODS = ("elip", "evit", "tome", "random")


def table_text(
    folder: Path, study: str | None, format: str, *, summary: bool = False, models: Sequence[str] = ()
) -> str:
    """The table of a folder's records, which may be a study's; or its summary alone. `models`: only of these hosts.

    HarnessError, which names the hosts that there are, where none of these hosts has a record.
    """
    with _uncollected():
        return _table_text(folder, study, format, summary, models)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for cycles of objects: records are trees, of whose millions of objects it goes through each."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _table_text(folder: Path, study: str | None, format: str, summary: bool, models: Sequence[str]) -> str:
    records, labels = _records(folder, study)
    if models:
        there = ", ".join(sorted({record["spec"]["model"] for record in records})) or "none"
        records = [record for record in records if record["spec"]["model"] in models]
        if not records:
            raise HarnessError(f"{folder}: no record of {', '.join(models)}; there are records of {there}")
        keys = {record["key"] for record in records}
        labels = labels and [label for label in labels if keys.intersection(label["keys"])]
    if summary:
        return render_summary(to_frame(records), format)
    if labels is None:
        return render_table(to_frame(records), format)
    return render_study_table(records, labels, format)


def split_text(folder: Path, study: str | None, format: str, control: str) -> str:
    """The table of a folder's records by the samples that a control gets wrong, and right, at the same budget."""
    from harness.kit.registry import methods
    from harness.report.split import render_split

    methods.entry(control)
    records, _ = _records(folder, study)
    return render_split(records, Store(folder).samples, control, str(folder), format)


def draw_pareto(folder: Path, study: str | None, out: Path) -> list[Path]:
    """Write the Pareto fronts of a folder's records, which may be a study's; their paths."""
    from harness.report.pareto import plot_pareto

    records, _ = _records(folder, study)
    return plot_pareto(to_frame(records), out, stem="pareto" if study is None else f"{study}-pareto")


def draw_curves(folder: Path, study: str | None, out: Path) -> list[Path]:
    """Write how the losses fell in the pre-trainings that a folder's records, which may be a study's, rest on."""
    from harness.report.curves import plot_curves

    records, _ = _records(folder, study)
    return plot_curves(records, out, stem="curves" if study is None else f"{study}-curves")


def draw(folder: Path, study: str | None, out: Path, *, patches: bool, ratio: float) -> list[Path]:
    """Write the figures of a folder's records, which may be a study's, and the picture of kept patches; their paths."""
    from harness.report.figures import plot_quality, plot_study

    records, labels = _records(folder, study)
    if study is None:
        written = plot_quality(to_frame(records), out)
    elif labels is None:
        written = plot_quality(to_frame(records), out, stem=study)
    else:
        written = plot_study(records, labels, study, out)
    return written + (draw_kept(out, ratio) if patches else [])


def _records(folder: Path, study: str | None) -> tuple[list[dict[str, Any]], Sequence[dict[str, Any]] | None]:
    """Records, and the labels to draw them by (None where methods and ratios say it all)."""
    if study is None:
        if not folder.is_dir():
            raise HarnessError(
                f"{folder}: no such folder of records; run: python -m harness run --method elip --ratios 0.5,0.7, or "
                "name another with --runs (results/runs holds those that are committed)"
            )
        store = Store(folder)
        return with_deltas(store.records(), store, progress=Progress()), None
    index = read_index(folder, study)
    keys = {*index["dense"], *(key for cells in index["cells"] for key in cells["keys"])}
    store = Store(folder)
    records = [record for record in store.records() if record["key"] in keys]
    return with_deltas(records, store, progress=Progress()), index["cells"] if index["draw"] == "schedule" else None


def draw_kept(out: Path, ratio: float, scenes: int = 2) -> list[Path]:
    """Draw which patches some methods keep, stage by stage, for a few scenes and their first captions."""
    return draw_methods(out / "patches", PICTURE_METHODS, ratio, scenes=scenes)


def draw_methods(
    stem: Path,
    names: Sequence[str],
    ratio: float,
    *,
    model: str = "albef-tiny",
    weights: Path | None = None,
    tokenizer: str | None = None,
    image: Path | None = None,
    text: str | None = None,
    scenes: int = 2,
) -> list[Path]:
    """Draw which patches methods keep of an image, with a text for those that read one, or else of a few scenes."""
    from harness.hosts.ready import load_host
    from harness.report.patches import draw_patches
    from harness.report.traces import Pictured, kept_examples, pictured_scenes

    check_ratio(ratio)
    if text is not None and image is None:
        raise HarnessError("--text: is for --image, which is not given; name the image")
    pictured = pictured_scenes(scenes) if image is None else [Pictured(image, text)]
    host = load_host(model, weights, "cpu", "float32", tokenizer=tokenizer)
    return draw_patches(kept_examples(host, names, ratio, pictured), stem)
