"""Facts about folders of weights: which file does a task, what tells two sets apart, what is said where one lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.hosts.build import build_host
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.own import save_weights
from harness.hosts.weights.sets import base_of, shipped, start_weights, stated_model, task_weights, tasks_of
from harness.hosts.weights.sets import weights_digest as digest
from harness.kit.errors import HarnessError

FILE = "model.safetensors"
TASKS = ("captioning", "entailment", "nlvr2", "vqa")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own/ with weights of its own and for entailment; tasks/ with those for entailment and NLVR2 alone."""
    root = tmp_path_factory.mktemp("sets")
    save_weights(build_host("albef-tiny"), root / "own" / FILE, "albef-tiny")
    for task in ("entailment", "nlvr2"):
        save_weights(build_host("albef-tiny", task=task), root / "tasks" / task / FILE, "albef-tiny")
    shutil.copytree(root / "tasks" / "entailment", root / "own" / "entailment")
    return root


def test_a_task_is_done_with_the_weights_of_its_folder_else_with_the_folders_own(made: Path) -> None:
    own = made / "own"
    assert task_weights("albef-tiny", own, "entailment") == own / "entailment" / FILE
    assert task_weights("albef-tiny", own, "vqa") == own / FILE == start_weights("albef-tiny", own)
    assert task_weights("albef-tiny", own / FILE, "entailment") == own / FILE
    assert task_weights("albef-tiny", own / "entailment", "vqa") == own / "entailment" / FILE


def test_shipped_weights_are_such_a_folder() -> None:
    assert task_weights("albef-tiny", None, "vqa") == assets_of("albef-tiny") / FILE
    assert task_weights("albef-tiny", None, "entailment") == assets_of("albef-tiny") / "entailment" / FILE
    assert {"albef-tiny", "blip-tiny"} <= set(shipped())


def test_a_folder_without_its_own_weights_does_the_tasks_it_has_folders_for(made: Path) -> None:
    folder = made / "tasks"
    assert tasks_of("albef-tiny", folder, TASKS) == {task: folder / task / FILE for task in ("entailment", "nlvr2")}
    own = made / "own"
    assert tasks_of("albef-tiny", own, ("entailment", "vqa")) == {
        "entailment": own / "entailment" / FILE,
        "vqa": own / FILE,
    }
    with pytest.raises(HarnessError) as caught:
        task_weights("albef-tiny", folder, "vqa")
    assert str(caught.value) == (
        f"weights {folder}: none for vqa, neither in its folder vqa nor of its own, {FILE}; "
        "leave the task out, or add them"
    )


def test_a_tasks_folder_without_weights_is_an_error_and_no_other_weights_are_taken(made: Path, tmp_path: Path) -> None:
    for kind in ("own", "tasks"):
        folder = shutil.copytree(made / kind, tmp_path / kind)
        (folder / "vqa").mkdir()
        for call in (
            lambda folder=folder: task_weights("albef-tiny", folder, "vqa"),
            lambda folder=folder: tasks_of("albef-tiny", folder, TASKS),
        ):
            with pytest.raises(HarnessError, match=r"vqa: no model\.safetensors or .* in this folder; name a file"):
                call()


def test_a_folder_of_nothing_and_no_folder_at_all_are_errors(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no model\.safetensors or .* in this folder; name a file"):
        tasks_of("albef-tiny", tmp_path, TASKS)
    with pytest.raises(HarnessError, match="no such file or folder, and not in the Hugging Face cache"):
        tasks_of("albef-tiny", "nobodys/weights", TASKS)
    with pytest.raises(HarnessError, match="no weights ship with it"):
        tasks_of("clip-small", None, TASKS)


def test_a_set_is_known_by_its_own_weights_and_without_any_by_its_place(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "own", tmp_path / "own")
    assert base_of("albef-tiny", tmp_path / "own") == base_of("albef-tiny", made / "own")
    shutil.rmtree(tmp_path / "own" / "entailment")
    assert base_of("albef-tiny", tmp_path / "own") == base_of("albef-tiny", made / "own" / FILE)
    assert base_of("albef-tiny", None) != base_of("albef-tiny", made / "own")
    assert base_of("albef-tiny", made / "tasks") == (made / "tasks").resolve().as_posix()


def test_the_digest_is_of_the_weights_and_of_what_is_read_beside_them(made: Path, tmp_path: Path) -> None:
    path = shutil.copytree(made / "tasks" / "nlvr2", tmp_path / "nlvr2") / FILE
    found = [digest("albef-tiny", path), digest("blip-tiny", path)]  # the vocabulary that ships with the host
    assert digest("albef-tiny", made / "tasks" / "nlvr2" / FILE) == found[0]
    (path.parent / "recipe.json").write_text("{}")
    assert digest("albef-tiny", path) == found[0]
    for name, text in (("config.json", '{"prompt": "a picture of"}'), ("vocab.txt", "[PAD]\n")):
        (path.parent / name).write_text(text)
        found.append(digest("albef-tiny", path))
    (path.parent / "tokenizer").mkdir()
    (path.parent / "tokenizer" / "tokenizer.json").write_text("{}")
    found.append(digest("albef-tiny", path))
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    found.append(digest("albef-tiny", path))
    assert len(set(found)) == len(found)
    assert all(len(one) == 16 for one in found)


def test_weights_say_of_which_host_they_are(made: Path, tmp_path: Path) -> None:
    assert stated_model(assets_of("blip-tiny")) == "blip-tiny"
    assert stated_model(made / "own" / FILE) == stated_model(made / "tasks") == "albef-tiny"
    released = tmp_path / "pytorch_model.bin"
    released.write_bytes(b"PK")
    with pytest.raises(HarnessError, match="do not say of which host they are; name it with --model"):
        stated_model(released)
    with pytest.raises(HarnessError, match="no such file"):
        stated_model(tmp_path / "none.safetensors")
