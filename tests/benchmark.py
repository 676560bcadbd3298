"""Prints what is promised about time: what surrounds the model, the main job, pairs encoded per second, re-ranking.

Run it by hand (`python tests/benchmark.py [harness|commands|reranking]`); it is not a test, because machines differ.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from statistics import correlation, linear_regression, median
from unittest.mock import patch

import torch

from harness.data.image_store import ImageStore
from harness.data.scenes import scenes_folder
from harness.evaluate.encoder import VisionEncoder
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import load_host
from harness.kit.progress import SILENT
from harness.metrics.ranking import shortlists
from harness.reduction.budget import make_reducer
from harness.tasks.retrieval import Retrieval, chosen_captions, encoded, reranked, similarities

# The promises were made on a machine that takes so many CPU seconds to import torch and timm.
YARDSTICK = 4.5
SCENES = 200
RERANKED = (4, 8, 16, 32)
RUNS = 3


def timed(*words: str, runs: int = 1) -> tuple[float, str]:
    """Median wall seconds of a command over some runs, and its last stdout."""
    seconds, out = [], ""
    for _ in range(runs):
        started = time.perf_counter()
        out = subprocess.run(
            [sys.executable, "-m", "harness", *words], check=True, capture_output=True, text=True
        ).stdout
        seconds.append(time.perf_counter() - started)
    return median(seconds), out


GRID = ("--method", "elip,evit,tome", "--ratios", "0.5,0.7", "--tasks", "all")
# 1,667 seeds of a control on six tasks of two hosts, and dense.
MANY = ("--method", "random", "--ratios", "0.5", "--tasks", "all", "--seed", ",".join(map(str, range(1667))))
# What surrounds the model: a name, the words of the command, the CPU seconds it may take, the status it ends with.
AROUND = (
    ("--help", ("--help",), 1.0, 0),
    ("list", ("list",), 1.0, 0),
    ("unknown name", ("run", "--method", "elpi"), 1.0, 2),
    ("check data", ("check", "data", "tests/goldens"), 1.0, 1),
    ("table of 42", ("table", "--runs", "results/runs"), 1.5, 0),
    ("plan of 42", ("plan", *GRID), 6.0, 0),
    ("plan of 10,000", ("plan", *MANY), 12.0, 0),
)


def harness() -> None:
    """CPU seconds of what surrounds the model, beside what they may take; each command once before it is timed.

    On a machine that imports torch and timm more slowly than that of the promises, all may take as much longer.
    """
    imports = min(cpu_seconds_of([sys.executable, "-c", "import torch, timm"])[0] for _ in range(3))
    slower = max(1.0, imports / YARDSTICK)
    print(f"{'import torch, timm':<18}{imports:8.2f} s of CPU; {YARDSTICK:g} where the promises were made", flush=True)
    say = partial(tell, slower)
    with tempfile.TemporaryDirectory() as cache:
        spent, ended = cpu_seconds("plan", *GRID, HARNESS_CACHE=cache)
        say("plan of 42, cold", spent, 6.0, ended)
    for name, words, most, status in AROUND:
        for _ in range(2):
            spent, ended = cpu_seconds(*words)
        say(name, spent, most, ended, status)
    with tempfile.TemporaryDirectory() as folder:
        table = ("table", "--runs", str(many_records(Path(folder))))
        # `run` compares records when it has measured them; a folder from elsewhere is compared at the first table.
        first, _ = cpu_seconds(*table)
        spent, ended = cpu_seconds(*table)
        say("table of 10,000", spent, 3.0, ended)
        print(f"{'(the first time':<18}{first:8.2f} s)")
    with tempfile.TemporaryDirectory() as folder:
        few = ("--method", "evit", "--model", "albef-tiny", "--tasks", "vqa", "--limit", "8")
        small = ("run", *few, "--no-latency", "--out", folder)
        one, _ = cpu_seconds(*small, "--ratios", "0.5")
        again, ended = cpu_seconds(*small, "--ratios", "0.5")
        say("second run", again, 3.0, ended)
        further, ended = cpu_seconds(*small, "--ratios", "0.5,0.6,0.7,0.8,0.9")
        # Four cells, whose forward passes over eight images are next to nothing.
        say("a further cell", (further - again) / 4, 0.5, ended)
        print(f"{'(first run':<18}{one:8.2f} s)")


def tell(slower: float, name: str, spent: float, most: float, ended: int, status: int = 0) -> None:
    """A figure beside its promise, on a machine that is so many times slower."""
    most *= slower
    wrong = "" if ended == status else f"  (status {ended}, not {status})"
    print(
        f"{name:<18}{spent:8.2f} s of CPU, at most {most:.3g}{'' if spent <= most else '  MISSED'}{wrong}", flush=True
    )


def many_records(folder: Path, count: int = 10_000) -> Path:
    """Copies of a committed record that differ by their method's seed, as `run` would have saved them."""
    from harness.kit.digest import key_of
    from harness.run.store import Store

    kept = Store("results/runs")
    chosen = [one for one in kept.records() if one["spec"]["method"] in {"dense", "evit"}]
    first = next(one for one in chosen if one["spec"]["method"] == "evit")
    dense = next(
        one
        for one in chosen
        if one["spec"]
        == first["spec"]
        | {name: one["spec"][name] for name in ("method", "config", "ratio", "schedule", "match", "code")}
        and one["spec"]["method"] == "dense"
    )
    store, samples = Store(folder), kept.samples(first)
    store.prepare()
    store.save(dense, kept.samples(dense))
    table = (kept.folder / first["samples"]).read_bytes()
    # All have the same samples, and need not outlive a loss of power.
    with patch("harness.run.store._parquet", return_value=table), patch("os.fsync"):
        for number in range(count - 1):
            spec = first["spec"] | {"config": first["spec"]["config"] | {"seed": number}, "seed": number}
            store.save(first | {"spec": spec, "key": key_of(spec)}, samples)
    return folder


def cpu_seconds(*words: str, **environment: str) -> tuple[float, int]:
    """CPU seconds, of user and system, of a command and its children, and the status it ended with."""
    return cpu_seconds_of([sys.executable, "-m", "harness", *words], **environment)


def cpu_seconds_of(command: list[str], **environment: str) -> tuple[float, int]:
    """The same of any command, with modules compiled once, as in an environment that people have."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=False, capture_output=True, env=kept | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.returncode


def commands() -> None:
    """Time of the main job, of the same job again, and of the commands that only list."""
    for words in (("--help",), ("list",)):
        print(f"{' '.join(words):<12}{timed(*words, runs=7)[0]:8.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        seconds, out = timed("run", "--method", "elip", "--ratios", "0.5,0.7", "--out", folder, "--json")
        print(f"{'main job':<12}{seconds:8.1f} s on {os.cpu_count()} cores")
        for record in json.loads(out):
            spec, made = record["spec"], record["cost"]["encodings"]
            encoded = made["images"] + made["pairs"]
            spent = record["throughput"]["end_to_end_seconds"]
            cell = f"{spec['method']:<6}{spec['ratio']:<5g}{spec['task']:<10}"
            print(f"  {cell}{spent:8.1f} s  {encoded:>6} encodings, {encoded / spent:6.0f} a second")
        again, _ = timed("run", "--method", "elip", "--ratios", "0.5,0.7", "--out", folder, "--json")
        print(f"{'again':<12}{again:8.1f} s")


def reranking() -> None:
    """Time of re-ranking against the number of pairs, for a method that sees images alone and for one led by texts.

    Time is to grow in step with the pairs: a straight line through the measured points tells how nearly it does.
    """
    print(f"re-ranking {SCENES} scenes, {torch.get_num_threads()} threads")
    for method in ("dense", "evit", "elip"):
        points = reranking_times(method)
        for k, pairs, seconds in points:
            print(f"  {method:<6} k = {k:<3}{pairs:>6} pairs{seconds:8.2f} s{pairs / seconds:8.0f} pairs/s")
        each, start, share = line_through([(pairs, seconds) for _, pairs, seconds in points])
        print(f"  {method:<6} {start:.3f} s + {each * 1e3:.3f} ms a pair, R² = {share:.4f}")


@torch.no_grad()
def reranking_times(method: str) -> list[tuple[int, int, float]]:
    """(k, pairs, least seconds of RUNS) for each k of RERANKED, taken in turns; images are decoded before."""
    host = load_host("albef-tiny", None, "cpu", "float32")
    annotations = Retrieval().load(scenes_folder(SCENES, 0), SCENES).in_order()
    captions, _ = chosen_captions(annotations, 1)
    config = host.model.config
    images = ImageStore(annotations.images, config.image_size, config.mean, config.std)
    encoder = VisionEncoder(host, make_reducer(method, open_tower(host.model.vision).shape), images, 64, SILENT)
    texts, _ = encoded(encoder, [caption.text for caption in captions])
    of_texts, of_images = shortlists(similarities(encoder, texts, keep=True), max(RERANKED))
    reranked(encoder, texts, of_texts.best(1), of_images.best(1))
    seconds, pairs = {k: float("inf") for k in RERANKED}, dict.fromkeys(RERANKED, 0)
    for _, k in product(range(RUNS), RERANKED):
        started = time.perf_counter()
        _, pairs[k] = reranked(encoder, texts, of_texts.best(k), of_images.best(k))
        seconds[k] = min(seconds[k], time.perf_counter() - started)
    return [(k, pairs[k], seconds[k]) for k in RERANKED]


def line_through(points: list[tuple[int, float]]) -> tuple[float, float, float]:
    """Slope and intercept of the least-squares line through (pairs, seconds), and the R² that it reaches."""
    pairs, seconds = zip(*points, strict=True)
    slope, intercept = linear_regression(pairs, seconds)
    return slope, intercept, correlation(pairs, seconds) ** 2


def main() -> None:
    """Measure and print what was asked for, or everything."""
    for part in (harness, commands, reranking):
        if part.__name__ in (sys.argv[1:] or [part.__name__]):
            part()


if __name__ == "__main__":
    main()
