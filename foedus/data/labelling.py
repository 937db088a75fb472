"""From the cells of the label column to class indices or, where a cell holds several labels, to 0 and 1."""

import numpy as np

from foedus.data.cells import Cell, by_canonical, canonical
from foedus.labels import Labels
from foedus.site import SiteConfig

UNDECLARED = "label is not a class of the study"


def names_of(cells: list[Cell], site: SiteConfig) -> list[list[str] | None]:
    """Each record's classes by [data.labels]; a value that is not listed stands for itself.

    One class, or None in an empty cell. With [data] label_separator any number, and none in an empty
    cell; a value that is listed as "" is left out.
    """
    listed, spelled = site.data.labels, by_canonical(site.data.labels)
    mark = site.data.label_separator

    def name(text: str) -> str:
        return listed[spelled[text]] if text in spelled else text

    if mark is None:
        return [None if (text := canonical(cell)) is None else [name(text)] for cell in cells]
    parts = [map(canonical, (cell or "").split(mark)) for cell in cells]
    return [[named for text in texts if text is not None and (named := name(text))] for texts in parts]


def unknown(names: list[str], known: dict[str, str]) -> list[str]:
    """Those that are no class, `known` being `by_canonical` of the classes."""
    return [name for name in names if canonical(name) not in known]


def as_labels(named: list[list[str]], classes: list[str], *, several: bool) -> Labels:
    """(n,) indices or, of several labels, (n, n_classes) of 0 and 1; every name is a class."""
    ids, spelled = {name: i for i, name in enumerate(classes)}, by_canonical(classes)
    found = [[ids[spelled[canonical(name) or ""]] for name in names] for names in named]
    if not several:
        return np.array([one for (one,) in found], dtype=np.int64)
    labels = np.zeros((len(found), len(classes)), np.int64)
    for row, columns in enumerate(found):
        labels[row, columns] = 1
    return labels
