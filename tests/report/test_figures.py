"""Figures are drawn from any records that tables are, and the same each time."""

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import SubFigure
from PIL import Image

from harness.kit.errors import HarnessError
from harness.report.figures import plot_quality, plot_study
from harness.report.frame import to_frame
from harness.report.patches import PatchExample, Stage, draw_patches, outline, shaded
from harness.report.style import method_styles

from .conftest import make_record, make_records


def names(paths):
    return [path.name for path in paths]


def test_quality_is_drawn_against_macs_and_ratio(records, tmp_path):
    written = plot_quality(to_frame(records), tmp_path)
    stems = ("quality-macs", "quality-ratio")
    assert names(written) == [f"{stem}.{ending}" for stem in stems for ending in ("svg", "png")]
    assert ElementTree.parse(written[0]).getroot().tag.endswith("svg")
    assert Image.open(written[1]).width > 1200


def test_a_figure_has_the_same_bytes_each_time(records, tmp_path):
    first = plot_quality(to_frame(records), tmp_path / "a", ["vqa_accuracy"])
    second = plot_quality(to_frame(records[::-1]), tmp_path / "b", ["vqa_accuracy"])
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_failed_cells_are_left_out(records, tmp_path):
    failed = [make_record("elip", 0.3, "vqa", "failed")]
    assert plot_quality(to_frame([*records, *failed]), tmp_path, ["vqa_accuracy"])


def test_failures_alone_are_nothing_to_draw(tmp_path):
    with pytest.raises(HarnessError, match="nothing to draw"):
        plot_quality(to_frame([make_record("elip", 0.5, "vqa", "failed")]), tmp_path)


def test_a_method_looks_the_same_whatever_else_is_shown():
    assert method_styles(["evit"])["evit"] == method_styles(["elip", "evit", "tome"])["evit"]


def test_methods_look_different():
    styles = method_styles(["dense", "elip", "evit", "random", "tome", "unregistered"])
    assert len({style["color"] for style in styles.values()}) == 6


def test_a_folder_that_cannot_be_made_is_one_line(records, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="choose another --out"):
        plot_quality(to_frame(records), tmp_path / "file", ["vqa_accuracy"])


def layer_study():
    records, labels = [make_record("dense", 1.0, "vqa")], []
    for placement, stages in (("early", 3), ("late", 3), ("even", 1), ("even", 2), ("even", 3), ("even", 4)):
        for method in ("elip", "evit"):
            record = make_record(method, 0.7, "vqa", schedule=f"{placement} {stages}")
            records.append(record)
            label = {"label": f"{placement}, {stages} stages", "placement": placement, "stages": stages}
            labels.append({"keys": [record["key"]], "method": method, **label})
    return records, labels


def test_a_study_of_layers_is_drawn_by_placement_and_stages(tmp_path):
    written = plot_study(*layer_study(), "layer-schedule", tmp_path)
    assert names(written) == ["layer-schedule.svg", "layer-schedule.png"]


def test_a_study_of_ratios_is_drawn_as_quality(tmp_path):
    records = make_records((1.0, 0.5))
    labels = [{"keys": [record["key"] for record in records], "label": None, "placement": None, "stages": None}]
    written = plot_study(records, labels, "keep-ratio", tmp_path, ["vqa_accuracy"])
    assert names(written)[::2] == ["keep-ratio-macs.svg", "keep-ratio-ratio.svg"]


def make_example(**changes):
    kept, merged = np.zeros(4, dtype=bool), np.zeros(4, dtype=bool)
    kept[:2], merged[2] = True, True
    fields = {
        "image": np.full((8, 8, 3), 200, dtype=np.uint8),
        "caption": "a red circle",
        "grid": (2, 2),
        "mentioned": [0, 1],
        "methods": {"elip": [Stage("block 2", kept, merged)], "evit": []},
    }
    return PatchExample(**{**fields, **changes})


def test_patches_are_drawn_for_methods_with_different_numbers_of_stages(tmp_path):
    written = draw_patches([make_example(), make_example(mentioned=[])], tmp_path / "patches")
    assert names(written) == ["patches.svg", "patches.png"]


@pytest.mark.parametrize("caption", ["a $3 dog", "a $3 dog costs $5", "$ \\frac{", "100 % of $x_1$"])
def test_a_caption_is_no_formula(caption, tmp_path, monkeypatch):
    written, text = [], SubFigure.text

    def kept(figure, *places, **options):
        written.append(text(figure, *places, **options))
        return written[-1]

    monkeypatch.setattr(SubFigure, "text", kept)
    draw_patches([make_example(caption=caption)], tmp_path / "dollars")
    captions = [one for one in written if caption in one.get_text()]
    assert [one.get_parse_math() for one in captions] == [False]


@pytest.mark.parametrize("name", ["elip", "kn_learned", "a_method_of_a_long_name"])
def test_the_names_of_methods_are_not_cut_off(name, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("harness.report.patches.save", lambda figure, stem: drawn.append(figure) or [stem])
    stages = next(iter(make_example().methods.values()))
    draw_patches([make_example(methods={name: stages})], tmp_path / "patches")
    (figure,) = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    labels = [axes.yaxis.label for part in figure.subfigs for axes in part.axes if axes.get_ylabel()]
    assert [label.get_text() for label in labels] == [name]
    assert labels[0].get_window_extent(renderer).x0 >= 0


def test_kept_patches_are_as_they_were_merged_ones_tinted_dropped_ones_dark():
    example = make_example()
    picture = shaded(example.image, example.grid, example.methods["elip"][0])
    assert np.all(picture[:4] == 200 / 255)
    assert picture[5, 1, 2] > picture[5, 1, 0]
    assert picture[5, 5].max() < 0.2


def test_the_outline_of_two_neighbours_has_six_edges():
    edges = outline(np.array([[True, True], [False, False]]))
    assert len(edges) == 6
    assert [(1, 0), (1, 1)] not in edges


@pytest.mark.parametrize("changes", [{"grid": (3, 3)}, {"image": np.zeros((8, 8), dtype=np.uint8)}])
def test_what_does_not_fit_the_grid_is_refused(tmp_path, changes):
    with pytest.raises(HarnessError, match="expected"):
        draw_patches([make_example(**changes)], tmp_path / "patches")


def test_no_scenes_are_refused(tmp_path):
    with pytest.raises(HarnessError, match="no scenes"):
        draw_patches([], tmp_path / "patches")
