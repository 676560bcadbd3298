"""Intervals that can be checked by hand, and whose coverage is what they say."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.kit.errors import HarnessError
from harness.metrics.stats import deltas, paired, quality, summarise


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_value_is_the_mean_and_lies_within_its_interval():
    result = summarise([0, 1, 1, 1])
    assert (result["value"], result["n"]) == (0.75, 4)
    assert result["ci95"] == [0.25, 1.0]


def test_the_interval_of_many_coin_flips_is_the_normal_one():
    low, high = summarise([0, 1] * 500)["ci95"]
    expected = 1.96 * np.sqrt(0.25 / 1000)
    assert low == pytest.approx(0.5 - expected, abs=0.004)
    assert high == pytest.approx(0.5 + expected, abs=0.004)


def test_a_constant_has_an_interval_of_no_width():
    assert summarise([0.1] * 7, list("aabbccc")) == {"value": 0.1, "ci95": [0.1, 0.1], "n": 7}


def test_all_right_on_fifty_samples_is_not_certainty():
    low, high = summarise([1.0] * 50)["ci95"]
    assert high == 1.0
    assert low == pytest.approx(50 / (50 + 1.96**2), abs=1e-4)


def test_all_wrong_mirrors_all_right():
    assert summarise([0.0] * 50)["ci95"][1] == pytest.approx(1 - summarise([1.0] * 50)["ci95"][0])


def test_samples_of_one_image_count_once_when_nothing_varies():
    assert summarise([1.0] * 50, list("abcde") * 10)["ci95"] == summarise([1.0] * 5)["ci95"]


def test_one_sample_gives_numbers():
    assert summarise([0.5]) == {"value": 0.5, "ci95": [0.5, 0.5], "n": 1}


def test_clusters_of_equal_samples_are_as_wide_as_their_number_says():
    """Each image answered wholly right or wholly wrong: 40 samples know no more than 10."""
    flips = np.random.default_rng(0).integers(0, 2, 10).astype(float)
    repeated = summarise(np.repeat(flips, 4), np.repeat(np.arange(10), 4))
    single = summarise(flips)
    assert repeated["ci95"] == single["ci95"]
    assert np.diff(repeated["ci95"]) > np.diff(summarise(np.repeat(flips, 4))["ci95"])


def test_clusters_weigh_by_their_samples():
    assert summarise([1, 1, 1, 0], ["a", "a", "a", "b"])["value"] == 0.75


def test_the_order_of_samples_does_not_matter():
    random = np.random.default_rng(1)
    values, clusters = random.random(60), random.integers(0, 20, 60)
    order = random.permutation(60)
    assert summarise(values, clusters) == summarise(values[order], clusters[order])


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(2).random(50)
    assert summarise(values, seed=3) == summarise(values, seed=3) != summarise(values, seed=4)


def test_a_single_image_resamples_its_samples():
    low, high = summarise([0, 1, 1, 1], ["a"] * 4)["ci95"]
    assert (low, high) == (0.25, 1.0)


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [[1.0], [0.0]]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(HarnessError, match="cannot summarise"):
        summarise(values)


def test_a_cluster_is_named_for_each_value():
    with pytest.raises(HarnessError, match="3 values and 2 cluster names"):
        summarise([1, 0, 1], ["a", "b"])


def test_pairs_are_matched_by_id_and_not_by_place():
    here, dense = {"a": 1.0, "b": 0.0, "c": 0.5}, {"c": 1.0, "a": 0.5, "b": 0.5}
    assert paired(here, dense) == {"delta": pytest.approx(-1 / 6), "ci95": [-0.5, 0.5]}


def test_the_same_outcomes_differ_by_nothing():
    values = pd.Series(np.random.default_rng(0).random(30), index=[f"s{i}" for i in range(30)])
    assert paired(values, values.sample(frac=1, random_state=0)) == {"delta": 0.0, "ci95": [0.0, 0.0]}


def test_a_shift_of_every_sample_is_exact():
    dense = pd.Series(np.random.default_rng(0).random(30))
    result = paired(dense - 0.1, dense)
    assert result["delta"] == pytest.approx(-0.1, abs=1e-12)
    assert result["ci95"] == [result["delta"]] * 2


def test_pairing_narrows_the_interval():
    random = np.random.default_rng(0)
    dense = pd.Series(random.integers(0, 2, 200).astype(float))
    here = dense.mask(random.random(200) < 0.05, 0.0)
    assert np.diff(paired(here, dense)["ci95"]) < np.diff(summarise(here)["ci95"])


def test_clusters_of_pairs_are_matched_by_id():
    here, dense = {"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 0.0, "b": 0.0, "c": 0.0}
    one = paired(here, dense, {"a": "x", "b": "x", "c": "y"})
    assert one == paired(here, dense, {"c": "y", "b": "x", "a": "x"})
    assert one["delta"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("dense", [{"a": 1.0}, {"a": 1.0, "c": 0.0}, {"a": 1.0, "b": 0.0, "c": 0.0}])
def test_different_samples_are_refused(dense):
    with pytest.raises(HarnessError, match="samples differ from dense's"):
        paired({"a": 1.0, "b": 0.0}, dense)


def test_a_sample_that_appears_twice_is_refused():
    with pytest.raises(HarnessError, match="appears twice"):
        paired(pd.Series([1.0, 0.0], index=["a", "a"]), pd.Series([1.0], index=["a"]))


def test_plain_sequences_are_paired_by_place():
    assert paired([1.0, 0.0], [0.0, 0.0], ["a", "b"]) == paired({"x": 1.0, "y": 0.0}, {"x": 0.0, "y": 0.0})


def long_samples(values, metric="vqa_accuracy"):
    ids = [str(i) for i in range(len(values))]
    return pd.DataFrame({"task": "vqa", "metric": metric, "sample": ids, "cluster": ids, "value": values})


def test_quality_and_deltas_are_by_task_and_metric():
    dense, here = long_samples([1.0, 1.0, 0.0, 1.0]), long_samples([1.0, 0.0, 0.0, 1.0])
    found = quality(here)["vqa"]["vqa_accuracy"]
    assert list(found) == ["value", "ci95", "n"]
    assert (found["value"], found["n"]) == (0.5, 4)
    difference = deltas(here, dense.iloc[::-1])["vqa"]["vqa_accuracy"]
    assert list(difference) == ["delta_to_dense", "delta_ci95"]
    assert difference["delta_to_dense"] == -0.25


def test_deltas_need_the_metric_in_dense():
    with pytest.raises(HarnessError, match="dense has no samples"):
        deltas(long_samples([1.0]), long_samples([1.0], metric="other"))


# Of dense, and of EViT at ratio 0.7 with its difference to dense, as records of the default run held them when means
# were resampled by scipy and corpora by numpy.
STORED = {
    "vqa_accuracy": ([0.9425, 0.9605], [0.7175, 0.7555], -0.216, [-0.234, -0.197]),
    "i2t_r1_rerank": (
        *([0.9179999999999999, 0.948], [0.327, 0.38902500000000007], -0.577, [-0.6090249999999999, -0.544]),
    ),
    "mean_recall": (
        *([0.9145, 0.931], [0.7461666666666668, 0.7853333333333332]),
        *(-0.1574999999999999, [-0.1754999999999999, -0.13932916666666656]),
    ),
    "cider": (
        *([2.972280280538906, 3.104740715720662], [2.5469848907615646, 2.6857508918033117]),
        *(-0.4226893529378383, [-0.49892273399164566, -0.33928859572700115]),
    ),
    "bleu_4": (
        *([0.7825965717432829, 0.795889591978242], [0.7450801382217249, 0.7608128033578059]),
        *(-0.03631088706422314, [-0.04485756616632697, -0.02715324565272637]),
    ),
    "meteor": (
        *([0.39019729302684414, 0.3975422196047736], [0.37623768868782065, 0.3838692705827601]),
        *(-0.014079157913953921, [-0.0192409322015947, -0.009075287068272144]),
    ),
}


def test_intervals_are_those_that_records_held():
    """But for the last bits, in which the products of processors without the wide vectors of others differ."""
    samples = pd.read_parquet(Path(__file__).with_name("intervals.parquet"))
    dense, evit = (
        samples[samples["method"] == method].astype({"task": str, "metric": str}) for method in ("dense", "evit")
    )
    own = [
        {metric: found["ci95"] for task in quality(rows).values() for metric, found in task.items()}
        for rows in (dense, evit)
    ]
    paired_with = {metric: found for task in deltas(evit, dense).values() for metric, found in task.items()}
    found = {metric: (own[0][metric], own[1][metric], *paired_with[metric].values()) for metric in paired_with}
    assert found.keys() == STORED.keys()
    for metric, numbers in STORED.items():
        assert np.hstack(found[metric]) == pytest.approx(np.hstack(numbers), rel=1e-13, abs=1e-15), metric


def test_nineteen_intervals_of_twenty_hold_the_truth():
    """200 draws of 60 images with 3 samples each, alike within an image."""
    random = np.random.default_rng(0)
    images = np.repeat(np.arange(60), 3)
    held = 0
    for _ in range(200):
        chance = random.beta(1, 1, 60)
        low, high = summarise((random.random(180) < chance[images]).astype(float), images)["ci95"]
        held += low <= 0.5 <= high
    assert 0.90 <= held / 200 <= 0.99
