"""Commands from specs: the flags of a command are the fields of a pydantic model, with their types and bounds.

A field `batch_size: Annotated[PositiveInt, Field(description="Pairs per process.")] = 64` is the flag --batch-size with
that help, a smallest value of 1 and 64 shown as its default. Its type decides the rest:

- bool: a flag without a value; int, float, str, Path, each also `| None`; Literal: one of its words
- tuple[X, ...]: repeatable, the default standing where none is given
- dict[str, Any]: repeatable NAME=VALUE, the value read as YAML; dict[str, dict[str, Any]]: repeatable GROUP.NAME=VALUE
- what `harness.kit.settings.Flag` says in the field's annotation goes before all this; NO_FLAG leaves a field out
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, cast, get_args, get_origin, get_type_hints

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.kit.errors import HarnessError
from harness.kit.settings import NO_FLAG, Flag, validated

PLAIN = (bool, int, float, str, Path)
LONGEST_SHOWN = 60


def command_of(
    spec: type[BaseModel],
    run: Callable[..., None],
    *,
    defaults: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
) -> Callable[..., None]:
    """A typer command that makes a `spec` of its flags and calls `run(the spec, **the rest)`.

    `run`'s first parameter takes the spec; its others are options or arguments of the command, in typer's own form,
    and its docstring is the command's. `defaults`: by field, where the command's differ from the spec's. `only`: the
    fields that the command has flags for, by default all. The command raises HarnessError, naming the flag, for values
    that cannot be.
    """
    wanted = spec.model_fields if only is None else only
    fields = {
        name: field for name, field in spec.model_fields.items() if name in wanted and _flag_of(field) is not NO_FLAG
    }
    given = dict(defaults or {})
    own = list(inspect.signature(run).parameters.values())[1:]
    hints = get_type_hints(run, include_extras=True)

    def command(**options: Any) -> None:
        rest = {one.name: options.pop(one.name) for one in own}
        run(spec_of(spec, options, given), **rest)

    parameters = [_parameter(name, field, given) for name, field in fields.items()]
    parameters += [one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 - a function has no such attribute
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    return command


def spec_of(spec: type[BaseModel], options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Any:
    """A spec from what typer read for its flags; HarnessError, naming the flag, for values that cannot be."""
    values = dict(defaults or {})
    for name, option in options.items():
        field = spec.model_fields[name]
        if option is None or (_is_repeatable(field) and not option):
            continue
        values[name] = _value(field, option, flag_name(name, field))
    return validated(
        spec, values, "options", {name: flag_name(name, field) for name, field in spec.model_fields.items()}
    )


def flag_name(name: str, field: FieldInfo) -> str:
    """The flag of a field: --batch-size, or what its Flag says."""
    flag = _flag_of(field)
    return (flag.name if flag is not None else None) or f"--{name.replace('_', '-')}"


def parse_settings(words: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """{'keep_rate': 0.7} from ['keep_rate=0.7'], values read as YAML; HarnessError that names the `option` given."""
    from harness.kit.reading import parse_yaml

    settings: dict[str, Any] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise HarnessError(f"{option} {shortened(word)}: expected name=value")
        parsed = parse_yaml(value, f"{option} {shortened(word)}")
        settings[name.strip()] = _several(value) if isinstance(parsed, str) and "," in parsed else parsed
    return settings


def shortened(word: str) -> str:
    """A word that was given, in quotes, cut where it is long."""
    return repr(word if len(word) <= LONGEST_SHOWN else f"{word[:LONGEST_SHOWN]}…")


def _several(value: str) -> list[Any]:
    """The values between commas, each as YAML reads it alone: 0.2,0.5 are two numbers."""
    from harness.kit.reading import parse_yaml

    return [parse_yaml(one, repr(one)) for one in value.split(",")]


def parse_grouped(words: list[str] | None, option: str, expected: str) -> dict[str, dict[str, Any]]:
    """{'vqa': {'blank_images': True}} from ['vqa.blank_images=true']; HarnessError that says what was `expected`."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in parse_settings(words, option).items():
        group, dot, field = name.partition(".")
        if not dot:
            raise HarnessError(f"{option} {name}: expected {expected}")
        groups.setdefault(group, {})[field] = value
    return groups


def _parameter(name: str, field: FieldInfo, defaults: Mapping[str, Any]) -> inspect.Parameter:
    """A field as a parameter that typer reads."""
    flag, kind = _flag_of(field), _plain(field.annotation)
    choices, default = _choices(kind), defaults.get(name, field.get_default(call_default_factory=True))
    extra: dict[str, Any] = {"help": _help(field)} | _bounds(field)
    if flag is not None and flag.metavar is not None:
        extra["metavar"] = flag.metavar
    elif choices:
        extra["metavar"] = f"[{'|'.join(choices)}]"
    elif _is_dict(kind):
        extra["metavar"] = "NAME=VALUE"
    annotation: Any
    if flag is not None and flag.read is not None:
        annotation, default = Optional[str], None if not field.is_required() else ...
        if flag.default is not None:
            extra["show_default"] = flag.default
    elif _is_repeatable(field):
        item = str if _is_dict(kind) or _choices(get_args(kind)[0]) else get_args(kind)[0]
        if default and not _is_dict(kind):
            extra["show_default"] = ", ".join(map(str, default))
        annotation, default = Optional[list[item]], None  # type: ignore[valid-type]  # typer reads it
    else:
        annotation = str if choices else kind
        if annotation not in PLAIN:
            raise TypeError(f"field {name}: {field.annotation} cannot be a flag; give it a Flag that reads it")
        if default is None or _is_optional(field.annotation):
            annotation = Optional[annotation]
    option = typer.Option(flag_name(name, field), **extra)
    required = field.is_required() and name not in defaults
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[annotation, option],
    )


def _value(field: FieldInfo, option: Any, flag: str) -> Any:
    """What a spec takes for what typer read."""
    chosen, kind = _flag_of(field), _plain(field.annotation)
    if chosen is not None and chosen.read is not None:
        return chosen.read(option)
    if _is_dict(kind):
        if _is_dict(_plain(get_args(kind)[1])):
            return parse_grouped(option, flag, (chosen and chosen.metavar) or "GROUP.name=value")
        return parse_settings(option, flag)
    if _is_repeatable(field):
        return tuple(option)
    choices = _choices(kind)
    if choices and option not in choices:
        raise HarnessError(f"{flag} {option}: expected one of {', '.join(choices)}")
    return option


def _help(field: FieldInfo) -> str:
    several = "" if not _is_repeatable(field) else "; repeatable"
    return f"{(field.description or '').rstrip('.')}{several}."


def _flag_of(field: FieldInfo) -> Flag | None:
    return next((part for part in field.metadata if isinstance(part, Flag)), None)


def _bounds(field: FieldInfo) -> dict[str, Any]:
    """min and max of a number; what excludes its bound is left to the spec, but for whole numbers."""
    parts = [*field.metadata, *_inner_metadata(field.annotation)]
    whole = _plain(field.annotation) is int
    bounds: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, annotated_types.Ge):
            bounds["min"] = part.ge
        elif isinstance(part, annotated_types.Le):
            bounds["max"] = part.le
        elif isinstance(part, annotated_types.Gt) and whole:
            bounds["min"] = int(cast(int, part.gt)) + 1
        elif isinstance(part, annotated_types.Lt) and whole:
            bounds["max"] = int(cast(int, part.lt)) - 1
    return bounds


def _inner_metadata(annotation: Any) -> list[Any]:
    """What stands inside a union or an Annotated: of `PositiveInt | None`, that it is greater than 0."""
    if get_origin(annotation) is Annotated:
        parts = get_args(annotation)
        return [*_flattened(parts[1:]), *_inner_metadata(parts[0])]
    if _is_union(annotation):
        return [part for one in get_args(annotation) for part in _inner_metadata(one)]
    return []


def _flattened(parts: tuple[Any, ...]) -> list[Any]:
    """Bounds that stand in groups, as pydantic's and annotated_types' own do, one by one."""
    return [one for part in parts for one in (part if isinstance(part, annotated_types.GroupedMetadata) else [part])]


def _plain(annotation: Any) -> Any:
    """A type without None and without what is said about it."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if _is_union(annotation):
        left = [one for one in get_args(annotation) if one is not type(None)]
        return _plain(left[0]) if len(left) == 1 else annotation
    return annotation


def _choices(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_optional(annotation: Any) -> bool:
    return _is_union(annotation) and type(None) in get_args(annotation)


def _is_dict(kind: Any) -> bool:
    return kind is dict or get_origin(kind) is dict


def _is_repeatable(field: FieldInfo) -> bool:
    """Whether a field is read from a flag that may stand several times."""
    flag, kind = _flag_of(field), _plain(field.annotation)
    return (flag is None or flag.read is None) and (_is_dict(kind) or get_origin(kind) in (tuple, list))
