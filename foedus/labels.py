"""What a record's label is: one of the classes (softmax), or any number of labels at once (a sigmoid each).

One class a record: labels are (n,), indices of the classes. Several labels: (n, n_labels), 1 where the
record has the label and 0 where not. The array says which it is, and this module alone says what
follows: targets, loss, decisions. Each column is a question of its own, yes or no, with scores
[0, s]: everything that knows two classes answers it.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax

Labels = NDArray[np.int64]
Scores = NDArray[np.floating]


def several(labels: Labels) -> bool:
    """Whether a record may have any number of labels."""
    return labels.ndim == 2


def targets(labels: Labels, n_classes: int) -> NDArray[np.float64]:
    """(n, n_classes), float64: 1 for the record's class, or for each label it has."""
    if several(labels):
        return labels.astype(np.float64)
    found = np.zeros((len(labels), n_classes))
    found[np.arange(len(labels)), labels] = 1
    return found


def counts(labels: Labels, n_classes: int) -> NDArray[np.int64]:
    """(n_classes,): records of each class, or with each label."""
    if several(labels):
        return np.asarray(labels.sum(axis=0), np.int64)
    return np.asarray(np.bincount(labels, minlength=n_classes), np.int64)


def alike(labels: Labels) -> Labels:
    """(n,): the same number for the same class, or for the same set of labels."""
    if several(labels):
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return labels


def rarest(labels: Labels) -> Labels:
    """(n,): each record's class, or that of its labels which fewest records have; one more for none.

    What a split is balanced by: labels that few records have are on every side (after Sechidis et al. 2011).
    """
    if not several(labels):
        return labels
    n_labels = labels.shape[1]
    order = np.argsort(counts(labels, n_labels), kind="stable")
    first = labels[:, order].argmax(axis=1)
    return np.asarray(np.where(labels.any(axis=1), order[first], n_labels), np.int64)


def residuals(
    scores: Scores, labels: Labels, importance: NDArray[np.float64] | None = None
) -> tuple[Scores, Scores]:
    """Gradient of each record's cross-entropy by its scores, and that loss; both times importance.

    Returns:
        (n, n_classes), probabilities minus targets, in the scores' own type; and (n,), nats, of all
        labels of a record together.
    """
    if several(labels):
        wanted = labels.astype(scores.dtype)
        found, losses = expit(scores) - wanted, (np.logaddexp(0, scores) - wanted * scores).sum(axis=1)
    else:
        rows = np.arange(len(labels))
        shifted = scores - scores.max(axis=1, keepdims=True)
        found = np.exp(shifted)
        total = found.sum(axis=1, keepdims=True)
        losses = np.log(total[:, 0]) - shifted[rows, labels]
        found /= total
        found[rows, labels] -= 1
    if importance is not None:
        losses = losses * importance
        found *= importance[:, None].astype(found.dtype)
    return found, losses


def cross_entropies(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """(n,), nats: each record's cross-entropy, in double precision; of all its labels together."""
    scores = scores.astype(np.float64)
    if several(labels):
        return np.asarray((np.logaddexp(0, scores) - labels * scores).sum(axis=1))
    return np.asarray(-log_softmax(scores, axis=1)[np.arange(len(labels)), labels])


def yes_or_no(scores: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    """(n, 2): the scores of not having one label, and of having it."""
    return np.column_stack([np.zeros_like(scores[:, label]), scores[:, label]])


def decided(scores: Scores) -> NDArray[np.bool_]:
    """(n, n_labels): the labels that are as likely as not, or more; a tie counts as no."""
    return np.asarray(scores > 0)
