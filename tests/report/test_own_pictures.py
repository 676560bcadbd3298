"""Pictures of what any method keeps of an image of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cli.main import main
from harness.hosts.ready import Host, load_host
from harness.kit.errors import HarnessError
from harness.report.traces import Pictured, kept_examples


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host("albef-tiny", None, "cpu", "float32")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of another shape and size than the host's images."""
    path = tmp_path / "own.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)).save(path)
    return path


def test_a_text_of_ones_own_guides(host: Host, picture: Path) -> None:
    kept = [
        kept_examples(host, ("elip", "evit"), 0.5, [Pictured(picture, text)])[0].methods
        for text in ("a red circle", "a green square is above a yellow triangle")
    ]
    assert any((kept[0]["elip"][stage].kept != kept[1]["elip"][stage].kept).any() for stage in range(3))
    assert all((one.kept == other.kept).all() for one, other in zip(kept[0]["evit"], kept[1]["evit"], strict=True))


def test_without_a_text_a_text_guided_method_keeps_all(host: Host, picture: Path) -> None:
    (example,) = kept_examples(host, ("elip", "tome"), 0.5, [Pictured(picture)])
    assert not example.methods["elip"]
    assert example.methods["tome"][-1].kept.sum() < 64
    assert example.image.shape == (64, 64, 3)


def test_an_adaptive_method_is_bent_on_the_picture(host: Host, picture: Path) -> None:
    (example,) = kept_examples(host, ("ats",), 0.7, [Pictured(picture, "a red circle")])
    assert 0 < example.methods["ats"][-1].kept.sum() < 64


def test_a_method_that_learns_is_not_drawn_without_weights(host: Host, picture: Path) -> None:
    with pytest.raises(HarnessError, match="method dynamicvit learns, and these weights hold none of it"):
        kept_examples(host, ("dynamicvit",), 0.7, [Pictured(picture)])


def test_the_command_draws_and_says_where(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plot", "--method", "elip", "--image", str(picture), "--text", "a red circle", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"patches-elip.{one}") for one in ("svg", "png")]
    assert (tmp_path / "patches-elip.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--image", "x.png"], "--image: is for --method, which is not given"),
        (["--method", "elip", "--text", "a"], "--text: is for --image, which is not given"),
        (["--method", "elip", "--image", "/no/such.png"], "image /no/such.png: cannot be read"),
        (["--method", "elip", "--patches-ratio", "nan"], "ratio nan: expected a number above 0 and at most 1"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plot", *words])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in told
    assert told.count("\n") == 1
