"""Made-up records in the project's schema, for tables and figures."""

import pytest

from harness.kit.digest import key_of

GMACS = {"elip": 1.22, "evit": 1.0, "random": 1.0, "tome": 1.01}
LOSS = {"elip": 0.04, "evit": 0.22, "random": 0.30, "tome": 0.15}
DENSE_QUALITY = {
    "vqa": {"vqa_accuracy": 0.982},
    "retrieval": {
        f"{way}_r{rank}{rerank}": {"": 0.47, "_rerank": 0.78}[rerank] + {1: 0.0, 5: 0.15, 10: 0.2}[rank]
        for rerank in ("", "_rerank")
        for way in ("t2i", "i2t")
        for rank in (1, 5, 10)
    },
}

NEW_FIELDS = {"base": "set1", "hardware": "cpu", "threads": 1, "split": None, "training": []}
UNITS = {"vqa": "questions", "nlvr2": "statements", "retrieval": "queries", "captioning": "images"}


def make_cost(method, ratio):
    forward = ratio * GMACS.get(method, 1.0)
    extra = max(0.0, GMACS.get(method, 1.0) - 1) * ratio
    total = {
        "main_gmacs": 0.2 * (forward - extra),
        "scoring_gmacs": 0.2 * extra,
        "matching_gmacs": 0.0,
        "predictor_gmacs": 0.0,
    }
    total["total_gmacs"] = sum(total.values())
    tokens = [65, 65] + [round(64 * ratio) + 2] * 10
    return {
        "ratio": ratio,
        "tokens_per_block": tokens,
        "tokens_per_mlp": tokens,
        "forward": total,
        "train_step": {"total_gmacs": 0.6 * ratio},
        "dense": {"forward_gmacs": 0.2, "train_step_gmacs": 0.6},
        "memory": {"train_mib_per_image": 9.1 * ratio, "source": "estimated"},
        "latency": None,
    }


def make_record(method, ratio, task, status="done", **spec):
    nominal, ratio = ratio, 0.71 if ratio is None else ratio
    spec = {
        "model": "albef-tiny",
        "weights": "ab12",
        "method": method,
        "config": {},
        "ratio": nominal,
        "schedule": "paper",
        "match": "tokens",
        "protocol": "inference",
        "task": task,
        "task_options": {},
        "data": "scenes",
        "data_digest": "d",
        "limit": 1000,
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 64,
        "image_size": 64,
        "seed": 0,
        "code": "c",
        **spec,
    }
    quality = {}
    for metric, best in DENSE_QUALITY.get(task, {}).items():
        loss = LOSS.get(method, 0.0) * (1 - ratio) * 1.4
        value = best - loss
        delta = None if method == "dense" else -loss
        quality[metric] = {
            "value": value,
            "ci95": [value - 0.013, min(1.0, value + 0.012)],
            "n": 2000,
            "delta_to_dense": delta,
            "delta_ci95": None if delta is None else [delta - 0.01, delta + 0.009],
        }
    done = status == "done"
    return {
        "format": 2,
        "key": key_of(spec),
        "spec": spec,
        "status": status,
        "error": None if done else "CUDA out of memory at batch 64",
        "cost": make_cost(method, ratio),
        "quality": {task: quality} if done else {},
        "diagnostics": {"mentioned_kept_per_block": [1.0] * 4 + [ratio] * 8, "fallback": None},
        "run": {"started": "2026-01-01T00:00:00"},
        "samples": None,
    }


def make_records(ratios=(0.7, 0.5), methods=("elip", "evit", "random", "tome")):
    cells = [("dense", 1.0), *((method, ratio) for ratio in ratios for method in methods)]
    return [make_record(method, ratio, task) for method, ratio in cells for task in ("retrieval", "vqa")]


@pytest.fixture
def records():
    return make_records()


def full_record(method, ratio, task, values, status="done", blind=None, rate=None, size=64, **spec):
    """A record of the full evaluation: values is {metric: (value, delta to dense or None)}; intervals are ± 0.02."""
    record = make_record(method, ratio, task, status, **{**NEW_FIELDS, "image_size": size, **spec})
    record["cost"]["image_size"] = size
    record["quality"] = {
        task: {
            metric: {
                "value": value,
                "ci95": [value - 0.02, value + 0.02],
                "n": 100,
                "delta_to_dense": delta,
                "delta_ci95": None if delta is None else [delta - 0.01, delta + 0.01],
            }
            for metric, (value, delta) in values.items()
        }
    }
    if status != "done":
        record |= {"quality": {}, "cost": None}
    per_second = {} if rate is None else {"end_to_end_per_second": rate[0], "model_per_second": rate[1]}
    record["blind"] = blind
    record["throughput"] = {"unit": UNITS[task], "samples": 100, **per_second} if per_second else None
    return record


def number(frame, name, method, ratio=None):
    """The one row of a quantity's column for a method, and a ratio where it has several."""
    chosen = frame.settings["method"] == method
    if ratio is not None:
        chosen &= frame.settings["ratio"] == ratio
    (row,) = frame.column(name)[chosen].to_dict("records")
    return row
