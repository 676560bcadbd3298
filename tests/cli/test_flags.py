"""Commands made from specs: flags, their help, bounds and errors, and what the spec holds then."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
import typer
from pydantic import BaseModel, Field, PositiveInt
from typer.testing import CliRunner

from harness.cli.flags import command_of
from harness.kit.errors import HarnessError
from harness.kit.settings import NO_FLAG, Flag


class Spec(BaseModel):
    """A field of each kind."""

    task: Annotated[str, Field(description="What to do.")]
    steps: Annotated[PositiveInt | None, Field(description="Steps.")] = None
    workers: Annotated[int, Field(ge=0, description="Image processes.")] = 2
    rate: Annotated[float, Field(gt=0, description="A rate.")] = 0.5
    out: Annotated[Path, Field(description="A folder.")] = Path("here")
    data: Annotated[tuple[str, ...], Field(description="Sources.")] = ("scenes",)
    settings: Annotated[dict[str, Any], Flag("--set"), Field(description="A field.")] = {}
    options: Annotated[dict[str, dict[str, Any]], Flag("--set-task"), Field(description="An option.")] = {}
    precision: Annotated[Literal["no", "bf16"], Field(description="Of products.")] = "no"
    seeds: Annotated[
        tuple[int, ...],
        Flag("--seed", read=lambda words: tuple(map(int, words.split(","))), default="0"),
        Field(description="Seeds."),
    ] = (0,)
    quiet: Annotated[bool, Field(description="No progress.")] = False
    key: Annotated[str, NO_FLAG] = "internal"


def build(made: list[Any], **defaults: Any) -> typer.Typer:
    def act(spec: Spec, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
        """Act on a spec."""
        made.append((spec, as_json))

    app = typer.Typer(rich_markup_mode=None)
    app.command()(command_of(Spec, act, defaults=defaults))
    return app


def test_flags_become_the_spec_and_the_rest_goes_to_the_function() -> None:
    made: list[Any] = []
    words = (
        "--task x --steps 3 --data a --data b --set k=1 --set-task vqa.blank=true --precision bf16 --seed 1,2 --json"
    )
    assert CliRunner().invoke(build(made), [*words.split(), "--quiet", "--out", "there"]).exit_code == 0
    expected = Spec(
        task="x",
        steps=3,
        data=("a", "b"),
        settings={"k": 1},
        options={"vqa": {"blank": True}},
        precision="bf16",
        seeds=(1, 2),
        quiet=True,
        out=Path("there"),
    )
    assert made == [(expected, True)]


def test_what_is_not_given_is_the_default_of_the_spec_or_of_the_command() -> None:
    made: list[Any] = []
    assert CliRunner().invoke(build(made), ["--task", "x"]).exit_code == 0
    assert CliRunner().invoke(build(made, task="y", workers=5), []).exit_code == 0
    assert made == [(Spec(task="x"), False), (Spec(task="y", workers=5), False)]


def test_help_says_what_the_fields_say() -> None:
    words = CliRunner().invoke(build([]), ["--help"]).output
    for said in ("Act on a spec.", "--workers", "Image processes.", "x>=0", "[no|bf16]", "Sources; repeatable."):
        assert said in words
    assert "[default: 0.5" in words
    assert "[required]" in words
    assert "--no-quiet" not in words
    assert "--key" not in words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rate 0", "--rate: Input should be greater than 0"),
        ("--precision fp8", "--precision fp8: expected one of no, bf16"),
        ("--set k", "--set 'k': expected name=value"),
        ("--set-task k=1", "--set-task k: expected GROUP.name=value"),
    ],
)
def test_bad_values_are_refused_by_the_name_of_their_flag(words: str, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        CliRunner().invoke(build([]), ["--task", "x", *words.split()], catch_exceptions=False)


def test_a_whole_number_below_its_bound_and_a_missing_flag_are_refused_by_the_command_line() -> None:
    for words in (["--task", "x", "--steps", "0"], ["--task", "x", "--workers", "-1"], []):
        assert CliRunner().invoke(build([]), words).exit_code == 2


def test_a_type_that_no_flag_has_is_a_mistake_of_the_spec() -> None:
    class Odd(BaseModel):
        pair: Optional[complex] = None

    with pytest.raises(TypeError, match="field pair"):
        command_of(Odd, lambda spec: None)
