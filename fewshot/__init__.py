"""Adapting heads from a handful of labelled examples: episodes, prototypes, ridge, evaluation."""
