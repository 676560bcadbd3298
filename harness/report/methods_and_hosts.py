"""Methods by hosts, tasks and protocols, with the reason where a pair makes no sense: `list methods --hosts`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.hosts.build import paper_settings, split_name
from harness.hosts.facts import HostFacts, host_facts
from harness.kit.errors import HarnessError
from harness.kit.registry import methods, models, tasks
from harness.reduction.budget import make_reducer
from harness.report.layout import Part, markdown, plain
from harness.report.settings import DENSE
from harness.run.suitable import check_objective, check_protocol, nothing_to_read
from harness.train.protocol import trainable_tasks
from harness.train.stage_options import STAGES

PROTOCOLS = tuple(STAGES)
OBJECTIVE = re.compile(r"objective \w+ offers")
YES, WITH_WEIGHTS, NO_TASK = "+", "w", "-"
HEAD = (
    "Marks stand for the protocols "
    + ", ".join(PROTOCOLS)
    + f", in this order: {YES} makes sense; {WITH_WEIGHTS} does with weights that the method learned "
    "(`finetune --method NAME`); "
    f"{NO_TASK} the host cannot do the task, or is not trained for it; a number: no sense, for the reason below. "
    f"{YES} with a number in parentheses: not in all of the tasks, for that reason."
)


@dataclass(frozen=True)
class Pair:
    """A method in a task of a host under a protocol; `reason`: why it makes no sense, None where it does.

    needs_weights: it is measured with weights that it learned.
    """

    method: str
    host: str
    task: str
    protocol: str
    reason: str | None
    needs_weights: bool


def pairs() -> list[Pair]:
    """Every method in every task that a host of each family, its smallest, can do under each protocol."""
    hosts = [host_facts(name) for name in _smallest()]
    return [pair for method in methods.usable() if method != DENSE for host in hosts for pair in _of_host(method, host)]


def render_suitable() -> str:
    """Both tables in Markdown: which tasks hosts do, and where methods make sense, with the reasons in a list."""
    found = pairs()
    hosts = list(dict.fromkeys(pair.host for pair in found))
    reasons = list(dict.fromkeys(pair.reason for pair in found if pair.reason is not None))
    numbers = {reason: str(number) for number, reason in enumerate(reasons, 1)}
    named = list(dict.fromkeys(pair.method for pair in found))
    by_method = [plain("method", "", named, left=True)]
    for host in hosts:
        own = [pair for pair in found if pair.host == host]
        cells = [_marks([pair for pair in own if pair.method == method], numbers) for method in named]
        by_method.append(plain(host, "", cells, left=True))
    by_task = [plain("task", "", tasks.names(), left=True)]
    for host in hosts:
        done = {(pair.task, pair.protocol) for pair in found if pair.host == host}
        cells = [
            " ".join(YES if (task, protocol) in done else NO_TASK for protocol in PROTOCOLS) for task in tasks.names()
        ]
        by_task.append(plain(host, "", cells, left=True))
    parts = [
        markdown(Part("Methods and hosts", by_method[:1], by_method[1:])),
        markdown(Part("Tasks and hosts", by_task[:1], by_task[1:])),
    ]
    return "\n".join([HEAD, "", *parts, *(f"{number}. {reason}" for reason, number in numbers.items())])


def _smallest() -> Iterator[str]:
    """The tiny host of each family, or its first."""
    families: dict[str, list[str]] = {}
    for name in models.names():
        families.setdefault(split_name(name)[0], []).append(name)
    for family, presets in families.items():
        yield f"{family}-tiny" if f"{family}-tiny" in presets else presets[0]


def _of_host(method: str, host: HostFacts) -> Iterator[Pair]:
    try:
        settings, schedule = paper_settings(host.name, method, papers=host.paper)
        learns, refused = make_reducer(method, host.shape, settings=settings, schedule=schedule).learns, None
    except HarnessError as error:
        learns, refused = False, _general(str(error), method, host)
    for protocol in PROTOCOLS:
        reason = refused
        try:
            check_protocol(method, protocol)
        except HarnessError as error:
            reason = reason or _general(str(error), method, host)
        for task in _tasks_of(host, protocol):
            unread = nothing_to_read(method, host.shape, task, protocol)
            why = reason or (None if unread is None else _general(unread, method, host))
            try:
                check_objective(method, protocol, host.name, task)
            except HarnessError as error:
                why = why or OBJECTIVE.sub("its objective offers", _general(str(error), method, host))
            yield Pair(method, host.name, task, protocol, why, learns and protocol == "inference")


def _tasks_of(host: HostFacts, protocol: str) -> tuple[str, ...]:
    if protocol != "inference":
        return trainable_tasks(protocol, host.name)
    trained = trainable_tasks("finetune", host.name)  # with heads of their own
    found = tasks.usable().items()
    return tuple(name for name, kind in found if name in trained or not kind.NEEDS or kind.NEEDS & host.abilities)


def _general(line: str, method: str, host: HostFacts) -> str:
    """A refusal without the names of method and host, so that methods share it."""
    words = line.removeprefix(f"method {method}").removeprefix(":").strip().removeprefix(f"{method} ")
    return words.replace(host.shape.name, "the host").replace(host.name, "the host")


def _marks(found: Sequence[Pair], numbers: dict[str, str]) -> str:
    """A mark for each protocol, of a method in a host."""
    marks = []
    for protocol in PROTOCOLS:
        of_protocol = [pair for pair in found if pair.protocol == protocol]
        reasons = dict.fromkeys(numbers[pair.reason] for pair in of_protocol if pair.reason is not None)
        yes = WITH_WEIGHTS if any(pair.needs_weights for pair in of_protocol) else YES
        if not of_protocol:
            marks.append(NO_TASK)
        elif all(pair.reason is not None for pair in of_protocol):
            marks.append(",".join(reasons))
        else:
            marks.append(yes + "".join(f"({number})" for number in reasons))
    return " ".join(marks)
