"""The front is what nothing beats; a panel for each cost, its labels clear of each other."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image

from harness.kit.errors import HarnessError
from harness.report.frame import to_frame
from harness.report.pareto import front, one_of_each_task, plot_pareto
from harness.report.placing import place_labels

from .conftest import full_record, make_record


def test_the_front_is_what_nothing_beats_by_hand():
    cost = np.array([1.0, 0.5, 0.5, 0.7, 0.9, 0.3])
    value = np.array([0.9, 0.6, 0.7, 0.65, 0.9, 0.2])
    assert front(cost, value) == [5, 2, 4]  # 1 and 3 are beaten by 2, and 0 by 4, as good for less
    assert front(np.array([]), np.array([])) == []
    assert front(np.array([1.0, 1.0]), np.array([0.5, 0.5])) == [0]


def test_every_point_of_a_front_is_unbeaten_and_every_other_is_beaten():
    random = np.random.default_rng(0)
    cost, value = random.random(60), random.random(60)
    chosen = front(cost, value)
    for place in range(60):
        beaten = (cost <= cost[place]) & (value >= value[place]) & ((cost < cost[place]) | (value > value[place]))
        assert beaten.any() == (place not in chosen)


def test_one_figure_has_a_row_for_each_task_and_the_same_bytes_each_time(records, tmp_path):
    written = plot_pareto(to_frame(records), tmp_path / "a")
    assert [path.name for path in written] == ["pareto.svg", "pareto.png"]
    again = plot_pareto(to_frame(records[::-1]), tmp_path / "b")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    text = written[0].read_text()
    for label in (
        "forward GMACs per image",
        "training step, GMACs per image",
        "training memory",
        "random",
        "Pareto front",
    ):
        assert f"<!-- {label}" in text
    assert "latency" not in text  # none of the records was timed
    wide, high = Image.open(written[1]).size
    assert wide > high > 1000


def test_of_retrieval_the_re_ranked_recall_is_drawn(records):
    assert one_of_each_task(to_frame(records)) == ["t2i_r1_rerank", "vqa_accuracy"]


def test_a_board_of_dense_alone_has_no_figure(records, tmp_path):
    other = full_record("dense", 1.0, "vqa", {"vqa_accuracy": (0.9, None)}, model="blip-tiny")
    assert len(plot_pareto(to_frame([*records, other]), tmp_path)) == 2
    with pytest.raises(HarnessError, match="nothing to draw"):
        plot_pareto(to_frame([make_record("dense", 1.0, "vqa")]), tmp_path)


def test_unknown_metrics_are_refused(records, tmp_path):
    with pytest.raises(HarnessError, match="unknown metric 'vqa'"):
        plot_pareto(to_frame(records), tmp_path, ["vqa"])


def test_labels_cover_neither_each_other_nor_points():
    figure = Figure(figsize=(5, 4))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    x = np.array([0.2, 0.21, 0.22, 0.6, 0.61])
    axes.plot(x, x, "o")
    figure.canvas.draw()
    place_labels(axes, [(value, value, f"method {number}") for number, value in enumerate(x)], np.stack([x, x], axis=1))
    canvas.draw()
    texts = [child for child in axes.get_children() if isinstance(child, Annotation)]
    for text in texts:
        text.update_positions(canvas.get_renderer())
    extents = [Text.get_window_extent(text, canvas.get_renderer()) for text in texts]  # without the leader
    assert len(extents) == 5
    marks = axes.transData.transform(np.stack([x, x], axis=1))
    for number, box in enumerate(extents):
        assert not any(box.overlaps(other) for other in extents[number + 1 :])
        assert not any(box.contains(*mark) for mark in marks)
