"""What can be measured: tasks that weights have heads for and the data annotations of, and the hosts that do them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.data.annotations.answer_list import ANSWER_LIST
from harness.data.formats import opened
from harness.data.scenes import WORLD_FORMATS
from harness.data.world import BUILT_IN_WORLD, world_of
from harness.hosts.build import skeleton
from harness.hosts.facts import host_facts
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.load import abilities_in, read_answers
from harness.hosts.weights.released_files import is_released
from harness.hosts.weights.sets import shipped, stated_model, tasks_of
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.registry import models, tasks
from harness.train.protocol import trainable_tasks

DEFAULT_HOST = "albef-tiny"
# What the first command measures, in a few minutes; all tasks take a quarter of an hour.
FIRST_TASKS = "retrieval,vqa"


def chosen_hosts(
    named: str | None,
    names: str,
    weights: Path | str | None,
    data: str,
    protocol: str = "inference",
    *,
    listed: bool = False,
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The hosts of `--model` and `--tasks`, each with the tasks it is measured on.

    One host does all tasks that are named, several do those they can. Without a host it is that of the weights, or
    else every task goes to the first of the hosts with shipped weights that can do it, DEFAULT_HOST first. Of all,
    those that this machine cannot do are left out, each with a warning. Raises HarnessError for unknown names, and
    where a task is left that nobody does. `listed`: a closed list of answers is given, or comes with the data.
    """
    if named is None and weights is not None:
        named = stated_model(weights)
    hosts = shipped_hosts() if named is None else models.expand(named)
    if weights is not None and len(hosts) > 1:
        raise HarnessError(f"--weights {weights}: are one host's; name it alone with --model, not {', '.join(hosts)}")
    wanted = tasks.expand(names)
    every = names.strip() == "all"
    if named is not None and len(hosts) == 1 and not every:
        check_reads_texts(hosts[0], wanted)
        return ((hosts[0], wanted),)
    can_do = {
        host: measurable_tasks(host, weights, data, protocol, must=len(hosts) == 1, listed=listed) for host in hosts
    }
    found: dict[str, tuple[str, ...]] = {}
    for task in wanted:
        by_any = not every and not tasks.get(task).NEEDS  # features, which `all` leaves out
        doing = [host for host in hosts if task in can_do[host] or by_any]
        if doing and every and (reason := tasks.get(task).unavailable()) is not None:
            warn_on_stderr(f"{task} is left out: {reason}")
            continue
        for host in doing if named is not None else doing[:1]:
            found[host] = (*found.get(host, ()), task)
        if not doing and not every:
            raise _blame(task, hosts, data, protocol)
    if not found:
        raise HarnessError(f"no task for {', '.join(hosts)} on {data}; see: python -m harness check data {data}")
    return tuple((host, found[host]) for host in hosts if host in found)


def check_reads_texts(model: str, wanted: Sequence[str]) -> None:
    """HarnessError for tasks that a plain ViT, which has no text side, is asked to do."""
    undone = [name for name in wanted if tasks.get(name).NEEDS]
    if undone and "/" in model:
        able = ", ".join(name for name in tasks.names() if not tasks.get(name).NEEDS)
        raise HarnessError(
            f"{', '.join(undone)}: {model} is a ViT alone, without a text side or heads; take --tasks {able}, or name "
            "another --model"
        )


def default_tasks(named: str | None, weights: Path | str | None, data: str) -> str:
    """The tasks where none are named: a few of the built-in world, and all of whatever else one brings."""
    return FIRST_TASKS if named is None and weights is None and data == BUILT_IN_WORLD else "all"


def _blame(task: str, hosts: Sequence[str], data: str, protocol: str) -> HarnessError:
    """Why none of some hosts does a task: the data hold nothing of it, the weights lack it, or the hosts cannot."""
    kind = tasks.get(task)
    if world_of(data) is None and kind.READS not in opened(data).fields():
        try:
            opened(data).choose(kind.READS, None)
        except HarnessError as error:
            return HarnessError(f"{task}: {error}")
    having = [host for host in hosts if kind.NEEDS & skeleton(host).heads().keys()]
    if having and protocol == "inference":
        way = f"fine-tune it (finetune --model {having[0]} --task {task}), or name other --weights"
        return HarnessError(f"{task}: the weights of {' and '.join(having)} lack what it needs; {way}")
    return HarnessError(f"{task}: {', '.join(hosts)} cannot do it by protocol {protocol}; name another --model")


def shipped_hosts() -> tuple[str, ...]:
    """The hosts that weights ship with, DEFAULT_HOST first."""
    return tuple(sorted(shipped(), key=lambda host: (host != DEFAULT_HOST, host)))


def measurable_tasks(
    model: str,
    weights: Path | str | None,
    data: str,
    protocol: str = "inference",
    *,
    must: bool = True,
    listed: bool = False,
) -> tuple[str, ...]:
    """The tasks of a host with some weights (None: those that ship with it) on a data folder or the built-in world.

    Of a protocol that trains: those that the host can be trained on. Otherwise those that its weights have heads for;
    a folder of weights may hold some for each task (`harness.hosts.weights.sets`), and questions are left out where no
    closed list of answers comes with them, nor with the data (`listed`). Raises HarnessError where nothing is left, if
    there `must` be something, and for weights and folders that cannot be read.
    """
    wanted = tasks.usable()
    if protocol == "inference":
        files = tasks_of(model, weights, tuple(wanted))
        abilities = {path: abilities_of(model, path, listed=listed) for path in set(files.values())}
        can = [name for name, path in files.items() if not wanted[name].NEEDS or wanted[name].NEEDS & abilities[path]]
    else:
        can = list(trainable_tasks(protocol, model))
    held = tuple(WORLD_FORMATS) if world_of(data) is not None else opened(data).fields()
    found = tuple(name for name in can if wanted[name].READS in held)
    if not found and must:
        raise HarnessError(
            f"no task for {model} on {data}, which holds {', '.join(sorted(held)) or 'no annotations'}: "
            f"it can do {', '.join(can) or 'none'}; see what the folder is with: python -m harness check data {data}"
        )
    return found


def abilities_of(model: str, path: Path, *, listed: bool = False) -> frozenset[str]:
    """What a host can be asked with the heads that a file of weights has, and with answers beside it or `listed`."""
    abilities = abilities_in(model, path) if is_released(path) else host_facts(model, weights=path).abilities
    answers = listed or read_answers(path.parent) or read_answers(assets_of(model))
    return abilities if answers else abilities - {"answer"}


def brings_answers(data: str) -> bool:
    """Whether a data set has a closed list of answers of its own; HarnessError for one that cannot be read."""
    return world_of(data) is None and bool(opened(data).of(ANSWER_LIST))
