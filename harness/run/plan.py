"""What a run would do and cost, without weights: `plan`, and the `cost` of hosts and bare towers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from harness.cost.report import cost_report
from harness.cost.second_opinion import check_name, fvcore_opinion
from harness.cost.vits import build_vit
from harness.data.formats import load
from harness.data.world import BUILT_IN_WORLD
from harness.evaluate.sample import SAMPLED_IMAGES, sample_of
from harness.hosts.build import paper_settings, skeleton
from harness.hosts.facts import HostFacts
from harness.hosts.host import HostModel
from harness.hosts.ready import load_host, pick_device
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.kit.registry import methods, models
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample
from harness.reduction.schedule import check_ratio
from harness.run.budgets import Budgets, as_drawn
from harness.run.cell import Cell
from harness.run.costs import CountedCosts
from harness.run.estimate import Estimate, Estimator, Gmacs, total_in_words
from harness.run.grid import data_folder, plan_cells, planned_host
from harness.run.request import RunRequest
from harness.run.store import Store
from harness.run.suitable import nothing_to_read

MOST_GIB = 100_000


def plan_rows(
    request: RunRequest,
    out: Path,
    *,
    force: bool = False,
    progress: Progress = SILENT,
    counted: CountedCosts | None = None,
) -> list[dict[str, Any]]:
    """One row per cell: label, key, whether its record is there, tokens per block, MACs, memory and about how long it
    will take. `counted`: what several requests share, whose hosts may have towers alike.
    """
    cells, store = plan_cells(request, progress), Store(out)
    kept = {} if force else store.find(cell.key for cell in cells)
    data = data_folder(request.data, request.limit, progress)
    budgets, times = Budgets(request, data), Estimator(data, store)
    hosts: dict[str, HostFacts] = {}
    costs: dict[tuple[str, ...], dict[str, Any]] = {}
    counted = counted or CountedCosts()
    kinds = {method: methods.get(method) for method in {cell.method for cell in cells}}
    rows = []
    with progress.bar("costs", len(cells)) as bar:
        for cell in cells:
            if cell.task not in hosts:
                hosts[cell.task] = planned_host(request, cell.task, cell.training)
            host = hosts[cell.task]
            adaptive = kinds[cell.method].adaptive
            known = (cell.method, str(cell.config), str(host.shape), cell.task if adaptive else "")
            if known not in costs and adaptive:
                ready, sample = budgets.on_images(cell.task)
                on = ready.model
                if cell.training:  # what the method will have learned by then is not there yet
                    made = ready.with_learned(as_drawn(make_reducer(cell.method, on.shape, settings=cell.config)))
                else:
                    made = ready.method(cell.method, cell.config)
                costs[known] = cost_report(on.vision, cell.method, shape=on.shape, sample=sample, reducer=made)
            elif known not in costs:
                about = (cell.model, host.config, host.shape, cell.method, cell.config, "float32")
                costs[known] = counted.of(*about, partial(getattr, host, "vision"))
            done = cell.key in kept
            time = Estimate(0.0, "records") if done else times.of(cell, host, gmacs_of(costs[known]))
            unread = nothing_to_read(cell.method, host.shape, cell.task, request.protocol)
            rows.append(_row(cell, costs[known], done, time) | {"unread": unread})
            bar.advance()
    return rows


def announced(
    planned: Iterable[tuple[RunRequest, list[Cell]]], store: Store, *, force: bool = False, latency: bool = True
) -> str:
    """'42 cells, 36 to run, about 14 min on this machine': what is said before cells are run.

    Adaptive methods, whose MACs are measured on images, go by their ratio.
    """
    counted, every, left, times = CountedCosts(), 0, 0, []
    estimators: dict[tuple[Any, ...], Estimator] = {}  # entries of a study share what they follow from
    for request, cells in planned:
        kept = {} if force else store.find(cell.key for cell in cells)
        every, wanted = every + len(cells), [cell for cell in cells if cell.key not in kept]
        left += len(wanted)
        if not wanted:
            continue
        about = (request.model, request.data, request.split, request.limit, request.batch_size, request.dtype)
        if about not in estimators:
            estimators[about] = Estimator(data_folder(request.data, request.limit), store, latency=latency)
        estimator = estimators[about]
        hosts: dict[str, HostFacts] = {}
        for cell in wanted:
            host = hosts.get(cell.task) or hosts.setdefault(cell.task, planned_host(request, cell.task, cell.training))
            adaptive = methods.get(cell.method).adaptive
            own = ("dense", make_reducer("dense", host.shape).config.model_dump(mode="json"))
            method, config = own if adaptive else (cell.method, cell.config)
            tower = partial(getattr, host, "vision")
            cost = counted.of(cell.model, host.config, host.shape, method, config, "float32", tower)
            times.append(estimator.of(cell, host, gmacs_of(cost, (cell.ratio or 1.0) if adaptive else 1.0)))
    return f"{every} cells, {left} to run" + total_in_words(times)


def gmacs_of(cost: dict[str, Any], share: float = 1.0) -> Gmacs:
    """A report's MACs, of which a method spends a share."""
    forward, step = (share * cost[name]["total_gmacs"] for name in ("forward", "train_step"))
    return Gmacs(forward, cost["dense"]["forward_gmacs"], step)


def _row(cell: Cell, cost: dict[str, Any], done: bool, time: Estimate) -> dict[str, Any]:
    forward = cost["forward"]["total_gmacs"]
    return {
        "cell": cell.label,
        "key": cell.key,
        "done": done,
        "training": [f"{stage.stage} {stage.method}" for stage in cell.training],
        "ratio": cost["ratio"],
        "tokens_per_block": cost["tokens_per_block"],
        "tokens_per_mlp": cost["tokens_per_mlp"],
        "forward_gmacs": forward,
        "forward_to_dense": round(forward / cost["dense"]["forward_gmacs"], 4),
        "train_mib_per_image": cost["memory"]["train_mib_per_image"],
        "seconds": None if time.seconds is None else round(time.seconds, 1),
        "seconds_from": time.source,
    }


def render_plan(rows: list[dict[str, Any]]) -> str:
    """Rows of a plan as aligned text."""
    wide = max([22, *(len(row["cell"]) for row in rows)]) + 2
    head = f"{'cell':<{wide}}{'record':<8}{'ratio':>7}{'GMACs':>9}{'x dense':>9}{'MiB/image':>11}  tokens per MLP"
    body = [
        f"{row['cell']:<{wide}}{'kept' if row['done'] else 'to run':<8}{row['ratio']:>7.3f}{row['forward_gmacs']:>9.4f}"
        f"{row['forward_to_dense']:>9.3f}{row['train_mib_per_image']:>11.2f}  "
        + " ".join(map(str, row["tokens_per_mlp"]))
        + "".join(f"; {stage}" for stage in row["training"])
        + ("; not here" if row["unread"] else "")
        for row in rows
    ]
    body += dict.fromkeys(f"not here: {row['unread']}" for row in rows if row["unread"])
    left = [row for row in rows if not row["done"]]
    times = total_in_words([Estimate(row["seconds"], row["seconds_from"]) for row in left])
    return "\n".join([head, *body, f"{len(rows)} cells, {len(left)} to run{times}"])


def cost_of(model: str, method: str, *, ratio: str | None, **options: Any) -> dict[str, Any]:
    """The cost report of a host model's tower, or of a timm ViT by its timm name."""
    from harness.cost.host import compare_memory, host_parts

    methods.entry(method)
    budget = None if ratio is None else check_ratio(ratio)
    if options["batch_size"] < 1:
        raise HarnessError(f"batch size {options['batch_size']}: expected at least 1")
    gib = options.get("gib")
    if gib is not None and not 0 < gib < MOST_GIB:
        raise HarnessError(f"--gib {gib}: expected the memory of a card, above 0 and below {MOST_GIB:,} GiB")
    options["device"] = str(pick_device(options["device"]))
    image_size, check = options.pop("image_size"), options.pop("check", None)
    if check is not None:
        check_name(check)
        found = cost_of(model, method, ratio=ratio, image_size=image_size, **options)
        return found | {check: _second_opinion(model, method, image_size, found)}
    if model in models.names():
        host = skeleton(model, image_size)
        options["settings"], options["schedule"] = paper_settings(
            model, method, options.get("schedule"), options.get("settings")
        )
        tower = build(host) if options["latency"] or options["device"] != "cpu" else host
        if methods.get(method).adaptive:
            tower, options["sample"] = on_scenes(model, image_size)
        found = cost_report(tower.vision, method, ratio=budget, name=model, shape=tower.shape, **options)
        reducer = make_reducer(method, host.shape, settings=found["config"])
        if reducer.adaptive:
            return found
        found["parts"] = host_parts(model, reducer, image_size)
        if options.get("gib") is not None:
            found["host"] = compare_memory(model, reducer, options["gib"], image_size)
        return found
    return cost_report(model, method, ratio=budget, image_size=image_size, **options)


def _second_opinion(model: str, method: str, image_size: int | None, found: dict[str, Any]) -> dict[str, Any]:
    """What fvcore counts in the forward pass of a report's tower, with random weights: counts do not depend on them."""
    if methods.get(method).adaptive:
        raise HarnessError(f"--check fvcore: {method} is adaptive, and fvcore counts one image; leave it out")
    if model in models.names():
        host = build(skeleton(model, image_size))
        tower, shape = host.vision, host.shape
    else:
        tower = build_vit(model, image_size, "cpu")
        from harness.hosts.parts.towers import open_tower

        shape = open_tower(tower).shape
    reducer = make_reducer(method, shape, settings=found["config"])
    return fvcore_opinion(tower, reducer, found["forward"]["total_gmacs"])


def on_scenes(model: str, image_size: int | None) -> tuple[HostModel, Sample]:
    """A host with the weights that ship with it, and images of the built-in world, for adaptive methods."""
    host = load_host(model, None, "cpu", "float32", image_size)
    annotations = load("captions", data_folder(BUILT_IN_WORLD, None), SAMPLED_IMAGES)
    return host.model, sample_of(host, annotations)


def build(host: HostModel) -> HostModel:
    """The host with random weights on the CPU, for timing: what a model costs does not depend on its values."""
    return type(host)(host.config).eval()
