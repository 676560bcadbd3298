"""Which methods make sense where, and why others do not: by host, task and protocol, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.registry import methods, tasks
from harness.metrics.quantity import declared
from harness.reduction.stack import StackShape


def check_protocol(method: str, protocol: str) -> None:
    """HarnessError where a method cannot be measured under a protocol, in whatever host."""
    kind = methods.get(method)
    if kind.only_in_training and protocol == "inference":
        raise HarnessError(
            f"method {method} reduces in training alone, and inference would measure dense: take --protocol finetune "
            "or pretrain"
        )
    if kind.adaptive and protocol == "pretrain":
        raise HarnessError(
            f"method {method} is adaptive: what it keeps is measured on images with trained weights, and protocol "
            "pretrain has none before it; take --protocol inference or finetune, or pretrain it without a ratio"
        )


def check_objective(method: str, protocol: str, model: str, task: str) -> None:
    """HarnessError where the losses that a protocol trains a host with cannot serve a method."""
    from harness.objectives import choose, choose_downstream

    if methods.get(method).needs_momentum and protocol != "inference":
        (choose(model) if protocol == "pretrain" else choose_downstream(model, task)).check_method(method)


def nothing_to_read(method: str, shape: StackShape, task: str, protocol: str) -> str | None:
    """Why a text-guided method would measure dense: the host sees no image beside a text in this task; None where it
    does, and where training reduces by texts.
    """
    kind = methods.get(method)
    if (
        protocol != "inference"
        or not kind.needs_text
        or not (kind.without_text or "all tokens").startswith("all tokens")
    ):
        return None
    path = tasks.entry(task).path
    beside = "fusion" in shape.kinds and (path is None or any(one.with_text for one in declared(path)))
    line = f"method {method} is guided by text, and images are encoded without one: all tokens would stay"
    return None if beside else line


@contextmanager
def naming(method: str) -> Iterator[None]:
    """HarnessErrors of the block name the method."""
    try:
        yield
    except HarnessError as error:
        if str(error).startswith(f"method {method}"):
            raise
        raise HarnessError(f"method {method}: {error}") from error


class LeftOut:
    """The methods of `--method all` that a request cannot measure, a line for each."""

    def __init__(self, model: str, ratios: int, tasks: int) -> None:
        """`ratios`, `tasks`: how many are asked for."""
        self._model, self._asked = model, (ratios, tasks)
        self._found: dict[tuple[str, str], tuple[set[float | None], set[str]]] = {}

    def note(self, method: str, ratio: float | None, task: str, reason: str) -> None:
        """A method that is left out of a task at a ratio."""
        found_ratios, found_tasks = self._found.setdefault((method, reason), (set(), set()))
        found_ratios.add(ratio)
        found_tasks.add(task)

    def lines(self) -> Iterator[str]:
        """'left out on albef-tiny: method flip reduces …', with the ratios and tasks where it is not all of them."""
        for (_, reason), (found_ratios, found_tasks) in self._found.items():
            few = len(found_ratios) < self._asked[0]
            at = ", ".join(f"{ratio:g}" for ratio in sorted(one for one in found_ratios if one is not None))
            of = "" if len(found_tasks) == self._asked[1] else f" in {', '.join(sorted(found_tasks))}"
            yield f"left out on {self._model}{of}{f' at {at}' * few}: {reason}"

    def tell(self, measured: int) -> None:
        """Warn of each; HarnessError where no method was left that can be `measured`."""
        lines = list(self.lines())
        if lines and not measured:
            raise HarnessError(f"--method all: no method is left to measure; {lines[0]}")
        for line in lines:
            warn_on_stderr(line)
