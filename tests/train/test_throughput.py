"""A training step beside a matrix product: the arithmetic of the figures, and that a step never waits for the GPU."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from harness.cli.main import main
from harness.cost.flops import operator_name, tensors
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.objectives.parts.recipe import recipe_of
from harness.report.throughput_text import _loader_lines, read_throughput
from harness.train import throughput
from harness.train.request import PretrainRequest
from harness.train.session import Session
from harness.train.step_time import KINDS, REST, kind_of, time_shares
from harness.train.throughput import TimedRun, against_product, loader_part, measure_throughput, product_rate

FAMILIES = ("albef", "blip", "meter", "clip")
CPU = torch.device("cpu")
# What a host must wait for a GPU to know. Indexing by a mask counts where it is True, and does so below this level.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Reads(TorchDispatchMode):
    """Counts operators, and those whose result or shape the host needs from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator_name(func)
        self.operators += 1
        masked = name in INDEXING and any(index.dtype in (torch.bool, torch.uint8) for index in tensors(args[1]))
        repeated = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in READS or masked or repeated:
            self.reads[name] += 1
        return func(*args, **(kwargs or {}))


def request(family: str = "albef", **changes: Any) -> PretrainRequest:
    recipe = {"batch_size": 2, "queue_size": 16} | changes.pop("recipe", {})
    asked = {"data": (), "out": Path(), "method": "elip", "schedule": "begin=1 keep=.6 lookahead=2", "device": "cpu"}
    return PretrainRequest(model=f"{family}-tiny", recipe=recipe, **asked | changes)


def run_of(asked: PretrainRequest) -> TimedRun:
    run = throughput._run(Session(asked, recipe_of(asked.model, asked.recipe)), asked)
    run.model.train()
    return run


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of few blocks."""
    monkeypatch.setattr(throughput, "build_host", partial(build_host, depth=3, text_layers=1))


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything timed takes 2 s; products are 10 x 10. Returns what is called, by turns."""
    calls: list[str] = []

    def seconds(call: Any, device: torch.device) -> float:
        calls.append(call.__qualname__.split(".")[0])
        call()
        return 2.0

    monkeypatch.setattr(throughput, "_seconds", seconds)
    monkeypatch.setattr(throughput, "product_side", lambda device: 10)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_never_waits_for_the_device(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    for batch in (3, 5):
        run = run_of(request(family, recipe={"batch_size": batch, "clip_norm": 1.0}))
        # AdamW reads its count of steps, which is on the CPU.
        monkeypatch.setattr(run.optimizer, "step", lambda: None)
        with Reads() as spy:
            run.step(throughput.synthetic_pairs(run.objective.host.config, batch, CPU))
        assert spy.reads == {}
        counted.append(spy.operators)
    # Nor does it go through the pairs one by one.
    assert counted[0] == counted[1]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.any()), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x.repeat_interleave(torch.tensor([1, 2, 0])), "repeat_interleave"),
    ],
)
def test_the_spy_sees_reads(call: Any, name: str) -> None:
    with Reads() as spy:
        call(torch.arange(3))
    assert spy.reads[name] == 1


def test_a_step_is_an_optimizer_step_over_its_micro_batches() -> None:
    run = run_of(request("clip", recipe={"accumulate": 2, "warmup_steps": 0}))
    before = run.objective.host.logit_scale.detach().clone()
    run.step(throughput.synthetic_pairs(run.objective.host.config, 2, CPU))
    assert (run.position.step, run.position.batches) == (1, 2)
    assert run.objective.host.logit_scale != before


def test_the_share_is_ideal_time_over_measured_between_products() -> None:
    timed = throughput.Timed([4.0, 10.0, 8.0], [10.0, 30.0, 10.0, 10.0], 2048, torch.bfloat16, "math", {})
    figures = against_product(timed, pairs=8, gmacs=5)
    # 40 GMACs at 20, 20 and 10 a second: 2 of 4 s, 2 of 10 s, 4 of 8 s.
    assert figures["share"] == pytest.approx(0.5)
    assert figures["step"] == {"median_s": 8.0, "seconds": [4.0, 10.0, 8.0], "pairs_per_s": 1.0}
    assert (figures["ideal_s"], figures["product"]["gmacs_per_s"]) == (4.0, 10.0)
    assert figures["product"]["dtype"] == "bfloat16"


def test_the_products_rate_counts_all_that_ran(steady: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert product_rate(CPU, torch.float32, seconds=7) == pytest.approx(10**3 / 2 / 1e9)
    assert steady == ["product_rate"] * 4


@pytest.mark.parametrize(
    ("images_per_s", "workers", "wait", "needed"),
    [(50, 0, 2 / 3, 2), (400, 0, 0.2, 1), (50, 2, 0.5, 4), (300, 1, 0.0, 1), (300, 6, 0.0, 2)],
)
def test_a_loader_beside_a_model_of_100_images_a_second(
    images_per_s: float, workers: int, wait: float, needed: int
) -> None:
    part = loader_part(images_per_s, workers, model_rate=100.0)
    assert part["wait_share"] == pytest.approx(wait)
    assert part["workers_needed"] == needed
    assert part["bottleneck"] is (images_per_s < 100)


def test_a_record_of_a_host(steady: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "vision": {"forward_gmacs": 1.0, "train_step_gmacs": 3.0},
        "momentum": {"forward_gmacs": 2.0, "train_step_gmacs": 2.0},
    }
    monkeypatch.setattr(throughput, "host_parts", lambda name, reducer, size, recipe: parts)
    record = measure_throughput(request(), 1)
    assert steady == ["product_rate", "_time_steps", "product_rate"]
    assert (record["parts"], record["train_step_gmacs"]) == (parts, 5.0)
    assert record["step"] == {"median_s": 2.0, "seconds": [2.0], "pairs_per_s": 1.0}
    # Two pairs of 5 GMACs at 500 MACs a second.
    assert record["ideal_s"] == pytest.approx(2e7)
    assert record["share"] == pytest.approx(1e7)
    assert (record["text_tokens"], record["batch_size"], record["image_size"]) == (48, 2, 64)
    assert record["attention_backend"] == "flash_attention_for_cpu"
    assert (record["loader"], record["peak_mib"], record["run"]["device"]) == (None, None, "cpu")
    assert set(record["time"]) == {*KINDS, REST}
    assert sum(record["time"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::mkldnn_convolution", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::gelu_backward", "activations"),
        ("aten::native_layer_norm", "norms"),
        ("aten::copy_", "copies"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::_foreach_mul_", "optimizer"),
        ("autograd::engine::evaluate_function: AddmmBackward0", REST),
        ("aten::add", REST),
    ],
)
def test_each_operation_is_of_one_kind(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind


def test_a_step_of_products_spends_its_time_on_products_and_nothing_is_said_of_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    shares = time_shares(lambda: [left @ right for _ in range(20)], on_gpu=False)
    assert capfd.readouterr() == ("", "")
    assert next(iter(shares)) == "products"
    assert shares["products"] > 0.5


def test_the_command_prints_loader_and_model(
    steady: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(4):
        Image.new("RGB", (32, 32), (60 * at, 0, 0)).save(tmp_path / f"{at}.jpg")
    rows = [{"image": f"{at}.jpg", "caption": "a red square"} for at in range(4)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    monkeypatch.setattr(throughput, "loader_rate", lambda loader, seconds: loader.samples / 16)
    small = ["--model=clip-tiny", "--method=dense", "--batch-size=2", "--steps=1", "--device=cpu", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["throughput", *small, "--data", str(tmp_path / "pairs.json")])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (0, "")
    assert "model alone         1.00 pairs/s" in printed.out
    assert "loader alone        0.2 images/s, in the training process" in printed.out
    assert "the loader is the bottleneck: steps wait 80.0% of the time; --workers 4 feeds this model" in printed.out
    with pytest.raises(SystemExit):
        main(["throughput", *small, "--json", "--recompute", "--recipe", "accumulate=2"])
    record = json.loads(capsys.readouterr().out)
    assert (record["accumulate"], record["recompute"], record["step"]["pairs_per_s"]) == (2, True, 2.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "1", "--model", "albef-tiny"], "expected at least 2 pairs"),
        (["--precision", "int8"], "--precision int8: expected one of no, bf16, fp16"),
        (["--device", "tpu"], "device 'tpu': expected auto, cpu, cuda or cuda:N"),
        (["--method", "elipp"], "elipp"),
        (["--data", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["throughput", "--model", "clip-tiny", "--device", "cpu", *words])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


def test_a_batch_that_memory_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: TimedRun, pairs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(TimedRun, "step", full)
    with pytest.raises(HarnessError, match="batch size 2: the GPU's memory does not hold it; lower --batch-size"):
        measure_throughput(request("clip"), 1)


@pytest.mark.parametrize(("workers", "minutes"), [(0, "0.8"), (2, "0.7")])
def test_an_epoch_takes_as_long_as_the_slower_of_two_or_both_in_turn(workers: int, minutes: str) -> None:
    part = loader_part(500.0, workers, model_rate=100.0) | {"pairs_per_epoch": 4000}
    assert _loader_lines(part)[-1] == f"an epoch            4000 pairs, {minutes} min at these rates"


def test_what_is_shown_must_have_been_measured(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(HarnessError, match="not what throughput --json prints"):
        read_throughput(tmp_path / "other.json")
    with pytest.raises(HarnessError, match=r"missing\.json: cannot be read"):
        read_throughput(tmp_path / "missing.json")


def test_an_objective_with_batches_of_its_own_is_not_timed() -> None:
    with pytest.raises(HarnessError, match="objective curriculum: reads other batches than pairs"):
        measure_throughput(request(objective="curriculum"), 1)
