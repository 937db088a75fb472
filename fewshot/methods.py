"""The study's methods: what `[fewshot] methods` names, and the function that fits it."""

from fewshot.closed_form import Fit, fit_prototypes, fit_ridge
from fewshot.maml.safe import fit_maml
from foedus.study import Method

FITS: dict[Method, Fit] = {"prototypical": fit_prototypes, "ridge": fit_ridge, "maml": fit_maml}
"""Heads of many episodes at once, by method."""
