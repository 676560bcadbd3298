"""Facts about the keyed random numbers: they are SplitMix64's, uniform, and a function of key and sample alone."""

from __future__ import annotations

import torch

from harness.kit.draws import categorical, uniform

IDS = torch.arange(-500, 500) * 7919


def test_without_a_key_the_numbers_are_the_published_splitmix64_of_the_sample_id() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = torch.tensor([[(bits >> 11) * 2.0**-53 for bits in published]], dtype=torch.float64)
    assert torch.equal(uniform(torch.tensor([0]), 3), expected)


def test_the_numbers_fill_the_unit_interval_evenly() -> None:
    drawn = uniform(IDS, 100, 3, 1, 4)
    assert drawn.dtype == torch.float64
    assert 0 <= drawn.min() < 1e-3
    assert 0.999 < drawn.max() < 1
    shares = torch.histc(drawn, bins=20, min=0, max=1) / drawn.numel()
    assert (shares - 0.05).abs().max() < 0.004
    assert (drawn.mean(0) - 0.5).abs().max() < 0.05
    assert (drawn.mean(1) - 0.5).abs().max() < 0.15


def test_other_keys_samples_and_places_give_unrelated_numbers() -> None:
    first = uniform(IDS, 50, 0, 0, 0)
    others = [uniform(IDS, 50, *key) for key in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 0), (0, 0)]]
    others += [first.roll(1, 0), first.roll(1, 1), uniform(IDS + 1, 50, 0, 0, 0)]
    for other in others:
        together = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))
        assert together[0, 1].abs() < 0.02


def test_the_first_numbers_do_not_depend_on_how_many_are_drawn() -> None:
    assert torch.equal(uniform(IDS, 7, 5), uniform(IDS, 40, 5)[:, :7])


def test_a_sample_has_its_numbers_whatever_stands_beside_it() -> None:
    order = torch.randperm(len(IDS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(IDS[order], 4, 2), uniform(IDS, 4, 2)[order])
    assert torch.equal(uniform(IDS[10:11], 4, 2), uniform(IDS, 4, 2)[10:11])


def test_torchs_own_generator_is_not_used() -> None:
    before = torch.get_rng_state()
    uniform(IDS, 4, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_choices_follow_their_weights_and_never_fall_on_weight_zero() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0])
    picked = categorical(weights.expand(20_000, 5), uniform(torch.arange(20_000), 1, 1)[:, 0])
    shares = torch.bincount(picked, minlength=5) / 20_000
    assert (shares - weights / 4).abs().max() < 0.01
    assert shares[weights == 0].sum() == 0


def test_the_ends_of_the_interval_fall_on_the_first_and_last_weight() -> None:
    weights = torch.tensor([[0.0, 0.2, 0.7, 0.0]]).expand(2, 4)
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert categorical(weights, ends).tolist() == [1, 2]
    assert categorical(weights, torch.ones(2, dtype=torch.float64)).tolist() == [2, 2]
