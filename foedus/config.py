"""Strict TOML files: every problem is reported at once, with the nearest valid key."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from foedus.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)
NameT = TypeVar("NameT", str, int)


class Section(BaseModel):
    """A table of a configuration file: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def each_once(values: list[NameT]) -> list[NameT]:
    """`values`; a ValueError names what is there twice."""
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"repeated: {', '.join(map(str, repeated))}; name each once")
    return values


def _none_blank(names: list[str]) -> list[str]:
    if not all(name.strip() for name in names):
        raise ValueError("a name is blank; write it or remove it")
    return names


Names = Annotated[list[str], AfterValidator(_none_blank), AfterValidator(each_once)]
"""Names in a list: none blank, each once."""


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed file.

    Raises:
        ConfigError: If the file is missing, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), ["the file does not exist; check the path"]) from None
    except (IsADirectoryError, PermissionError) as error:
        problem = f"the file cannot be read ({error.strerror})"
        raise ConfigError(str(path), [problem]) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["the file is not UTF-8 text; save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), [f"the file is not valid TOML: {error}"]) from None


def validate(model: type[ModelT], values: Mapping[str, Any], *, source: str) -> ModelT:
    """`values` as `model`.

    Raises:
        ConfigError: Listing every problem by the key the user typed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = [_problem(model, detail) for detail in error.errors()]
        raise ConfigError(source, problems) from None


def nearest(name: str, valid: list[str]) -> str:
    """A hint naming the valid choice nearest to `name`, or all of them if none is near."""
    matches = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if matches:
        return f"did you mean '{matches[0]}'?"
    return f"valid here: {', '.join(valid)}"


def _problem(model: type[BaseModel], detail: ErrorDetails) -> str:
    path = [part for part in detail["loc"] if not _is_tag(part)]
    key = ".".join(str(part) for part in path) or "file"
    kind = detail["type"]
    if kind == "extra_forbidden":
        return f"{key} is not a known key; {nearest(str(path[-1]), _keys_at(model, path[:-1]))}"
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind == "value_error":
        return f"{key}: {detail['ctx']['error']!s}" if path else str(detail["ctx"]["error"])
    found = detail["input"]
    shown = "" if isinstance(found, dict | list | BaseModel) else f" (found {found!r})"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{key}: {message}{shown}"


def _is_tag(part: object) -> bool:
    return isinstance(part, str) and part.startswith("function-")


def _keys_at(model: type[BaseModel], path: list[Any]) -> list[str]:
    """Valid keys of the table at `path`, following nested models, lists and mappings."""
    current: Any = model
    for part in path:
        current = _model_in(current)
        if current is None:
            return []
        if isinstance(part, str) and part in current.model_fields:
            current = current.model_fields[part].annotation
    found = _model_in(current)
    return list(found.model_fields) if found else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, tuple, dict, Union, UnionType):
        for inner in get_args(annotation):
            if (found := _model_in(inner)) is not None:
                return found
    return None
