"""Disclosure control after the sum: which counts may be written, and between which values the others lie.

A count of 1 to k - 1 people, or one that fewer than three sites stand behind, is sensitive. It is
hidden, and so is whatever would give it away: other counts of the same group, and the same count of
another group, because groups add up to everyone and intersections to their attributes. Of hidden
counts it is written in which block of k whole numbers they lie, 0 to k - 1, k to 2k - 1 and so on; of
those that follow from one another, of one alone. At last integer programs look for a table that
agrees with everything written and differs in each sensitive count (`derivable`); where none is found,
blocks are made wider and more is hidden. Every later figure of the audit is computed from what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fairness.derivable import Knowledge
from fairness.groups import SEPARATOR, is_known
from fairness.metrics import PROPORTIONS
from fairness.policy import Policy
from fairness.shares import narrowed
from fairness.tables import FACTS, NOBODY, AuditTotals, Counts, Facts, GroupTable
from foedus.errors import AuditError

Mask = NDArray[np.bool_]
Orders = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows of facts, the most wanted first: all, and those that a table keeps at least."""

MAX_UNKNOWNS = 20_000
ROUNDS = 8
"""Times that more is hidden before a table is given up."""
CELLS_OF = {
    "positives": (2, 3), "negatives": (0, 1), "selected": (1, 3), "rejected": (0, 2), "tn": (0,), "fp": (1,),
    "fn": (2,), "tp": (3,), "correct": (3,), "wrong": (1, 2),
}  # fmt: skip
"""The cells (tn, fp, fn, tp) of a count: who stands behind one of them stands behind the count."""


@dataclass
class _Hiding:
    """One table while it is decided on; arrays are (n_facts, n_groups).

    Attributes:
        table: As summed.
        names: The attributes it crosses.
        values: The true counts.
        sensitive: May never be known.
        guarded: Must not follow from what is written: the sensitive, and what would give others away.
        open_: May be known.
        blocks: Hidden, but it is written which block they lie in.
        small: Sensitive because it is small.
        width: Of the blocks.
        shift: How far below the multiples of the width they begin; those of small counts begin at 0.
        lean: Only what is wanted most is written: people, positives, and what gates are about.
        blank: Nothing of the table is written.
    """

    table: GroupTable
    names: tuple[str, ...]
    values: Counts
    sensitive: Mask
    guarded: Mask
    open_: Mask
    blocks: Mask
    small: Mask
    width: int
    shift: int = 0
    lean: bool = False
    blank: bool = False

    def bounds(self) -> tuple[Counts, Counts]:
        """Between which values each count is written to lie, (n_facts, n_groups) twice; 0 and _ANY if nothing is."""
        shift = np.where(self.small, 0, self.shift)
        start = (self.values + shift) // self.width * self.width - shift
        low = np.where(self.blocks, np.maximum(start, 0), 0)
        high = np.where(self.blocks, start + self.width - 1, _ANY)
        return np.where(self.open_, self.values, low), np.where(self.open_, self.values, high)


def disclose(totals: AuditTotals, policy: Policy) -> AuditTotals:
    """The totals as far as they may be written. Tables with noise need no more than they have.

    Raises:
        AuditError: If attributes that intersections tie together have too many groups to be checked.
    """
    if any(table.noise > 0 for table in totals.tables.values()):
        return totals
    views = totals.views or (totals.positive,)
    shape = _Shape.of(views, next(iter(totals.tables.values())).confusion.shape[1])
    orders = _orders(policy, shape)
    tables = {key: _begin(table, shape, policy) for key, table in totals.tables.items()}
    whole = _begin(_everyone(totals, policy), shape, policy)
    whole.open_[:] = True  # readers may know everyone's counts from elsewhere (results.json)
    for names in _components(list(tables.values())):
        part = [found for found in tables.values() if set(found.names) <= set(names)]
        _hide(part, names, shape, orders, policy, whole)
    done = {key: _released(found, shape, _suppressed(found, policy)) for key, found in tables.items()}
    return replace(totals, tables=done, views=views)


def everyone(totals: AuditTotals, policy: Policy) -> GroupTable:
    """All groups as one; of a small count only the block it lies in."""
    table = _everyone(totals, policy)
    if table.noise > 0:
        return replace(table, suppressed=(None,))
    shape = _Shape.of(totals.views or (totals.positive,), table.confusion.shape[1])
    return _released(_whole(table, shape, _orders(policy, shape), policy), shape, (None,))


def _everyone(totals: AuditTotals, policy: Policy) -> GroupTable:
    first = next(iter(totals.tables.values()))
    summed = [
        None if a is None else a.sum(axis=0)[None] for a in (first.expected, first.moments, first.people)
    ]
    return GroupTable(
        "everyone",
        ("everyone",),
        first.confusion.sum(axis=0)[None],
        first.scores.sum(axis=0)[None],
        np.asarray([max(totals.n_sites, policy.disclosure.min_sites)], np.int64),
        noise=float(first.noise * np.sqrt(len(first.groups))),
        expected=summed[0],
        moments=summed[1],
        people=summed[2],
    )


def _whole(table: GroupTable, shape: "_Shape", orders: Orders, policy: Policy) -> _Hiding:
    found = _begin(table, shape, policy)
    _settle_one(found, shape, orders)
    return found


@dataclass(frozen=True)
class _Shape:
    """Which counts are looked at, as sums over atoms: cells of the confusion that no count tells apart.

    Attributes:
        facts: (class, name in FACTS) of each row below.
        atoms: (n_classes², ), the atom of each cell of the confusion.
        rows: (n_facts, n_atoms), 0 or 1.
    """

    facts: tuple[tuple[int, str], ...]
    atoms: Counts
    rows: Counts

    @classmethod
    def of(cls, views: Sequence[int], n_classes: int) -> "_Shape":
        kept = [c if c in views else -1 for c in range(n_classes)]
        kinds = [(kept[i], kept[j], i == j) for i, j in product(range(n_classes), repeat=2)]
        unique = sorted(set(kinds))
        atoms = np.asarray([unique.index(kind) for kind in kinds], np.int64)
        first = np.asarray([kinds.index(kind) for kind in unique], np.int64)
        one_each = np.eye(n_classes * n_classes, dtype=np.int64)[first].reshape(-1, n_classes, n_classes)
        facts, rows = [], []
        for view in views:
            for name, row in zip(FACTS, Facts.of(one_each, view).array(), strict=True):
                if view == views[0] or name not in ("n", "correct", "wrong"):
                    facts.append((view, name))
                    rows.append(row)
        return cls(tuple(facts), atoms, np.stack(rows))

    def atoms_of(self, confusion: Counts) -> Counts:
        """(n_groups, n_atoms), from (n_groups, n_classes, n_classes)."""
        found = np.zeros((len(confusion), self.rows.shape[1]), np.int64)
        np.add.at(found.T, self.atoms, confusion.reshape(len(confusion), -1).T)
        return found

    def place(self, view: int, name: str) -> int:
        """The row of a count; those of all classes together are kept with the first view."""
        whole = name in ("n", "correct", "wrong")
        return self.facts.index((self.facts[0][0] if whole else view, name))


def _orders(policy: Policy, shape: _Shape) -> Orders:
    """The counts from the most to the least wanted: people, what gates are about, positives, the rest;
    and the same without the rest."""
    about = {name: name for name in FACTS}
    wanted = ["n"]
    for metric in dict.fromkeys(gate.metric for gate in policy.gates if gate.metric in PROPORTIONS):
        wanted += [str(part) for part in PROPORTIONS[metric](_Names(about))][::-1]
    wanted.append("positives")
    rest = ["negatives", "tp", "fn", "fp", "tn", *FACTS]
    views = list(dict.fromkeys(view for view, _ in shape.facts))
    every, lean = (
        tuple(dict.fromkeys(shape.place(view, name) for view in views for name in names))
        for names in ([*wanted, *rest], wanted)
    )
    return every, lean


class _Names:
    """The names of counts where PROPORTIONS expects the counts."""

    def __init__(self, names: dict[str, str]) -> None:
        self.__dict__.update(names)


def _begin(table: GroupTable, shape: _Shape, policy: Policy) -> _Hiding:
    rules = policy.disclosure
    values = shape.rows @ shape.atoms_of(table.confusion).T
    small = (values > 0) & (values < rules.k)
    if not rules.zero_allowed:  # that nobody is unknown says how complete the data are, not who is ill
        small |= (values == 0) & ~_empty_unknown(table)
    lonely = (values > 0) & (_behind(table, shape) < rules.min_sites)
    sensitive = small | lonely | ((values > 0) & _few(table, rules.k))
    names = tuple(table.key.split(SEPARATOR))
    blocks = np.zeros_like(sensitive)
    return _Hiding(table, names, values, sensitive, sensitive.copy(), ~sensitive, blocks, small, rules.k)


def _empty_unknown(table: GroupTable) -> Mask:
    """(n_groups,), true for a group with "unknown" in which nobody is."""
    known = np.asarray([is_known(group) for group in table.groups])
    return np.asarray(~known & (table.confusion.sum(axis=(1, 2)) == 0), np.bool_)


def _few(table: GroupTable, k: int) -> Mask:
    """(n_groups,), true where fewer than k people have all the rows."""
    return np.zeros(len(table.groups), np.bool_) if table.people is None else table.people[:, 0] < k


def _behind(table: GroupTable, shape: _Shape) -> Counts:
    """(n_facts, n_groups), at least so many sites have someone in the count."""
    views = list(dict.fromkeys(view for view, _ in shape.facts))
    found = np.tile(table.sites, (len(shape.facts), 1))
    if table.contributors is None:
        return found
    two = table.confusion.shape[1] == 2
    for row, (view, name) in enumerate(shape.facts):
        if name != "n":
            cells = (0, 3) if name == "correct" and two else CELLS_OF[name]
            found[row] = table.contributors[:, views.index(view), cells].max(axis=1)
    return found


@lru_cache(maxsize=4096)
def _divide(
    sensitive: tuple[int, ...], guarded: tuple[int, ...], rows: bytes, n_facts: int, order: tuple[int, ...]
) -> tuple[Mask, Mask]:
    """A group's counts, (n_facts,) twice: those that can all be known while no guarded one follows from
    them, and those of the others whose blocks say all that is said of the rest."""
    every = np.frombuffer(rows, np.int64).reshape(n_facts, -1).astype(np.float64)
    rank = np.linalg.matrix_rank
    kept: list[int] = []
    for fact in order:
        basis = every[[*kept, fact]]
        if fact not in guarded and all(rank(np.vstack([basis, every[[g]]])) > rank(basis) for g in guarded):
            kept.append(fact)
    open_, blocks, said = np.zeros(n_facts, np.bool_), np.zeros(n_facts, np.bool_), list(kept)
    open_[kept] = True
    for fact in dict.fromkeys(
        [*(f for f in order if f in sensitive), *(f for f in order if f in guarded), *order]
    ):
        if rank(every[[*said, fact]]) > (rank(every[said]) if said else 0):
            said.append(fact)
            blocks[fact] = True
    return open_, blocks


def _settle_one(table: _Hiding, shape: _Shape, orders: Orders) -> None:
    """Decide which counts of each group may be known, given the guarded."""
    table.open_, table.blocks = np.ones_like(table.open_), np.zeros_like(table.blocks)
    for group in np.flatnonzero(table.guarded.any(axis=0)):
        masks = (table.sensitive[:, group], table.guarded[:, group])
        sensitive, guarded = (tuple(np.flatnonzero(mask).tolist()) for mask in masks)
        found = _divide(sensitive, guarded, shape.rows.tobytes(), len(shape.facts), orders[table.lean])
        table.open_[:, group], table.blocks[:, group] = found


def _components(tables: list[_Hiding]) -> list[tuple[str, ...]]:
    """Attributes that intersections tie together, each with its groups' order kept."""
    found: list[tuple[str, ...]] = []
    for table in tables:
        tied = [names for names in found if set(names) & set(table.names)]
        found = [names for names in found if names not in tied]
        found.append(tuple(dict.fromkeys(name for names in (*tied, table.names) for name in names)))
    return found


def _hide(
    tables: list[_Hiding],
    names: tuple[str, ...],
    shape: _Shape,
    orders: Orders,
    policy: Policy,
    whole: _Hiding,
) -> None:
    """Decide on tables that are tied together, one after the other, given what readers know of everyone.

    Attributes come before intersections and what gates look at before the rest, so that a later table
    gives way to an earlier one.
    """
    gated = {gate.attribute for gate in policy.gates}
    done: list[_Hiding] = []
    for table in sorted(tables, key=lambda found: (len(found.names), found.table.key not in gated)):
        _hide_one(table, done, names, shape, orders, policy, whole)
        done.append(table)


def _hide_one(
    table: _Hiding,
    done: list[_Hiding],
    names: tuple[str, ...],
    shape: _Shape,
    orders: Orders,
    policy: Policy,
    whole: _Hiding,
) -> None:
    """Decide on one table, given those that are decided; in the worst case nothing of it is written."""
    together = [*done, table]
    names = tuple(name for name in names if any(name in found.names for found in together))
    sums = [members for members in _relations(together) if members[-1][0] is table]
    for attempt in range(ROUNDS):
        _settle(table, sums, shape, orders)
        found = _derivable(together, names, shape, policy, whole)
        facts = np.asarray(np.stack([mask.any(axis=1) for mask in found]).any(axis=0), np.bool_)
        if not facts.any():
            return
        _hide_more(table, facts, attempt)
    table.blank = True


def _settle(
    table: _Hiding, sums: list[list[tuple[_Hiding | None, int]]], shape: _Shape, orders: Orders
) -> None:
    """Hide more of the table until no sum that its groups are parts of has exactly one hidden member."""
    changed = True
    while changed:
        changed = False
        _settle_one(table, shape, orders)
        for members in sums:
            shown = [(found, group) for found, group in members if found is not None]
            hidden = np.stack([~found.open_[:, group] for found, group in shown])
            parts = [group for found, group in members[1:]]
            for fact in np.flatnonzero(hidden.sum(axis=0) == 1):
                able = [g for g in parts if table.open_[fact, g] and table.values[0, g]]
                if able:
                    chosen = max(able, key=lambda g: (table.values[fact, g], table.values[0, g]))
                    table.guarded[fact, chosen] = True
                    changed = True


def _relations(tables: list[_Hiding]) -> list[list[tuple[_Hiding | None, int]]]:
    """Every sum: the whole (None: everyone, which readers know), then its parts, as table and group."""
    found: list[list[tuple[_Hiding | None, int]]] = []
    for parts in tables:
        whole_names = [("",)] if len(parts.names) == 1 else []
        if whole_names:
            found.append([(None, 0), *((parts, g) for g in range(len(parts.table.groups)))])
        for whole in tables:
            if set(whole.names) < set(parts.names):
                kept = [parts.names.index(name) for name in whole.names]
                of = [SEPARATOR.join(group.split(SEPARATOR)[i] for i in kept) for group in parts.table.groups]
                for group, name in enumerate(whole.table.groups):
                    members = [(parts, g) for g, owner in enumerate(of) if owner == name]
                    found.append([(whole, group), *members])
    return found


def _hide_more(table: _Hiding, facts: Mask, attempt: int) -> None:
    """After these counts (n_facts,) could be worked out: other blocks, fewer counts, wider blocks and
    the next largest group, then blocks alone."""
    if attempt % 2 == 0:
        table.shift = table.width // 2
    elif not table.lean:
        table.lean, table.shift = True, 0
    else:
        table.width, table.shift = 2 * table.width, 0
        for fact in np.flatnonzero(facts):
            able = np.flatnonzero(table.open_[fact] & (table.values[0] > 0))
            if len(able):
                table.guarded[fact, able[np.argmax(table.values[fact, able])]] = True
    if attempt > ROUNDS // 2:
        table.guarded[:] = True


def _derivable(
    tables: list[_Hiding], names: tuple[str, ...], shape: _Shape, policy: Policy, whole: _Hiding
) -> list[Mask]:
    """For each table (n_facts, n_groups), true where a sensitive count follows from what is written."""
    groups = {name: _groups_of(tables, name) for name in names}
    cells = list(product(*groups.values()))
    n_atoms = shape.rows.shape[1]
    if len(cells) * n_atoms > MAX_UNKNOWNS:
        raise AuditError(
            f"the intersections tie {', '.join(names)} together, {len(cells)} groups in all, too many to make sure "
            "that no small group can be worked out; name fewer intersections or groups"
        )
    known = Knowledge(len(cells) * n_atoms)
    low, high = _bounds(whole, (None,), policy)
    known.add(csr_array(np.tile(shape.rows, len(cells))), low.ravel(), high.ravel())
    sparse = []
    for found in tables:
        rows = _rows(found, names, cells, shape)
        sparse.append(rows)
        low, high = _bounds(found, _suppressed(found, policy), policy)
        said = np.flatnonzero((high < _ANY).ravel())
        known.add(rows[said], low.ravel()[said], high.ravel()[said])
    answers = []
    for found, rows in zip(tables, sparse, strict=True):
        where = np.flatnonzero(found.sensitive.ravel())
        answer = np.zeros(found.sensitive.size, np.bool_)
        if len(where):
            answer[where] = known.derivable(rows[where], found.values.ravel()[where])
        answers.append(answer.reshape(found.sensitive.shape))
    return answers


_ANY = np.int64(2**62)


def _bounds(found: _Hiding, suppressed: tuple[str | None, ...], policy: Policy) -> tuple[Counts, Counts]:
    """Between which values readers know each count to be, as `_Hiding.bounds`."""
    low, high = found.bounds()
    for group, reason in enumerate(suppressed):
        if reason is not None:
            closed = ~found.open_[:, group] | found.blank
            low[closed, group], high[closed, group] = 0, _ANY
            if found.values[0, group] < policy.disclosure.k and closed[0] and not found.blank:
                high[0, group] = policy.disclosure.k - 1
    return low, high


def _rows(found: _Hiding, names: tuple[str, ...], cells: list[tuple[str, ...]], shape: _Shape) -> csr_array:
    """(n_facts · n_groups, n_unknowns): each count as a sum over the crossed groups' atoms."""
    kept = [names.index(name) for name in found.names]
    member = np.asarray([found.table.groups.index(SEPARATOR.join(cell[i] for i in kept)) for cell in cells])
    of = (np.arange(len(found.table.groups))[:, None] == member[None, :]).astype(np.int64)
    return csr_array(np.einsum("fa,gc->fgca", shape.rows, of).reshape(-1, len(cells) * shape.rows.shape[1]))


def _groups_of(tables: list[_Hiding], name: str) -> tuple[str, ...]:
    for found in tables:
        if found.names == (name,):
            return found.table.groups
    raise AuditError(f"'{name}' is in an intersection but was not counted; count again with this policy")


def _suppressed(found: _Hiding, policy: Policy) -> tuple[str | None, ...]:
    """(n_groups,) why nothing is written about a group."""
    rules, n = policy.disclosure, found.values[0]
    if found.blank:
        return ("counts that would give a small group away",) * len(n)
    few = found.small[1:3]
    reasons: list[str | None] = []
    for group in range(len(n)):
        if n[group] == 0 and not found.small[0, group]:
            reasons.append(NOBODY)
        elif n[group] < rules.k or _few(found.table, rules.k)[group]:
            reasons.append(f"fewer than {rules.k} people")
        elif found.table.sites[group] < rules.min_sites:
            reasons.append(f"people from fewer than {rules.min_sites} sites")
        elif few[:, group].any():
            reasons.append(f"fewer than {rules.k} people of one label")
        else:
            reasons.append(None)
    return tuple(reasons)


def _released(found: _Hiding, shape: _Shape, suppressed: tuple[str | None, ...]) -> GroupTable:
    """The table without what is hidden."""
    shown = np.asarray([reason is None for reason in suppressed])
    low, high = found.bounds()
    low, high = np.where(shown, low, 0), np.where(shown, np.minimum(high, int(found.values[0].sum())), 0)
    released = {}
    for view in dict.fromkeys(view for view, _ in shape.facts):
        rows = [shape.place(view, name) for name in FACTS]
        released[view] = narrowed(low[rows], high[rows], two_classes=found.table.confusion.shape[1] == 2)
    exact, table = found.open_.all(axis=0) & shown, found.table
    return replace(
        table,
        confusion=np.where(exact[:, None, None], table.confusion, 0),
        scores=np.where(shown[:, None, None], table.scores, 0),
        expected=_only(table.expected, exact),
        moments=_only(table.moments, exact),
        people=_only(table.people, shown),
        within=None if table.within is None else np.where(shown[:, None, None], table.within, 0.0),
        released=released,
        suppressed=suppressed,
        total=int(found.values[0].sum()),
    )


def _only(counts: Counts | None, rows: Mask) -> Counts | None:
    return None if counts is None else np.where(rows[:, None], counts, 0)
