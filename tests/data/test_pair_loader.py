"""Facts about the loader: the order and every pixel depend on (seed, epoch, key) alone, and bad data are bounded."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.augment import Augmentation
from harness.data.pair_batch import BatchDecoder, PairBatch
from harness.data.pair_loader import PairLoader, loader_rate
from harness.data.pairs import PairRef, sample_id
from harness.kit.errors import HarnessError

SMALL = Augmentation(size=8)


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_pairs(folder: Path, count: int, bad: Iterable[int] = ()) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(b"broken" if number in bad else jpeg(number))
        rows.append({"image": f"{number}.jpg", "caption": [f"left {number}", f"right {number}"]})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return str(folder / "pairs.json")


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def write_shards(folder: Path, counts: Iterable[int]) -> str:
    for shard, count in enumerate(counts):
        members: dict[str, bytes] = {}
        for at in range(count):
            members |= {f"{at:03d}.jpg": jpeg(100 * shard + at), f"{at:03d}.txt": f"text {shard} {at}".encode()}
        write_tar(folder / f"{shard:05d}.tar", members)
    return str(folder / "*.tar")


def loader(*sources: str, batch_size: int = 4, **settings: Any) -> PairLoader:
    return PairLoader(sources, None, SMALL, batch_size, **settings)


def keys(batches: Iterable[PairBatch]) -> list[str]:
    return list(chain.from_iterable(batch.keys for batch in batches))


def assert_same(one: Iterable[PairBatch], other: Iterable[PairBatch]) -> None:
    for left, right in zip(one, other, strict=True):
        assert (left.keys, left.captions, left.bad) == (right.keys, right.captions, right.bad)
        assert torch.equal(left.pixels, right.pixels)
        assert torch.equal(left.sample_ids, right.sample_ids)


@pytest.fixture
def sources(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, ...]:
    pairs = write_pairs(tmp_path / "pairs", 21)
    return (pairs,) if request.param == "pairs" else (pairs, write_shards(tmp_path / "shards", (6, 9, 7, 5, 8)))


both_kinds = pytest.mark.parametrize("sources", ["pairs", "shards"], indirect=True)


@both_kinds
def test_an_epoch_has_every_pair_at_most_once_in_an_order_of_its_own(sources: tuple[str, ...]) -> None:
    one = loader(*sources)
    orders = [keys(one.epoch(epoch)) for epoch in range(3)]
    assert one.samples == (21 if len(sources) == 1 else 56)
    assert one.steps_per_epoch == one.samples // 4
    for order in orders:
        assert len(set(order)) == len(order) == one.steps_per_epoch * 4
    assert orders[0] != orders[1] != orders[2]
    assert orders[1] == keys(loader(*sources).epoch(1))
    assert orders[1] != keys(loader(*sources, seed=1).epoch(1))
    assert one.counters.samples == 3 * one.steps_per_epoch * 4


@both_kinds
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sources: tuple[str, ...], workers: int) -> None:
    assert_same(loader(*sources, workers=workers).epoch(3), loader(*sources).epoch(3))


@both_kinds
@pytest.mark.parametrize("skip", [1, 4, 5])
def test_an_interrupted_epoch_goes_on_exactly(sources: tuple[str, ...], skip: int) -> None:
    whole = list(loader(*sources).epoch(2))
    assert_same(whole[skip:], loader(*sources).epoch(2, skip_steps=skip))


@both_kinds
def test_the_global_generator_is_untouched(sources: tuple[str, ...]) -> None:
    before = torch.get_rng_state()
    for workers in (0, 1):
        next(loader(*sources, workers=workers).epoch(0))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_has_the_shapes_it_says(tmp_path: Path) -> None:
    batch = next(loader(write_pairs(tmp_path, 8)).epoch(0))
    assert (batch.pixels.shape, batch.pixels.dtype) == ((4, 3, 8, 8), torch.float32)
    assert batch.sample_ids.tolist() == [sample_id(key) for key in batch.keys]
    assert batch.bad == 0
    assert all(caption.split()[1] == key.split(".")[0] for caption, key in zip(batch.captions, batch.keys, strict=True))


def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 22)
    whole = list(loader(source, batch_size=4).epoch(1))
    halves = [loader(source, batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    assert {half.steps_per_epoch for half in halves} == {len(whole)}
    for batch, *parts in zip(whole, *(half.epoch(1) for half in halves), strict=True):
        assert batch.keys == keys(parts)
        assert batch.captions == [caption for part in parts for caption in part.captions]
        assert torch.equal(batch.pixels, torch.cat([part.pixels for part in parts]))


def test_processes_share_out_the_shards_and_one_that_runs_out_begins_again(tmp_path: Path) -> None:
    source = write_shards(tmp_path, (12, 4))
    ranks = [loader(source, batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    seen = [keys(one.epoch(0)) for one in ranks]
    assert [len(order) for order in seen] == [8, 8]
    small, large = sorted(seen, key=lambda order: len(set(order)))
    assert set(small).isdisjoint(large)
    assert sorted(small[:4]) == sorted(small[4:])
    assert len(set(large)) == 8
    for one, order in zip(ranks, seen, strict=True):
        assert keys(one.epoch(0, skip_steps=3)) == order[6:]


def test_the_shuffle_buffer_mixes_shards(tmp_path: Path) -> None:
    source = write_shards(tmp_path, (8, 8, 8))
    assert keys(loader(source, buffer_samples=1).epoch(0)) != keys(loader(source).epoch(0))


def test_equal_names_in_two_sources_stay_two_pairs(tmp_path: Path) -> None:
    one = loader(*(write_pairs(tmp_path / name, 4) for name in "ab"), *(write_shards(tmp_path / n, (4,)) for n in "cd"))
    seen = keys(one.epoch(0))
    assert {"0.jpg#0", "0.jpg~1#0", "c/00000.tar/000", "d/00000.tar/000"} <= set(seen)
    assert len(set(seen)) == 16


def test_the_workers_half_can_be_pickled(tmp_path: Path) -> None:
    decoder = BatchDecoder(SMALL, 0, 1)
    refs = [PairRef("a", jpeg(0), ("x",))]
    (batch, failures), (again, _) = decoder[refs], pickle.loads(pickle.dumps(decoder))[pickle.loads(pickle.dumps(refs))]
    assert batch is not None
    assert failures == []
    assert_same([batch], [again])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_replaced_by_the_next_of_its_batch(tmp_path: Path, workers: int) -> None:
    one = loader(write_pairs(tmp_path, 8, bad={3}), max_bad_share=0.5, workers=workers)
    sound = loader(write_pairs(tmp_path / "sound", 8), workers=workers)
    for batch, expected in zip(one.epoch(0), sound.epoch(0), strict=True):
        at = expected.keys.index("3.jpg#0") if "3.jpg#0" in expected.keys else None
        replaced = [key if place != at else expected.keys[(place + 1) % 4] for place, key in enumerate(expected.keys)]
        assert batch.keys == replaced
        assert batch.bad == (at is not None)
    assert (one.counters.samples, one.counters.bad_samples) == (8, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_end_the_run_in_one_line(tmp_path: Path, workers: int) -> None:
    one = loader(write_pairs(tmp_path, 40, bad={5}), workers=workers)
    message = r"^1 of 40 pairs \(2.50%\) cannot be used; --max-bad-share is 0.01; the first: image .*5.jpg: cannot be"
    with pytest.raises(HarnessError, match=message) as caught:
        list(one.epoch(0))
    assert "\n" not in str(caught.value)
    assert len(list(loader(write_pairs(tmp_path, 40, bad={5}), max_bad_share=0.025).epoch(0))) == 10


def test_a_batch_without_any_readable_sample_ends_the_run(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, 8, bad=range(8))
    with pytest.raises(HarnessError, match=r"4 of 8 .* cannot be used, among them a whole batch"):
        next(loader(source, max_bad_share=1.0).epoch(0))


def test_a_sample_without_caption_or_image_is_bad(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(0), "b.txt": b"text", "c.jpg": jpeg(1), "c.txt": b"text"})
    one = loader(str(tmp_path / "0.tar"), batch_size=3, max_bad_share=1.0)
    batch = next(one.epoch(0))
    assert (batch.keys, batch.bad) == (["0.tar/c"] * 3, 2)
    with pytest.raises(HarnessError, match=r"the first: (pair 0.tar/a: has no caption|image 0.tar/b: cannot be read)"):
        next(loader(str(tmp_path / "0.tar"), batch_size=3).epoch(0))


def test_a_damaged_shard_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    source = write_shards(tmp_path, (9, 9))
    path = tmp_path / "00000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    lines: list[str] = []
    one = loader(source, warn=lines.append)
    assert 9 < one.samples < 18
    for epoch in range(2):
        assert len(list(one.epoch(epoch))) == one.steps_per_epoch
    assert one.counters.bad_shards == len(lines) == 1
    assert "00000.tar: damaged (unexpected end of data)" in lines[0]


def test_a_process_whose_shards_are_empty_ends_with_one_line(tmp_path: Path) -> None:
    source = write_shards(tmp_path, (8,))
    one = loader(source, warn=lambda line: None)
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(HarnessError, match="process 0: no sample in its shards"):
        next(one.epoch(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5, "world": 2}, r"8 pairs: fewer than one global batch of 10 \(5 x 2 processes\)"),
        ({"batch_size": 0}, "batch size 0"),
        ({"buffer_samples": 0}, "shuffle buffer 0"),
        ({"rank": 2, "world": 2}, "process 2 of 2"),
        ({"workers": -1}, "-1 workers"),
        ({"max_bad_share": 1.5}, "--max-bad-share 1.5"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        loader(write_pairs(tmp_path, 8), **settings)


def test_sources_that_give_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no data sources"):
        loader()
    with pytest.raises(HarnessError, match="nothing matches"):
        loader(str(tmp_path / "{0..3}.tar"))
    source = write_shards(tmp_path, (4, 4))
    with pytest.raises(HarnessError, match="2 shards and blocks of 1000 pairs: fewer than 3 processes"):
        loader(source, batch_size=1, world=3)
    with pytest.raises(HarnessError, match="is named by two sources"):
        loader(source, str(tmp_path / "00000.tar"))
    with pytest.raises(HarnessError, match="skip 3 steps: an epoch has 2"):
        loader(source).epoch(0, skip_steps=3)


def test_the_rate_is_measured_over_as_many_epochs_as_it_takes(tmp_path: Path) -> None:
    assert loader_rate(loader(write_pairs(tmp_path, 4)), seconds=0.05) > 10


def test_several_views_and_texts_of_a_pair_begin_with_those_of_the_plain_loader() -> None:
    refs = [PairRef(f"{n}#0", jpeg(n), (f"{n} left", f"{n} right", f"{n} near")) for n in range(4)]
    plain, several = (
        next(PairLoader([], None, SMALL, 4, more=refs, **more).epoch(1)) for more in ({}, {"views": 3, "texts": 2})
    )
    assert plain.texts == []
    assert several.pixels.shape == (4, 3, 3, 8, 8)
    assert torch.equal(several.pixels[:, 0], plain.pixels)
    assert not torch.equal(several.pixels[:, 1], several.pixels[:, 2])
    assert [texts[0] for texts in several.texts] == several.captions == plain.captions
    assert all(len(set(texts)) == 2 for texts in several.texts)
