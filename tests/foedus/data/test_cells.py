import pytest

from foedus.data.cells import canonical, cell_text, number, quoted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", None),
        (float("nan"), None),
        (True, "TRUE"),
        (False, "FALSE"),
        (1.0, "1"),
        (-3.0, "-3"),
        (0.1, "0.1"),
        (7, "7"),
        (b"abc", "abc"),
    ],
)
def test_typed_values_become_the_text_a_csv_would_hold(value: object, text: str | None) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 1.0 ", "1"),
        ("1.50", "1.50"),
        ("-2.00", "-2"),
        ("007", "007"),
        ("True", "TRUE"),
        ("false", "FALSE"),
        ("  ", None),
        (None, None),
    ],
)
def test_canonical_text_ignores_spaces_decimal_zeros_and_the_case_of_booleans(
    text: str | None, expected: str | None
) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e3", 1000.0), (" 2 ", 2.0), ("1_000", None), ("1,5", None), ("nan", None), ("?", None), (None, None)],
)
def test_number_reads_plain_numbers_only(text: str | None, value: float | None) -> None:
    assert number(text) == value


def test_number_keeps_infinity_for_the_caller_to_count() -> None:
    assert number("-inf") == float("-inf")


def test_quoted_cuts_long_values() -> None:
    assert quoted("x" * 100) == f"'{'x' * 37}...'"
