"""What joins tasks in a row, and what puts rows on boards of their own."""

import pytest

from harness.report.figures import spent
from harness.report.frame import boards, to_frame
from harness.report.tables import render_table

from .conftest import full_record, number

SIZES = {"vqa": 480, "retrieval": 384, "nlvr2": 288}
METRIC = {"vqa": "vqa_accuracy", "retrieval": "t2i_r1", "nlvr2": "nlvr2_accuracy"}


def stage(task, method="dense", steps=300, seed=0, name="finetune", **recipe):
    """A stage of training as specs have it."""
    numbers = {"image_size": SIZES[task], "learning_rate": 1e-5 if task == "vqa" else 2e-5, **recipe}
    return {
        "stage": name,
        "task": task,
        "method": method,
        "config": {"schedule": {"keep": [SIZES[task]]}} if method != "dense" else {},
        "recipe": numbers,
        "steps": steps,
        "seed": seed,
        "digests": {"data.0": f"{task}{seed}{recipe.get('batch_size')}"},
    }


def trained(method, ratio, task, value=0.5, *, seed=0, size=None, protocol="finetune", more=(), **fields):
    """A record of a fine-tuned cell, by default at its recipe's image size."""
    made = stage(task, method, fields.pop("steps", 300), seed, **fields.pop("recipe", {}))
    return full_record(
        method,
        ratio,
        task,
        {METRIC[task]: (value, None if method == "dense" else -0.1)},
        size=SIZES[task] if size is None else size,
        weights=f"of {task}",
        config=made["config"],
        protocol=protocol,
        training=[*more, made],
        seed=seed,
        **fields,
    )


def grid(tasks=("retrieval", "vqa", "nlvr2"), **fields):
    return [
        trained(method, ratio, task, **fields) for method, ratio in (("dense", 1.0), ("elip", 0.5)) for task in tasks
    ]


def titles(records):
    return [title for title, _ in boards(to_frame(records))]


def test_tasks_with_weights_recipes_and_sizes_of_their_own_are_one_row():
    frame = to_frame(grid())
    assert list(frame.settings["method"]) == ["dense", "elip"]
    assert list(frame.settings["variant"]) == ["", ""]
    assert {task: number(frame, METRIC[task], "elip")["image_size"] for task in SIZES} == SIZES
    what = "albef-tiny · finetune, 300 steps · scenes, limit 1000 · 288, 384, 480 px · float32 · cpu, 1 thread"
    assert titles(grid()) == [what]


def test_an_adaptive_method_is_one_row_although_each_task_has_a_setting_of_its_own():
    def adaptive(task, factor, ratio=0.5):
        record = full_record(
            "above", ratio, task, {METRIC[task]: (0.5, -0.1)}, weights=f"of {task}", config={"factor": factor}
        )
        record["cost"]["spread"] = {"ratio_p5": 0.4, "ratio_p95": 0.6}
        return record

    dense = [full_record("dense", 1.0, task, {METRIC[task]: (0.6, None)}) for task in ("vqa", "retrieval")]
    frame = to_frame([*dense, adaptive("vqa", 2.5), adaptive("retrieval", 9.75), adaptive("vqa", 1.5, 0.7)])
    assert list(frame.settings["method"] + frame.settings["variant"]) == ["dense", "above", "above"]
    both = to_frame([*dense, adaptive("vqa", 2.5), adaptive("vqa", 3.5)])
    assert sorted(both.settings["variant"]) == ["", "factor=2.5", "factor=3.5"]


def test_weights_of_another_set_are_another_board():
    first, second = titles([*grid(), *grid(base="set2")])
    assert (first.split(" · ")[-1], second.split(" · ")[-1]) == ("weights set1, cpu", "weights set2, cpu")


def test_two_machines_have_two_boards_that_name_them():
    """What was measured on one machine is never read as another's: latencies, throughput, and what they are beside."""
    found = titles([*grid(), *grid(hardware="AMD EPYC 7763, 15 GiB", threads=2)])
    assert {title.split(" · ")[-1] for title in found} == {"cpu, 1 thread", "AMD EPYC 7763, 15 GiB, 2 threads"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"steps": 1000}, "1000 steps"), ({"recipe": {"batch_size": 32}}, "finetune, 300 steps, batch_size 32 ·")],
)
def test_one_task_trained_in_two_ways_is_two_boards_of_all_tasks(changed, words):
    first = {} if "steps" in changed else {"recipe": {"batch_size": 16}}
    records = [*grid(seed=0, **first), *grid(seed=1, **first), *grid(seed=0, **changed), *grid(seed=1, **changed)]
    found = boards(to_frame(records))
    assert [len(board.settings) for _, board in found] == [2, 2]
    assert all(
        board.column(metric)["seed_count"].tolist() == [2, 2] for _, board in found for metric in METRIC.values()
    )
    assert sum(words in title for title, _ in found) == 1


def test_a_training_that_one_task_alone_had_again_leaves_the_others_out():
    found = dict(boards(to_frame([*grid(), *grid(("vqa",), steps=1000)])))
    longer = next(board for title, board in found.items() if "1000 steps" in title)
    assert set(longer.column("t2i_r1")["error"]) == {"not run"}
    assert longer.headline() == ["vqa_accuracy"]


def test_one_task_at_two_sizes_is_two_boards():
    records = [*grid(("vqa",)), *grid(("vqa",), size=224)]
    assert [title.split(" · ")[3] for title in titles(records)] == ["224 px", "480 px"]


def test_sizes_of_inference_follow_the_same_rule():
    values = {"vqa_accuracy": (0.5, None)}
    records = [full_record("dense", 1.0, "vqa", values, size=size) for size in (64, 128)]
    records.append(full_record("dense", 1.0, "retrieval", {"t2i_r1": (0.5, None)}, size=64))
    found = boards(to_frame(records))
    assert [board.column("t2i_r1")["error"].tolist() for _, board in found] == [["not run"], [""]]


def test_steps_are_left_out_of_the_title_where_tasks_differ_in_them():
    records = [trained("dense", 1.0, "vqa", steps=300), trained("dense", 1.0, "retrieval", steps=500)]
    assert titles(records)[0].split(" · ")[1] == "finetune"


def test_two_stages_are_named_with_their_steps():
    before = [{**stage("vqa", "elip", 5000, name="pretrain"), "task": None}]
    records = [trained("elip", 0.5, "vqa", protocol="pretrain", more=before)]
    assert titles(records)[0].split(" · ")[1] == "pretrain 5000 steps + finetune 300 steps"


def test_a_split_is_a_board_and_in_its_title():
    records = [*grid(("vqa",), split="val"), *grid(("vqa",), split="test")]
    assert [title.split(" · ")[2] for title in titles(records)] == [
        "scenes, split test, limit 1000",
        "scenes, split val, limit 1000",
    ]


def test_each_image_size_has_costs_of_its_own():
    records = grid()
    for record in records:
        record["cost"]["forward"]["total_gmacs"] = float(record["spec"]["image_size"])
    frame = to_frame(records)
    table = render_table(frame)
    assert "Cost of the vision tower per image at 288 px (nlvr2) · " in table
    part = table.split("at 480 px (vqa)")[1]
    assert "480.0" in part
    assert "384.0" not in part
    for task, size in SIZES.items():
        assert spent(frame, METRIC[task], "forward_gmacs").tolist() == [size, size]


def test_costs_at_one_size_are_one_part():
    assert render_table(to_frame(grid(("vqa",)))).count("Cost of the vision tower per image · ") == 1
