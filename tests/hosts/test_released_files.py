"""Facts about other programs' files: what is read of them, that nothing in them runs, what is said of bad ones."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.hosts.weights.released_files import INERT_CLASSES, INERT_DICTS, INERT_LISTS, is_released, read_released
from harness.kit.errors import HarnessError

TENSORS = {"visual.proj": torch.arange(6.0).view(2, 3), "logit_scale": torch.tensor(2.0)}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "other.pth"


@pytest.fixture
def absent() -> Iterator[Any]:
    """Make a class of a module that is not installed; when `gone` is called the modules are removed."""
    kept = dict(sys.modules)

    def make(place: str, base: type = object, **members: Any) -> type:
        module, _, name = place.rpartition(".")
        parents = module.split(".")
        for end in range(1, len(parents) + 1):
            sys.modules.setdefault(".".join(parents[:end]), ModuleType(".".join(parents[:end])))
        kind = type(name, (base,), {"__module__": module, "__qualname__": name, **members})
        setattr(sys.modules[module], name, kind)
        return kind

    def gone() -> None:
        for name in set(sys.modules) - set(kept):
            del sys.modules[name]

    make.gone = gone  # type: ignore[attr-defined]  # the fixture is a function with an end of its own
    yield make
    gone()


@pytest.mark.parametrize("container", ["model", "state_dict", "module", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_are_found_in_their_container(path: Path, container: str | None, prefix: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in TENSORS.items()}
    torch.save({container: tensors, "epoch": 3, "args": {"lr": 1e-4}} if container else tensors, path)
    assert is_released(path)
    assert same(read_released(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_both_of_torchs_formats_are_read(path: Path, zipped: bool) -> None:
    torch.save({"model": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    assert same(read_released(path))


def test_safetensors_of_other_programs_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "clip.safetensors", {"format": "pt"})
    assert is_released(tmp_path / "clip.safetensors")
    assert same(read_released(tmp_path / "clip.safetensors"))


def test_our_own_safetensors_are_not_released_ones(tmp_path: Path) -> None:
    save_file({"vision.cls_token": torch.zeros(1)}, tmp_path / "ours.safetensors")
    save_file(TENSORS, tmp_path / "stated.safetensors", {"config": "{}"})
    assert not is_released(tmp_path / "ours.safetensors")
    assert not is_released(tmp_path / "stated.safetensors")


@pytest.mark.parametrize("name", INERT_CLASSES)
def test_a_lightning_checkpoint_is_read_without_lightning(path: Path, absent: Any, name: str) -> None:
    kind = argparse.Namespace if name == "argparse.Namespace" else absent(name)
    callback = kind()
    callback.best_model_path = "somewhere"
    content = {"callbacks": {kind: {"monitor": "loss"}}, "object": callback, "state_dict": TENSORS, "epoch": 9}
    torch.save(content, path)
    absent.gone()
    assert same(read_released(path))


@pytest.mark.parametrize("name", INERT_DICTS)
@pytest.mark.parametrize("reduced", [False, True], ids=["items", "reduced"])
def test_settings_in_a_subclass_of_dict_are_read(path: Path, absent: Any, name: str, reduced: bool) -> None:
    members = {"__reduce__": lambda self: (type(self), (dict(self),))} if reduced else {}
    settings = absent(name, dict, **members)
    inner, outer = settings(lr=1e-4), settings(seed=0, batch=4096)
    outer["optimizer"] = inner
    torch.save({"hyper_parameters": outer, "one": settings(a=1), "empty": settings(), "state_dict": TENSORS}, path)
    absent.gone()
    assert same(read_released(path))


def test_a_subclass_of_dict_with_attributes_is_read(path: Path, absent: Any) -> None:
    settings = absent(INERT_DICTS[0], dict)(lr=1e-4)
    settings.note = "an attribute, which pickle stores as state"
    torch.save({"hyper_parameters": settings, "state_dict": TENSORS}, path)
    absent.gone()
    assert same(read_released(path))


@pytest.mark.parametrize("reduced", [False, True], ids=["items", "reduced"])
def test_settings_in_a_subclass_of_list_are_read(path: Path, absent: Any, reduced: bool) -> None:
    members = {"__reduce__": lambda self: (type(self), (list(self),))} if reduced else {}
    names = absent(INERT_LISTS[0], list, **members)
    torch.save({"datasets": names(["coco", "vg"]), "one": names([1]), "state_dict": TENSORS}, path)
    absent.gone()
    assert same(read_released(path))


class Runs:
    """What a malicious file holds: unpickling it would run a command."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def refused(path: Path, reason: str) -> None:
    with pytest.raises(HarnessError, match=reason) as caught:
        read_released(path)
    assert str(caught.value).startswith(f"weights {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, r"(posix|nt)\.system"), (eval, "eval"), (exec, "exec"), (os.mkdir, r"\w+\.mkdir")],
)
def test_what_would_run_is_refused_by_name_and_does_not_run(
    path: Path, tmp_path: Path, function: Any, name: str
) -> None:
    mark = tmp_path / "ran"
    words = (
        str(mark) if function is os.mkdir else f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    )
    torch.save({"model": TENSORS, "payload": Runs(function, words)}, path)
    refused(path, f"names the class {name}, which is not loaded for safety; save its state_dict alone")
    assert not mark.exists()


def test_a_class_that_is_not_listed_is_refused_by_name(path: Path, absent: Any) -> None:
    for name in ("pytorch_lightning.callbacks.other.Other", "stranger.Thing"):
        torch.save({"model": TENSORS, "other": absent(name)()}, path)
        refused(path, f"names the class {name},")


def test_a_listed_name_never_reaches_the_class_of_that_name(path: Path, absent: Any) -> None:
    made: list[Any] = []
    kind = absent(INERT_CLASSES[0], object, __setstate__=lambda self, state: made.append(state))
    thing = kind()
    thing.state = 1
    torch.save({"object": thing, "state_dict": TENSORS}, path)
    assert same(read_released(path))
    assert made == []


def test_allowing_ends_with_the_reading(path: Path) -> None:
    # torch keeps them as a set: their order tells nothing.
    before = set(torch.serialization.get_safe_globals())
    torch.save({"model": TENSORS}, path)
    read_released(path)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 2, 9, 40, 200, -60, -1])
def test_a_truncated_file_is_refused(path: Path, zipped: bool, kept: int) -> None:
    torch.save({"model": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    # Of a cut inside a class's name only the begin of that name can be told.
    refused(path, r"not a whole checkpoint \(.+\); fetch it again|names the class torch\._utils\._rebuild_,")


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"\x80\x02}q\x00.", b"\x80\x02N.", b"version https://git-lfs"]
)
def test_a_file_that_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, "not a whole checkpoint|holds no tensors by name")


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"model": {}}, {"model": {"name": "albef"}}, [1], torch.zeros(2)]
)
def test_a_file_without_tensors_by_name_is_refused(path: Path, content: Any) -> None:
    torch.save(content, path)
    refused(path, "holds no tensors by name(; it has .+)?; name a file with a model's weights")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_is_refused(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    refused(path, "a TorchScript program, which is not loaded for safety")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth", "no such file; name a file of weights with --weights")
    refused(Path("/dev/null"), "is a pipe or a device; name a file of weights with --weights")
    refused(tmp_path, "a folder, expected a file")
