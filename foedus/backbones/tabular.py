"""Tables: the study's columns as numbers, without a network.

A number becomes its value and a "missing" mark; a category becomes one mark for each declared
category, one for "unseen" (any other value) and one for "missing". The layout follows the
study's declaration alone, so it is the same at every site whatever its rows hold.
"""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from foedus.backbones.sources import refuse_keys
from foedus.backbones.spec import BackboneSpec, make_spec
from foedus.columns import Column, TableSection
from foedus.errors import BackboneError
from foedus.study import BackboneSection

if TYPE_CHECKING:
    import pandas as pd

MISSING, UNSEEN = "missing", "unseen"


def column_names(table: TableSection) -> list[str]:
    """Names of the features, in order: "age", "age: missing", "sex = F", ..., "sex: unseen", ..."""
    return [name for column in table.columns for name in _names(column)]


def _names(column: Column) -> list[str]:
    if column.kind == "number":
        return [column.name, f"{column.name}: {MISSING}"]
    marks = [f"{column.name} = {category}" for category in column.categories]
    return [*marks, f"{column.name}: {UNSEEN}", f"{column.name}: {MISSING}"]


def encode(frame: "pd.DataFrame", table: TableSection) -> NDArray[np.float32]:
    """(n, d), float32: the columns of `column_names`.

    A missing number is NaN; standardising turns it into the federation's mean (0).

    Args:
        frame: At least the study's columns, under their names; others are ignored. Anything with `columns`
            that gives an array for a name will do: float64, or object with None where a category is missing.
        table: The study's declaration.

    Raises:
        BackboneError: If a column is missing, or a number column holds something else.
    """
    lacking = [column.name for column in table.columns if column.name not in frame.columns]
    if lacking:
        raise BackboneError(
            f"the table has no column {', '.join(map(repr, lacking))}; the study asks for it."
        )
    parts = [
        _number(frame[column.name], column)
        if column.kind == "number"
        else _category(frame[column.name], column)
        for column in table.columns
    ]
    return np.concatenate(parts, axis=1)


def _number(values: "pd.Series[Any] | NDArray[Any]", column: Column) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            if isinstance(values, np.ndarray):
                numbers = values.astype(np.float32)
            else:
                numbers = values.to_numpy(np.float64, na_value=np.nan).astype(np.float32)
    except (TypeError, ValueError):
        raise BackboneError(f"column '{column.name}' holds values that are not numbers.") from None
    numbers[~np.isfinite(numbers)] = np.nan
    return np.stack([numbers, np.isnan(numbers).astype(np.float32)], axis=1)


def _category(values: "pd.Series[Any] | NDArray[Any]", column: Column) -> NDArray[np.float32]:
    place = {category: index for index, category in enumerate(column.categories)}
    unseen, missing = len(place), len(place) + 1
    absent = (
        [value is None for value in values.tolist()]
        if isinstance(values, np.ndarray)
        else values.isna().tolist()
    )
    found = [
        missing if lacks else place.get(str(value), unseen)
        for value, lacks in zip(values.tolist(), absent, strict=True)
    ]
    marks = np.zeros((len(found), len(place) + 2), np.float32)
    marks[np.arange(len(found)), found] = 1
    return marks


def describe(section: BackboneSection, table: TableSection | None) -> BackboneSpec:
    """The spec of a table: its declaration is what the digest is taken of.

    Raises:
        BackboneError: If no table is declared, or a column or category is declared twice.
    """
    refuse_keys(section, "tap", "image_size", "max_tokens", modality="a table")
    if table is None:
        raise BackboneError('backbone.source is "tabular" but no [[table.columns]] are declared; add them.')
    names = column_names(table)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BackboneError(f"the table declares {', '.join(map(repr, repeated))} twice; declare each once.")
    return make_spec(
        section.source,
        "table",
        architecture="columns",
        dim=len(names),
        tap="columns",
        preprocessing={"columns": names},
        weights_sha256="",
        declaration=table.model_dump(mode="json"),
    )


class TableEmbedder:
    """The columns of a table as features."""

    def __init__(self, spec: BackboneSpec, table: TableSection) -> None:
        self.spec = spec
        self.table = table

    def embed(self, inputs: object) -> NDArray[np.float32]:
        """(n, dim), float32, NaN where a number is missing; see `Embedder`."""
        if not hasattr(inputs, "columns"):
            raise BackboneError(f"a table is a {type(inputs).__name__}, expected a DataFrame.")
        return encode(cast("pd.DataFrame", inputs), self.table)
