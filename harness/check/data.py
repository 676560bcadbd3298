"""What a data folder holds, by content: counted, what is missing or odd, and the commands that evaluate it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.check.data_commands import answer_command, pretrain_command, run_commands
from harness.check.data_pairs import pairs_report, sentences_reports, shards_report
from harness.check.data_report import Report, check_images, counted, spread
from harness.data.formats import captions, classes, entailment, nlvr2, questions
from harness.data.formats.findings import Findings, Tally
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.records import ENTAILMENT_LABELS, ImageTextSet
from harness.data.formats.source import Source
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress

SHOWN_FILES = 8


def lines(folder: Path) -> list[tuple[str, bool]]:
    """What a folder, or one annotation file, holds; not good: what makes a set unusable, or that there is none."""
    source = Source(folder)
    unreadable = [one for one in source.meant if one.kind is Kind.UNREADABLE]
    if unreadable:
        return [(f"unusable: {one.reason}", False) for one in unreadable]
    reports = inspect(source, Progress())
    found = [line for report in reports for line in report.lines()]
    told = {path for report in reports for path in report.files}
    others = [] if source.file else [one for one in source.found if one.path not in told]
    found += [(f"also there: {_title(one, source)}", True) for one in others[:SHOWN_FILES]]
    if len(others) > SHOWN_FILES:
        found.append((f"also there: {counted(len(others) - SHOWN_FILES, 'more file')}", True))
    if not reports:
        holds = f"{counted(len(source.listing.images), 'image')}, {counted(len(source.listing.others), 'other file')}"
        found.append((f"{folder}: no annotations that a command reads ({holds}); keep files as published", False))
    return found


def inspect(source: Source, progress: Progress) -> list[Report]:
    """A report of every set that is there; of several splits, of the one that evaluations use."""
    here = source.meant
    kinds = {one.kind for one in here}
    wanted = [one for one in TASK_SETS if kinds & set(one.kinds)]
    if questions.is_unanswered(source):
        wanted = [one for one in wanted if one is not ANSWERED] + [UNANSWERED]
    reports = [_task_report(source, one, progress) for one in wanted]
    reports += [pairs_report(one, source.root, progress) for one in here if one.kind is Kind.PAIRS]
    shards = [one.path for one in here if one.kind is Kind.SHARDS]
    if shards:
        reports.append(shards_report(shards, source.root, progress))
    return reports or sentences_reports(source)


@dataclass(frozen=True)
class TaskSet:
    """Kinds of files that make a set for `tasks`: how one of them is chosen and read, and what is said of it."""

    kinds: tuple[Kind, ...]
    tasks: tuple[str, ...]
    choose: Callable[[Source, str | None], tuple[Found, object]]
    read: Callable[[Source, Findings], ImageTextSet]
    counts: Callable[[ImageTextSet], list[str]]


def _task_report(source: Source, wanted: TaskSet, progress: Progress) -> Report:
    tally = Tally()
    files = [one for one in source.found if one.kind in wanted.kinds]
    report = Report(wanted.kinds[0].value, [one.path for one in files])
    try:
        chosen, partner = wanted.choose(source, None)
        report.title = _title(chosen, source, partner if isinstance(partner, tuple) else ())
        report.files = [chosen.path, *([partner.path] if isinstance(partner, Found) else [])]
        data = wanted.read(source, tally)
    except HarnessError as error:
        tally.fault("", str(error))
    else:
        first, *others = wanted.counts(data)
        report.counts = [f"{counted(len(data.images), 'image')}, {first}", *others]
        check_images(data.images, tally, progress)
        report.commands = _commands(source, chosen, wanted)
    report.findings = list(tally.found.values())
    return report


def _title(one: Found, source: Source, read: tuple[str, ...] = ()) -> str:
    """What a file is, and of which splits; of several, which are `read`."""
    title = f"{one.kind.value}: {one.path.relative_to(source.root)}"
    if len(one.splits) < 2:
        return title + "".join(f", split {split}" for split in one.splits)
    splits = ", ".join(one.splits)
    return f"{title}, split {'+'.join(read)} of {splits}" if read else f"{title}, splits {splits}"


def _commands(source: Source, chosen: Found, wanted: TaskSet) -> list[str]:
    if wanted is UNANSWERED:
        return [answer_command(str(source.where))]
    commands = run_commands(wanted.tasks, str(source.where))
    if chosen.kind in (Kind.COCO_CAPTIONS, Kind.CAPTION_LIST):
        commands.append(pretrain_command(str(chosen.path)))
    return commands


def _captions(data: ImageTextSet) -> list[str]:
    return [f"{counted(len(data.captions), 'caption')}, {spread((one.image for one in data.captions), 'captions')}"]


def _questions(data: ImageTextSet) -> list[str]:
    answers = [(one.id, answer) for one in data.questions for answer in one.answers]
    each = spread((key for key, _ in answers), "answers")
    listed = f"a list of {counted(len(data.answers), 'answer')} to rank" if data.answers else ""
    different = counted(len({answer for _, answer in answers}), "different answer")
    return [f"{counted(len(data.questions), 'question')}, {each}, {different}", listed]


def _unanswered(data: ImageTextSet) -> list[str]:
    return [counted(len(data.questions), "question")]


def _entailment(data: ImageTextSet) -> list[str]:
    found = Counter(one.label for one in data.hypotheses)
    labels = ", ".join(f"{found[label]:,} {name}" for label, name in enumerate(ENTAILMENT_LABELS))
    return [f"{counted(len(data.hypotheses), 'sentence')}: {labels}"]


def _statements(data: ImageTextSet) -> list[str]:
    true = sum(one.label for one in data.statements)
    pairs, groups = len({one.images for one in data.statements}), len({one.group for one in data.statements})
    labels = f"{true:,} true, {len(data.statements) - true:,} false"
    told = f"{counted(len(data.statements), 'statement')} of {counted(groups, 'sentence')}: {labels}"
    return [f"{counted(pairs, 'pair')}, {told}"]


def _classes(data: ImageTextSet) -> list[str]:
    each = spread((one.label for one in data.classified), "images")
    named = f"named {', '.join(data.classes[:3])}{', …' if len(data.classes) > 3 else ''}"
    return [f"{counted(len(data.classes), 'class', 'classes')}, {each}", named, _templates(data)]


def _templates(data: ImageTextSet) -> str:
    return counted(len(data.templates), "template") if data.templates else ""


ANSWERED = TaskSet(
    (*questions.KINDS, Kind.VQA_ANNOTATIONS),
    ("vqa",),
    questions.choose_questions,
    questions.read_questions,
    _questions,
)
UNANSWERED = TaskSet(
    questions.UNANSWERED_KINDS, (), questions.choose_unanswered, questions.read_unanswered, _unanswered
)
TASK_SETS = (
    TaskSet(
        (*captions.KINDS, Kind.CAPTION_REFERENCES),
        ("retrieval", "captioning"),
        captions.choose_captions,
        captions.read_captions,
        _captions,
    ),
    ANSWERED,
    TaskSet(entailment.KINDS, ("entailment",), entailment.choose_entailment, entailment.read_entailment, _entailment),
    TaskSet(nlvr2.KINDS, ("nlvr2",), nlvr2.choose_nlvr2, nlvr2.read_nlvr2, _statements),
    TaskSet(classes.KINDS, ("classification",), classes.choose_classes, classes.read_classes, _classes),
)
