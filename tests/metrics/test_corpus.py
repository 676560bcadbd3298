"""Corpus values from sums of parts, on counts made by hand; intervals that follow from what is resampled."""

import numpy as np
import pytest

from harness.kit.errors import HarnessError
from harness.metrics.corpus import bleu, meteor
from harness.metrics.stats import paired_corpus, summarise, summarise_corpus

NAMES = [f"{number}.png" for number in range(40)]


def unigrams(matches, words=4, reference=4):
    """Parts of BLEU-1 for captions of `words` words, `matches` of them right."""
    return np.array([[count, words, words, reference] for count in matches], dtype=float)


def test_bleu_is_the_geometric_mean_of_precisions_where_the_caption_is_no_shorter():
    assert bleu(np.array([5.0, 3.0, 6.0, 5.0, 6.0, 6.0])) == pytest.approx(np.sqrt(5 / 6 * 3 / 5), abs=1e-9)
    assert bleu(np.array([4.0, 8.0, 8.0, 2.0])) == pytest.approx(0.5, abs=1e-9)


def test_a_short_caption_pays_the_brevity_penalty():
    assert bleu(np.array([2.0, 2.0, 2.0, 3.0])) == pytest.approx(np.exp(1 - 3 / 2), abs=1e-9)


def test_corpus_bleu_is_of_the_sums_and_no_mean():
    """1 of 1 word right and 1 of 3: 2 of 4 in the corpus, (1 + 1/3) / 2 on average."""
    parts = np.array([[1.0, 1, 1, 1], [1, 3, 3, 3]])
    assert bleu(parts) == pytest.approx([1, 1 / 3], abs=1e-8)
    assert bleu(parts.sum(0)) == pytest.approx(1 / 2, abs=1e-8)


def segment(words, function, exact, stem, chunks, pairs):
    """METEOR's 23 counts: (caption, reference) each; matches as content of both, function words of both."""
    return np.array([*words, *function, *exact, *stem, *[0] * 8, chunks, *pairs], dtype=float)


def test_meteor_of_the_same_sentence_is_1():
    """ "a red ball" against itself, where no chunk counts."""
    assert meteor(segment((3, 3), (1, 1), (2, 2, 1, 1), (0, 0, 0, 0), 0, (3, 3))) == pytest.approx(1)


def test_meteor_without_a_match_is_0_even_where_a_side_is_empty():
    none = (0, 0, 0, 0)
    assert meteor(segment((3, 4), (1, 1), none, none, 0, (0, 0))) == 0
    assert meteor(segment((0, 3), (0, 1), none, none, 0, (0, 0))) == 0


def test_meteor_by_hand():
    """Two of four content words exact, one by its stem (0.6), in two chunks: P = R = 2.6 / 4, penalty 0.6 (2/3)^0.2."""
    counts = segment((4, 4), (0, 0), (2, 2, 0, 0), (1, 1, 0, 0), 2, (3, 3))
    assert meteor(counts) == pytest.approx(0.65 * (1 - 0.6 * (2 / 3) ** 0.2))


def test_function_words_count_a_third_of_content_words():
    """One of one content and none of one function word: P = R = 0.75 of 0.75 + 0.25, penalty 0.6 of one chunk."""
    counts = segment((2, 2), (1, 1), (1, 1, 0, 0), (0, 0, 0, 0), 1, (1, 1))
    assert meteor(counts) == pytest.approx(0.75 * (1 - 0.6))


def test_the_interval_of_a_metric_that_is_a_mean_is_the_mean_s():
    matches = [4, 3, 2, 1, 0] * 8
    found = summarise_corpus(unigrams(matches), NAMES, bleu)
    mean = summarise(np.array(matches) / 4, NAMES)
    assert found["value"] == pytest.approx(mean["value"], abs=1e-8)
    assert found["ci95"] == pytest.approx(mean["ci95"], abs=0.02)
    assert found["n"] == 40


def test_the_order_of_samples_does_not_matter():
    parts = unigrams([4, 3, 2, 1, 0] * 8)
    assert summarise_corpus(parts[::-1], NAMES, bleu) == summarise_corpus(parts, NAMES, bleu)


def test_captions_of_one_image_are_drawn_together():
    parts = unigrams([4, 0] * 20)
    pairs = np.repeat(NAMES[:20], 2)
    assert summarise_corpus(parts, pairs, bleu)["ci95"] == pytest.approx([0.5, 0.5], abs=1e-8)
    assert np.ptp(summarise_corpus(parts, NAMES, bleu)["ci95"]) > 0.2


def test_captions_of_a_single_image_are_drawn_alone():
    assert np.ptp(summarise_corpus(unigrams([4, 0] * 20), ["a.png"] * 40, bleu)["ci95"]) > 0.2


def test_a_constant_difference_to_dense_has_no_width():
    """One word of four less in every caption, among captions that differ."""
    dense = unigrams([4, 3, 2, 1] * 10)
    found = paired_corpus(dense - [1, 0, 0, 0], dense, NAMES, bleu)
    assert found["delta"] == pytest.approx(-0.25, abs=1e-8)
    assert found["ci95"] == pytest.approx([-0.25, -0.25], abs=1e-8)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(HarnessError, match=r"expected \(n, K\) finite"):
        summarise_corpus(np.zeros((0, 4)), [], bleu)
    with pytest.raises(HarnessError, match="expected one for each value"):
        summarise_corpus(unigrams([1, 2]), ["a.png"], bleu)
    with pytest.raises(HarnessError, match="the same samples"):
        paired_corpus(unigrams([1, 2]), unigrams([1]), NAMES[:2], bleu)
