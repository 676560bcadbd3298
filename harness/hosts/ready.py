"""A host model ready to evaluate, with its tokenizer, on a device."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.hosts.build import split_name
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.weights.load import load_model
from harness.hosts.weights.own import LearnedMethod
from harness.hosts.weights.released import LoadReport
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.registry import methods
from harness.kit.settings import validated
from harness.reduction import MethodConfig, TokenReducer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
REASONS_SHOWN = 3


@dataclass(frozen=True)
class Host:
    """A host model ready to evaluate: its module, tokenizer, closed answer list, where and how it runs, the prompt that
    its captions were trained to begin with, and what a method has learned with it.
    """

    name: str
    model: HostModel
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    prompt: str = ""
    learned: LearnedMethod | None = None

    def method(self, name: str, config: Mapping[str, Any] | MethodConfig) -> TokenReducer[Any]:
        """A method by its resolved config, on the host's device, with what it learned if it is one that learns.

        HarnessError where such a method has no trained weights, or was trained with another setting.
        """
        kind = methods.get(name)
        settings = (
            config if isinstance(config, MethodConfig) else validated(kind.Config, dict(config), f"method {name}")
        )
        reducer: TokenReducer[Any] = kind(settings, self.model.shape)
        if reducer.learns:
            learned = self.learned
            stated = None if learned is None else (learned.name, learned.config)
            check_learned(name, settings.model_dump(mode="json"), stated)
        return self.with_learned(reducer)

    def with_learned(self, reducer: TokenReducer[Any]) -> TokenReducer[Any]:
        """The method on the host's device, in evaluation mode, with the parameters that the weights hold of it."""
        if reducer.learns and self.learned is not None:
            fill_method(reducer, self.learned)
        return reducer.to(self.device, self.dtype).eval()


def check_learned(name: str, config: Mapping[str, Any], learned: tuple[str, Mapping[str, Any]] | None) -> None:
    """HarnessError unless the weights' method is this one with this config; `learned`: its name and config."""
    if learned is None:
        raise HarnessError(
            f"method {name} learns, and these weights hold none of it: train it with its host by "
            f"`finetune --method {name}`, and name that folder with --weights"
        )
    if learned[0] != name:
        raise HarnessError(f"method {name}: these weights hold what {learned[0]} has learned; name its own weights")
    differing = sorted(key for key in config if config[key] != learned[1].get(key) and key != "seed")
    if differing:
        key = differing[0]
        raise HarnessError(
            f"method {name}: learned with {key} {_shown(learned[1].get(key))}, asked for with {_shown(config[key])}; "
            "leave out --ratios, --schedule and --set, or train it with this setting"
        )


def _shown(value: Any) -> str:
    """A setting in a line: a schedule as 'begin=3,6 keep=0.7,0.5', numbers to four digits."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_shown(part)}" for name, part in value.items() if part is not None)
    if isinstance(value, (list, tuple)):
        return ",".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fill_method(reducer: TokenReducer[Any], learned: LearnedMethod) -> None:
    """Give a method the parameters it has learned; HarnessError where they do not fit."""
    try:
        reducer.load_state_dict({name: tensor.float() for name, tensor in learned.tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise HarnessError(f"method {learned.name}: its weights do not fit this host: {reason}") from error


def pick_device(name: str) -> torch.device:
    """The device of --device: auto takes CUDA where there is one; CUDA where there is none is a HarnessError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise HarnessError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise HarnessError(f"device {name!r}: no such CUDA device here; use --device cpu")
    if device.type not in {"cpu", "cuda"}:
        raise HarnessError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The dtype of --dtype; HarnessError for an unknown one."""
    if name not in DTYPES:
        raise HarnessError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def load_host(
    name: str,
    weights: Path | None,
    device: str,
    dtype: str,
    image_size: int | None = None,
    tokenizer: str | None = None,
    warn: Callable[[str], None] = warn_on_stderr,
) -> Host:
    """The trained host on its device; raises HarnessError for unknown names and unusable weights.

    `image_size` other than the weights' interpolates their position table. `tokenizer`: in place of the weights' own,
    as `harness.hosts.weights.load.load_model` takes it. `warn` gets, in one line, what became of
    a released file's tensors.
    """
    split_name(name)
    place, kind = pick_device(device), pick_dtype(dtype)
    loaded = load_model(name, weights, image_size, tokenizer)
    if loaded.report is not None:
        warn(f"weights {loaded.weights}: {account(loaded.report)}")
    model = loaded.model.to(place, kind).eval()
    return Host(name, model, loaded.tokenizer, loaded.answers, place, kind, loaded.prompt, loaded.learned)


def account(report: LoadReport) -> str:
    """One line on a released file: how many of its tensors were loaded, and what was not or was not there, and why."""
    line = report.lines()[0] + "".join(f"; {remark}" for remark in report.remarks())
    if report.left_out:
        line += f"; {len(report.left_out)} not loaded ({_reasons(report.left_out.values())})"
    if report.missing:
        reasons = _reasons(report.reasons[name] for name in report.missing)
        line += f"; {len(report.missing)} not in the file, left as initialised ({reasons})"
    return line


def _reasons(reasons: Iterable[str]) -> str:
    """The commonest of some reasons, with their counts."""
    kinds = Counter(re.sub(r"^double of .+", "double of one that was", reason) for reason in reasons)
    line = [f"{count}: {reason}" for reason, count in kinds.most_common(REASONS_SHOWN)]
    return "; ".join(line + ["…"] * (len(kinds) > REASONS_SHOWN))
