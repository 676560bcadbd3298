"""Prints what the README promises about time: the main job, --help, list, and pairs encoded per second.

Run it by hand (`python tests/benchmark.py`); it is not a test, because machines differ.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median


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


def main() -> None:
    """Measure and print."""
    for words in (("--help",), ("list",)):
        print(f"{' '.join(words):<12}{timed(*words, runs=7)[0]:8.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        seconds, out = timed("run", "--method", "elip", "--ratios", "0.5,0.7", "--out", folder, "--json")
        print(f"{'main job':<12}{seconds:8.1f} s on {os.cpu_count()} cores")
        for record in json.loads(out):
            spec, made = record["spec"], record["cost"]["encodings"]
            encoded = made["images"] + made["pairs"]
            spent = record["diagnostics"]["evaluation_seconds"]
            cell = f"{spec['method']:<6}{spec['ratio']:<5g}{spec['task']:<10}"
            print(f"  {cell}{spent:8.1f} s  {encoded:>6} encodings, {encoded / spent:6.0f} a second")
        again, _ = timed("run", "--method", "elip", "--ratios", "0.5,0.7", "--out", folder, "--json")
        print(f"{'again':<12}{again:8.1f} s")


if __name__ == "__main__":
    main()
