"""Facts about the store of images: pixels as `load_images` gives them, kept within a budget, and seconds told apart."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import image_store
from harness.data.image_store import ImageStore, PixelBudget
from harness.data.transforms import decode, load_images, normalise
from harness.kit.errors import HarnessError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZE, BYTES = 8, 3 * 8 * 8


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Seven images of noise, of other sizes than they are wanted in."""
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 255, (9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(7)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which images are decoded, by the names of their files."""
    names: list[str] = []
    real = decode

    def counting(path: Path, size: int) -> object:
        names.append(path.stem)
        return real(path, size)

    monkeypatch.setattr(image_store, "decode", counting)
    return names


def store_of(paths: list[Path], budget: PixelBudget | int = 2**30, **options: int) -> ImageStore:
    shared = PixelBudget(budget) if isinstance(budget, int) else budget
    return ImageStore(paths, SIZE, MEAN, STD, budget=shared, **options)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("budget", [0, 3 * BYTES, 2**30])
def test_pixels_are_those_of_load_images_bit_for_bit(paths: list[Path], budget: int, threads: int) -> None:
    expected = load_images(paths, SIZE, MEAN, STD)
    store = store_of(paths, budget=budget, threads=threads)
    assert len(store) == 7
    for index in ([0, 1, 2], [2, 2, 6, 0], [3], [5, 4, 3, 2, 1, 0]):
        store.prefetch(torch.tensor(index[:2]))
        found = store[torch.tensor(index)]
        assert found.dtype == torch.float32
        assert torch.equal(found, expected[index])
    assert torch.equal(store[:], expected)
    assert torch.equal(store[2:4], expected[2:4])
    assert store[:0].shape == (0, 3, SIZE, SIZE)


def test_normalising_by_numpy_gives_torch_s_bits() -> None:
    values = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)
    pixels = torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).float().div_(255)
    expected = pixels.sub_(torch.tensor(MEAN).view(1, 3, 1, 1)).div_(torch.tensor(STD).view(1, 3, 1, 1))
    assert torch.equal(normalise(values, MEAN, STD), expected)


def test_images_are_decoded_again_only_beyond_the_budget(paths: list[Path], decoded: list[str]) -> None:
    store = store_of(paths, budget=3 * BYTES)
    for _ in range(2):
        for number in range(7):
            assert len(store[torch.tensor([number, number])]) == 2
    assert sorted(decoded) == sorted("012" + "3456" * 2)


def test_an_image_of_the_latest_batch_is_still_there(paths: list[Path], decoded: list[str]) -> None:
    store = store_of(paths, budget=0)
    for index in ([0, 1], [1, 2], [2, 3]):
        assert len(store[torch.tensor(index)]) == 2
    assert sorted(decoded) == ["0", "1", "2", "3"]


def test_what_is_prefetched_is_read_meanwhile_and_once(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    started, real = threading.Event(), image_store.__dict__["decode"]

    def telling(path: Path, size: int) -> object:
        started.set()
        return real(path, size)

    monkeypatch.setattr(image_store, "decode", telling)
    store = store_of(paths)
    with store.reading():
        store.prefetch(torch.tensor([3, 4]))
        assert started.wait(10)
        assert len(store[torch.tensor([3, 4])]) == 2
    assert sorted(decoded) == ["3", "4"]


def test_what_was_prefetched_in_vain_is_given_up(paths: list[Path]) -> None:
    paths[5].write_bytes(b"")
    store = store_of(paths)
    with store.reading():
        store.prefetch(torch.tensor([5]))
    Image.new("RGB", (4, 4)).save(paths[5])
    assert torch.equal(store[5:6], load_images(paths[5:6], SIZE, MEAN, STD))


@pytest.mark.parametrize("budget", [0, 2 * BYTES, 2**30])
def test_an_image_that_cannot_be_read_is_found_before_and_when_asked_for(paths: list[Path], budget: int) -> None:
    paths[4].write_bytes(b"")
    expected = r"^image .*4\.png: cannot be read \(it is empty\); fetch it again or leave it out$"
    store = store_of(paths, budget=budget)
    with pytest.raises(HarnessError, match=expected):
        store.ready()
    with pytest.raises(HarnessError, match=expected):
        store[:]
    assert len(store[torch.tensor([0, 6])]) == 2


def test_ready_reads_what_there_is_room_for_and_is_done_once(paths: list[Path], decoded: list[str]) -> None:
    store = store_of(paths, budget=5 * BYTES)
    store.ready()
    store.ready()
    assert sorted(decoded) == ["0", "1", "2", "3", "4"]
    assert len(store[:5]) == 5
    assert len(decoded) == 5


def test_stores_share_a_budget_and_the_first_to_read_takes_it(paths: list[Path], decoded: list[str]) -> None:
    budget = PixelBudget(5 * BYTES)
    first, second = store_of(paths[:3], budget), store_of(paths[3:], budget)
    for store in (first, second, second, first):
        for number in range(len(store)):
            assert len(store[torch.tensor([number])]) == 1
    assert sorted(decoded) == sorted("01234" + "56" * 2)
    assert budget.left == 0


def test_blank_images_are_the_mean_colour_and_read_nothing(paths: list[Path], decoded: list[str]) -> None:
    for store in (store_of(paths).blank(), ImageStore.of(torch.ones(7, 3, SIZE, SIZE)).blank()):
        store.ready()
        assert len(store) == 7
        assert torch.equal(store[torch.tensor([1, 1, 6])], torch.zeros(3, 3, SIZE, SIZE))
    assert decoded == []


def test_images_in_memory_are_given_as_they_are() -> None:
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    store = ImageStore.of(images)
    assert torch.equal(store[torch.tensor([2, 0])], images[[2, 0]])
    assert store.seconds.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("threads", "each"), [(1, 1.0), (2, 0.5)])
def test_seconds_tell_what_reading_each_image_took_shared_among_threads(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, threads: int, each: float
) -> None:
    """By a clock that goes on a second per decoded image, seen from its own thread."""
    own, real = threading.local(), image_store.__dict__["decode"]

    def slow(path: Path, size: int) -> object:
        own.now = getattr(own, "now", 0.0) + 1
        return real(path, size)

    monkeypatch.setattr(image_store, "decode", slow)
    monkeypatch.setattr(image_store, "perf_counter", lambda: getattr(own, "now", 0.0))
    store = store_of(paths, threads=threads)
    store[:4]
    assert store.seconds.tolist() == [each] * 4 + [0] * 3
    store.ready()
    assert store.seconds.tolist() == [each] * 7


def test_an_image_that_is_kept_keeps_its_seconds(paths: list[Path]) -> None:
    store = store_of(paths)
    store.ready()
    before = store.seconds.copy()
    assert (before > 0).all()
    store[:]
    assert (store.seconds == before).all()
