"""Adapting heads from a handful of labelled examples: episodes, prototypes, ridge, evaluation.

ridge.py, prototypical.py   sums over sites, and what the coordinator reads from them
whitening.py                the base classes' within-class covariance, from the ridge sums
closed_form.py, heads.py    the heads: many episodes at once, and as scikit-learn estimators
maml/, methods.py           heads by gradient steps, meta-learning; and what a study's methods are called
episodes.py, scoring.py     drawing episodes; fitting, predicting and counting in each
evaluate.py                 the report of an estimator; episode_sums.py: the same as a sum over sites
adapt.py                    a head fitted once on a support set, saved and loaded
"""
