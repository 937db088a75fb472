import pytest

from foedus.attacks.gaussian import delta_of, epsilon_of, mu_of
from foedus.errors import AuditError


def test_epsilon_is_the_published_value_of_100_rounds_at_multiplier_10() -> None:
    assert epsilon_of(1.0, 1e-5) == pytest.approx(4.37718, abs=1e-5)


def test_epsilon_is_googles_accountants() -> None:
    accounting = pytest.importorskip("dp_accounting")
    accountant = accounting.pld.PLDAccountant()
    accountant.compose(accounting.GaussianDpEvent(0.7))
    assert epsilon_of(1 / 0.7, 1e-6) == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0, 100.0])
def test_mu_and_epsilon_are_inverse(epsilon: float) -> None:
    mu = mu_of(epsilon, 1e-6)
    assert epsilon_of(mu, 1e-6) == pytest.approx(epsilon, rel=1e-6)
    assert delta_of(epsilon, mu) == pytest.approx(1e-6, rel=1e-6)


def test_a_mechanism_within_delta_alone_has_epsilon_zero() -> None:
    assert epsilon_of(1e-7, 1e-5) == 0.0
    assert epsilon_of(0.0, 1e-5) == 0.0


def test_out_of_range_is_refused() -> None:
    with pytest.raises(AuditError, match="delta is 0"):
        epsilon_of(1.0, 0.0)
    with pytest.raises(AuditError, match="delta is 1"):
        mu_of(1.0, 1.0)
    with pytest.raises(AuditError, match="epsilon is -1"):
        mu_of(-1.0, 1e-5)
