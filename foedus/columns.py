"""[[table.columns]]: the columns of a tabular study, the same at every site."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from foedus.config import Section, each_once


class Column(Section):
    """[[table.columns]]: one column every site must have."""

    name: str
    kind: Literal["number", "category"]
    range: tuple[float, float] | None = None
    """number: plausible values; a value outside is treated as missing and counted."""
    categories: Annotated[list[str], AfterValidator(each_once)] = []
    """category: the values; any other becomes "unseen" and is counted."""
    missing: list[str | float | int] = []
    """Values that stand for "not recorded", besides empty cells."""

    @field_validator("range", mode="before")
    @classmethod
    def _as_pair(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
            return (float(value[0]), float(value[1]))
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "category" and not self.categories:
            raise ValueError(f"column '{self.name}' is a category; list its categories")
        if self.kind == "number" and self.categories:
            raise ValueError(f"column '{self.name}' is a number; remove categories")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"column '{self.name}' has range {list(self.range)}; low must be below high")
        return self


class TableSection(Section):
    """[table]: columns of a tabular study, declared here and checked at each site."""

    columns: list[Column] = Field(min_length=1)

    @field_validator("columns")
    @classmethod
    def _named_once(cls, columns: list[Column]) -> list[Column]:
        each_once([column.name for column in columns])
        return columns
