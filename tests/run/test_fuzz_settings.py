"""Schedules, settings and studies drawn at random: a line that says what is wrong, or token counts that are right.

The draws are the same on every run and end with the processor time that is set for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness.cli.flags import parse_grouped, parse_settings
from harness.kit.registry import methods
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts
from harness.reduction.schedule import Schedule, parse_schedule
from harness.reduction.stack import StackShape
from harness.run.request import RunRequest
from harness.run.settings import variants
from harness.run.study import StudyCells, read_study
from harness.tasks.retrieval import Retrieval
from harness.train.stage_options import check_stages, read_options
from tests.fuzz import fuzz, in_one_line

SECONDS = 3.0
SHAPE = StackShape(depth=12, patches=49, prefix=1, width=16, class_token=True, grid=(7, 7))
NUMBERS = (
    "0",
    "1",
    "2",
    "10",
    "-1",
    "0.5",
    ".7",
    "1e400",
    "nan",
    ".inf",
    "0x_",
    "1_0",
    "9" * 5000,
    "1e-9",
    "1e308",
    "1e7",
    "true",
    "",
)
VALUES = st.sampled_from(
    [*NUMBERS, "null", "2024-01-01", "&a 1", "*a", "!!python/name:os.system x", "[1, 2]", "[[0.5], [0.7]]", "{a: 1}"]
    + ["[" * 200, "'", "é\u200b", "a,b", "0.2,0.5", "x" * 300, "\x00", "\ud83d", "elip", "- 1"]
)
NUMBER_LISTS = st.lists(st.sampled_from(NUMBERS), min_size=0, max_size=4).map(",".join)


def words() -> st.SearchStrategy[str]:
    """Schedules as they are typed, most of them with the right names."""
    part = st.tuples(st.sampled_from(["begin", "keep", "lookahead", "keep", "x", ""]), NUMBER_LISTS)
    typed = st.lists(part.map("=".join), max_size=4).map(" ".join)
    right = st.tuples(
        st.lists(st.integers(0, 14), min_size=1, max_size=4).map(lambda found: ",".join(map(str, sorted(found)))),
        st.lists(st.floats(0, 1.2), min_size=1, max_size=4).map(
            lambda found: ",".join(f"{one:.3f}" for one in sorted(found, reverse=True))
        ),
    ).map(lambda both: f"begin={both[0]} keep={both[1]}")
    return st.one_of(typed, right, right, st.text(max_size=20))


def counts_fit(made: Any) -> None:
    """Every block keeps a token and none that is not there; the config that a record holds gives the same counts."""
    counts = token_counts(made)
    kept = [count - SHAPE.prefix for count in counts.mlp]
    assert len(kept) == SHAPE.depth
    assert all(1 <= count <= SHAPE.patches + 1 for count in kept), kept
    again = type(made)(type(made.config).model_validate(made.config.model_dump(mode="json")), SHAPE)
    assert token_counts(again).mlp == counts.mlp


def test_schedules_are_refused_in_a_line_or_keep_what_they_say() -> None:
    def action(data: st.DataObject) -> None:
        spec = data.draw(words())
        schedule = in_one_line(lambda: parse_schedule(spec))
        if not isinstance(schedule, Schedule):
            return
        assert parse_schedule(schedule.spec()) is not None
        made = in_one_line(lambda: make_reducer("evit", SHAPE, schedule=schedule.model_dump(mode="json")))
        if made is not None:
            counts_fit(made)
            mlp = token_counts(made).mlp
            for begin, keep in zip(schedule.begin, schedule.keep, strict=True):
                assert abs(mlp[begin] - SHAPE.prefix - keep * SHAPE.patches) <= 2, "kept, and a fused token"

    fuzz(action, 300, SECONDS)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_schedule_files_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s.{suffix}"

    def action(data: st.DataObject) -> None:
        lines = [f"{name}: {data.draw(VALUES)}" for name in data.draw(st.permutations(["begin", "keep"]))]
        text = "\n".join(lines) if suffix == "yaml" else "{" + ", ".join(f'"{line}' for line in lines) + "}"
        path.write_bytes(data.draw(st.sampled_from([text, text[:-3], text * 2])).encode("utf-8", "surrogatepass"))
        found = in_one_line(lambda: parse_schedule(str(path)))
        assert found is None or isinstance(found, Schedule)

    fuzz(action, 100, SECONDS / 2)


def test_settings_are_refused_in_a_line_or_give_right_counts() -> None:
    names = [
        name for name in methods.names() if not methods.get(name).adaptive and not methods.get(name).stacks - {"vision"}
    ]
    assert len(names) > 10

    def action(data: st.DataObject) -> None:
        method = data.draw(st.sampled_from(names))
        fields = sorted(methods.get(method).Config.model_fields)
        field = data.draw(st.sampled_from([*fields, "no_such_field"]))
        word = f"{data.draw(st.sampled_from([field, f'{method}.{field}']))}={data.draw(VALUES)}"
        settings = in_one_line(lambda: parse_settings([word]))
        swept = None if settings is None else in_one_line(lambda: variants(settings, method))
        for chosen in (swept or [])[:2]:
            ratio = data.draw(st.sampled_from([None, None, 0.5]))
            made = in_one_line(
                lambda chosen=chosen, ratio=ratio: make_reducer(method, SHAPE, ratio=ratio, settings=chosen)
            )
            if made is not None:
                counts_fit(made)

    fuzz(action, 300, 2 * SECONDS)


def test_options_of_tasks_and_stages_are_refused_in_a_line() -> None:
    options = [*Retrieval.Options.model_fields, "no_such", ""]

    def action(data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(["retrieval", "finetune", "pretrain", "x", ""]))
        name = data.draw(st.sampled_from([*options, "steps", "learning_rate", "batch_size", "betas", "data"]))
        word = f"{group}.{name}={data.draw(VALUES)}"
        grouped = in_one_line(lambda: parse_grouped([word], "--set-task", "TASK.option=value"))
        if grouped is None:
            return
        protocol = data.draw(st.sampled_from(["inference", "finetune", "pretrain"]))
        in_one_line(lambda: check_stages(protocol, grouped))
        for stage in sorted(grouped.keys() & {"finetune", "pretrain"}):
            in_one_line(lambda stage=stage: read_options(stage, grouped[stage]))

    fuzz(action, 200, SECONDS)


def test_studies_are_refused_in_a_line_or_are_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    keys = ["methods", "ratios", "schedule", "settings", "label", "stages", "draw", "cells", "run"]

    def action(data: st.DataObject) -> None:
        cell = {"methods": '"tome,random"', "ratios": "[0.5]", data.draw(st.sampled_from(keys)): data.draw(VALUES)}
        whole = {"draw": "tradeoff", "run": "{model: albef-tiny}"}
        changed = data.draw(st.sampled_from(["draw", "run", "cells", "other", "none"]))
        if changed != "none":
            whole[changed] = data.draw(VALUES)
        lines = [f"{name}: {value}" for name, value in whole.items()]
        lines += [
            "cells:",
            *(f"  {'-' if not number else ' '} {name}: {value}" for number, (name, value) in enumerate(cell.items())),
        ]
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        study = in_one_line(lambda: read_study(str(path)))
        if study is None:
            return
        assert study.cells
        assert all(isinstance(one, StudyCells) for one in study.cells)
        for one in study.cells:
            in_one_line(lambda one=one: RunRequest(methods=("tome",), ratios=one.ratios, tasks=("vqa",)))

    fuzz(action, 200, SECONDS)
