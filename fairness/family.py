"""All gates of a policy together: the chance that one of them fails without cause stays below alpha.

Holm 1979: the gate that is furthest beyond its tolerance fails at alpha / m, the next at
alpha / (m - 1), and so on until one does not. To pass takes every gate, which needs no correction.
"""

from collections.abc import Sequence

from fairness.findings import GateResult
from fairness.gate import compare, decide, is_beyond
from fairness.infer import tail
from fairness.policy import Gate, Policy
from fairness.tables import AuditTotals, GroupTable
from foedus.errors import AuditError

MOST_Z = 40.0


def decide_all(policy: Policy, totals: AuditTotals, classes: Sequence[str]) -> list[GateResult]:
    """The verdict on every gate, in the policy's order.

    Raises:
        AuditError: If a gate is about a class the study does not have.
    """
    cases = [(gate, *_case(gate, totals, classes)) for gate in policy.gates]
    alone = [decide(gate, table, positive, policy) for gate, table, positive in cases]
    chances = {
        index: _chance(*cases[index], policy)
        for index, result in enumerate(alone)
        if result.verdict == "fail"
    }
    found = [result.model_copy(update={"p": chances.get(i)}) for i, result in enumerate(alone)]
    if policy.evidence.family == "tukey":
        return found
    level, stopped = policy.evidence.alpha / max(1, len(cases)), False
    for rank, index in enumerate(sorted(chances, key=lambda i: chances[i])):
        level = level if stopped else policy.evidence.alpha / (len(cases) - rank)
        again = decide(*cases[index], policy, alpha=level)
        stopped |= again.verdict != "fail"
        if stopped:
            reason = _corrected(again.reason, len(cases))
            found[index] = again.model_copy(update={"p": chances[index], "reason": reason})
    return found


def positive_of(gate: Gate, totals: AuditTotals, classes: Sequence[str]) -> int:
    """Index of the class a gate is about.

    Raises:
        AuditError: If the study does not have it.
    """
    if gate.positive is None:
        return totals.positive
    if gate.positive not in classes:
        raise AuditError(
            f"a gate on {gate.metric} is about class '{gate.positive}', which the study does not have; "
            f"its classes are {', '.join(classes)}"
        )
    return list(classes).index(gate.positive)


def _case(gate: Gate, totals: AuditTotals, classes: Sequence[str]) -> tuple[GroupTable, int]:
    return totals.tables[gate.attribute or ""], positive_of(gate, totals, classes)


def _chance(gate: Gate, table: GroupTable, positive: int, policy: Policy) -> float:
    """The smallest level at which the gate fails."""
    low, high = 0.0, MOST_Z
    while high - low > 1e-3:
        middle = (low + high) / 2
        if is_beyond(gate, table, positive, policy, z=middle):
            low = middle
        else:
            high = middle
    k, alpha = policy.disclosure.k, policy.evidence.alpha
    compared = compare(gate.metric, table, positive, k=k, alpha=alpha)
    return float(f"{tail(gate.metric, compared.n_groups, low):.2g}")


def _corrected(reason: str, n_gates: int) -> str:
    return f"{reason[:-1]} (by itself it would fail, but not among {n_gates} gates: Holm's correction)."
