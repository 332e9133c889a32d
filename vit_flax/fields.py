"""Fields of a recipe and a model, set in words: `learning_rate=1e-3`, `model.num_layers=4`, `crop_scale=0.8,1`."""

import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from vit_flax.config import ViTConfig, one_of
from vit_flax.recipe import Recipe

PARTS = {"recipe": Recipe, "model": ViTConfig}
OF_THE_DATA = ("image_size", "channels", "num_classes")  # which a model takes from them
Changes = dict[str, Any]


def read_fields(texts: Sequence[str]) -> tuple[Changes, Changes]:
    """The changes of a recipe and of a model. What both have is the recipe's, unless it begins with `model.`.

    Raises `ValueError`, naming the field, for an unknown name or a value that is not of its type.
    """
    changes: dict[str, Changes] = {"recipe": {}, "model": {}}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text} has no =: give it as FIELD=VALUE")
        part, name = _place(field.strip())
        changes[part][name] = _read(name, typing.get_type_hints(PARTS[part])[name], value.strip())
    return changes["recipe"], changes["model"]


def field_names() -> list[str]:
    """All that can be set, those of a model last."""
    names = list(typing.get_type_hints(Recipe))
    return names + [name for name in typing.get_type_hints(ViTConfig) if name not in (*names, *OF_THE_DATA)]


def _place(field: str) -> tuple[str, str]:
    """The part that a field belongs to, and its name there."""
    part, dot, name = field.partition(".")
    if dot:
        one_of("part", part, PARTS)
    else:
        part, name = ("recipe" if field in typing.get_type_hints(Recipe) else "model"), field
        one_of("field", name, [*field_names(), *OF_THE_DATA])
    if part == "model" and name in OF_THE_DATA:
        raise ValueError(f"{name} follows from the data, and cannot be set")
    one_of(f"field of the {part}", name, typing.get_type_hints(PARTS[part]))
    return part, name


def _read(name: str, kind: Any, text: str) -> Any:
    for one in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        try:
            return _read_as(one, text)
        except ValueError:
            continue
    raise ValueError(f"{name} is {text!r}, but must be {_described(kind)}")


def _read_as(kind: Any, text: str) -> Any:
    """The value of a type; `ValueError` if the text is none."""
    if kind in (int, float):
        return kind(text)
    if kind is bool:
        return {"true": True, "false": False}[_one_word(text, ("true", "false"))]
    if kind is types.NoneType:
        return {"none": None}[_one_word(text, ("none",))]
    if typing.get_origin(kind) is Literal:
        return _one_word(text, typing.get_args(kind))
    each = typing.get_args(kind)  # of a tuple
    words = text.strip("()").split(",")
    if each[-1] is not Ellipsis and len(words) != len(each):
        raise ValueError
    return tuple(_read_as(each[0], word) for word in words)


def _one_word(text: str, words: Sequence[str]) -> str:
    if text.lower() not in words:
        raise ValueError
    return text.lower()


def _described(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_described(one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return " or ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        each = typing.get_args(kind)
        return "numbers with commas between them" if each[-1] is Ellipsis else f"{len(each)} numbers, as 0.8,1"
    words = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "none"}
    return words[kind]
