"""Caption metrics: by hand, and as pycocoevalcap 1.2 itself gives them for the same sentences.

PINNED was printed by pycocoevalcap's own PTBTokenizer, Bleu(4), Meteor, Rouge and Cider under Java 17.
"""

import numpy as np
import pytest
import typer.testing

import harness.check.captions
from harness.cli.check import checks
from harness.kit.errors import HarnessError
from harness.metrics.captions import CaptionScores, bleu_parts, caption_scores, cider_scores, rouge_scores
from harness.metrics.ptb import tokenised

CAPTIONS = [
    "A red cube stands to the left of a blue ball.",
    "Two dogs are running over a hill",
    "a man's umbrella, open in the rain",
    "green cone",
]
REFERENCES = [
    ["A red cube is to the left of a blue ball.", "There's a red cube and a blue ball."],
    ["A dog runs on a hill.", "Two dogs run over the big hills", "dogs"],
    ["A man holds an open umbrella in the rain!"],
    ["a large yellow ring near a small green cone", "the ring is yellow"],
]
PINNED = {
    "bleu_1": 0.7700548468147714,
    "bleu_2": 0.6352628380777845,
    "bleu_3": 0.5025135744545335,
    "bleu_4": 0.4046976923571817,
    "meteor": 0.36729749680696366,
    "rouge_l": 0.6451026274076107,
    "cider": 2.494721219116852,
}
PINNED_EACH = {
    "bleu_1": [0.9090909089256201, 0.7142857140816329, 0.772184789568475, 0.36787944080356333],
    "bleu_4": [0.7016879389890388, 1.044552272724476e-08, 5.24735797611901e-05, 0.0003678794408495482],
    "meteor": [0.9758365927857453, 0.26666666666666666, 0.3718172916619342, 0.14014757809945982],
    "rouge_l": [0.9090909090909091, 0.646643109540636, 0.6984732824427481, 0.3262032085561497],
    "cider": [5.0660670229063145, 1.0797053481162715, 3.2710319485650707, 0.5620805568797516],
}


@pytest.fixture(scope="module")
def scores():
    """All metrics, with Java told to speak German."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        patch.setattr("harness.metrics.captions.spice_lacks", lambda: "no parser here")
        yield caption_scores(CAPTIONS, REFERENCES)


def test_the_corpus_values_are_pycocoevalcap_s_in_any_language(scores):
    assert scores.corpus() == pytest.approx(PINNED, abs=1e-12)


@pytest.mark.parametrize("metric", PINNED_EACH)
def test_each_caption_has_the_score_that_pycocoevalcap_gives_it(scores, metric):
    assert scores.samples[metric] == pytest.approx(PINNED_EACH[metric], abs=1e-12)


def test_what_cannot_run_is_absent_with_the_reason_and_not_zero(scores):
    assert scores.absent == {"spice": "no parser here"}
    assert "spice" not in scores.samples
    assert "spice" not in scores.corpus()


def test_nothing_is_printed(scores, capfd):
    tokenised(["a red ball"])
    bleu_parts(["a red ball"], [["a ball"]])
    assert capfd.readouterr() == ("", "")


def test_words_are_penn_treebank_s_without_punctuation_line_by_line():
    texts = ["A man's café, isn't it?", "", "two\nlines\u2028or\rmore", 'Stop: "U.S." signs; (red)']
    assert tokenised(texts) == ["a man 's café is n't it", "", "two lines or more", "stop u.s. signs -lrb- red -rrb-"]


def test_ngrams_are_counted_as_often_as_a_reference_has_them():
    """One `a` of two, `red`, `ball`, `on`, `box`; three pairs of five; two of four; one of three."""
    parts = bleu_parts(["a red ball on a box"], [["a red ball on the box"]])
    assert parts["bleu_4"].tolist() == [[5, 3, 2, 1, 6, 5, 4, 3, 6, 6]]
    assert parts["bleu_1"].tolist() == [[5, 6, 6, 6]]


def test_the_closest_reference_length_counts_and_the_shorter_of_two_as_close():
    lengths = bleu_parts(["a b c d"] * 2, [["a b", "a b c d e f g h"], ["a b c d e", "a b c"]])["bleu_1"][:, -1]
    assert lengths.tolist() == [2, 3]


def test_rouge_is_of_the_longest_common_subsequence():
    """`a red ball` in `a ball red ball`: precision 1, recall 3/4, and recall weighs 1.2 squared as much."""
    found = rouge_scores(["a red ball", "cube"], [["a ball red ball"], ["a ring"]])
    assert found == pytest.approx([(1 + 1.44) * 0.75 / (0.75 + 1.44), 0])


def test_cider_of_the_reference_itself_is_10_and_of_other_words_0():
    texts = ["a red ball lies here", "two green cones stand there"]
    assert cider_scores(texts, [[text] for text in texts]) == pytest.approx([10, 10])
    assert cider_scores(texts, [[text] for text in reversed(texts)]) == pytest.approx([0, 0])


def test_captions_and_references_that_do_not_fit_are_refused():
    with pytest.raises(HarnessError, match="2 captions and references for 1 of 2"):
        caption_scores(["a ball", "a cube"], [["a ball"], []])
    with pytest.raises(HarnessError, match="0 captions"):
        caption_scores([], [])
    with pytest.raises(HarnessError, match="the references hold no words"):
        cider_scores(["a ball"], [[""]])


def lines_of(tmp_path, monkeypatch, *files):
    """The command's exit status and lines for files of these texts; each caption's score is its references' number."""

    def counted(captions, references):
        samples = {"rouge_l": np.array([len(others) for others in references], dtype=float)}
        return CaptionScores(samples, {}, dict.fromkeys(["bleu_1", "bleu_2", "bleu_3", "bleu_4"], "why") | ABSENT)

    monkeypatch.setattr(harness.check.captions, "caption_scores", counted)
    paths = []
    for number, text in enumerate(files):
        paths.append(str(tmp_path / f"{number}.txt"))
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    result = typer.testing.CliRunner().invoke(checks, ["captions", *paths])
    return result.exception if isinstance(result.exception, HarnessError) else result.stdout.splitlines()


ABSENT = dict.fromkeys(["meteor", "cider", "spice"], "why")


def test_the_command_prints_a_line_per_metric(tmp_path, monkeypatch):
    found = lines_of(tmp_path, monkeypatch, "a ball\na cube\n", "one ball\none cube\n", "some ball\n\n")
    assert found[5] == "rouge_l  1.500000"
    assert found[7] == "spice    absent: why"
    assert len(found) == 8


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("a ball\n", "a ball\na cube\n"), "2 lines, .* has 1"),
        (("a ball\na cube\n", "a ball\n\n"), "line 2: no reference in"),
        (("", "a ball\n"), "holds no captions"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, monkeypatch, files, said):
    with pytest.raises(HarnessError, match=said):
        raise lines_of(tmp_path, monkeypatch, *files)
