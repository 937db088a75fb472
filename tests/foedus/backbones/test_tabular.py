import numpy as np
import pandas as pd
import pytest

from foedus.backbones import column_names, describe, encode, open_backbone
from foedus.columns import Column, TableSection
from foedus.errors import BackboneError
from foedus.study import BackboneSection

TABLE = TableSection(
    columns=[
        Column(name="age", kind="number", range=(0.0, 120.0)),
        Column(name="sex", kind="category", categories=["F", "M"]),
        Column(name="chol", kind="number"),
    ]
)
NAN = float("nan")
FRAME = pd.DataFrame(
    {
        "chol": [200.0, NAN, 0.5],
        "age": [63.0, 41.0, NAN],
        "sex": pd.Series(["M", None, "other"], dtype=object),
        "note": ["a", "b", "c"],
    }
)
TABULAR = BackboneSection(source="tabular")


def test_columns_come_in_the_order_of_the_study() -> None:
    assert column_names(TABLE) == [
        "age",
        "age: missing",
        "sex = F",
        "sex = M",
        "sex: unseen",
        "sex: missing",
        "chol",
        "chol: missing",
    ]


def test_rows_are_encoded_as_declared() -> None:
    expected = np.array(
        [
            [63, 0, 0, 1, 0, 0, 200, 0],
            [41, 0, 0, 0, 0, 1, NAN, 1],
            [NAN, 1, 0, 0, 1, 0, 0.5, 0],
        ],
        np.float32,
    )
    encoded = encode(FRAME, TABLE)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, expected)


def test_layout_does_not_depend_on_the_rows() -> None:
    assert encode(FRAME.iloc[:0], TABLE).shape == (0, 8)
    np.testing.assert_array_equal(encode(FRAME.iloc[[2]], TABLE), encode(FRAME, TABLE)[2:])


def test_numbers_beyond_single_precision_read_as_missing() -> None:
    table = TableSection(columns=[Column(name="x", kind="number")])
    encoded = encode(pd.DataFrame({"x": [1e300, float("inf"), 1.0]}), table)
    np.testing.assert_array_equal(encoded, np.array([[NAN, 1], [NAN, 1], [1, 0]], np.float32))


def test_missing_column_is_named() -> None:
    with pytest.raises(BackboneError, match="the table has no column 'age', 'sex'"):
        encode(FRAME.drop(columns=["age", "sex"]), TABLE)


def test_text_in_a_number_column_is_refused_without_showing_it() -> None:
    with pytest.raises(BackboneError, match="column 'age' holds values that are not numbers") as caught:
        encode(FRAME.assign(age=["secret", "2", "3"]), TABLE)
    assert "secret" not in str(caught.value)


def test_embedder_and_spec_agree() -> None:
    embedder = open_backbone(TABULAR, TABLE)
    assert (embedder.spec.modality, embedder.spec.dim, embedder.spec.tap) == ("table", 8, "columns")
    np.testing.assert_array_equal(embedder.embed(FRAME), encode(FRAME, TABLE))
    with pytest.raises(BackboneError, match="a table is a list, expected a DataFrame"):
        embedder.embed([[1, 2]])


def test_digest_follows_the_declaration() -> None:
    [age, sex, chol] = TABLE.columns
    other = TableSection(columns=[age, chol, sex])
    narrower = TableSection(columns=[age.model_copy(update={"range": (0.0, 100.0)}), sex, chol])
    digests = {describe(TABULAR, table).digest for table in (TABLE, other, narrower)}
    assert len(digests) == 3
    assert describe(TABULAR, TableSection(columns=list(TABLE.columns))).digest in digests


def test_columns_whose_features_would_share_a_name_are_refused() -> None:
    """The study itself refuses a column or category named twice (tests/foedus/test_config.py)."""
    columns = [Column(name="age", kind="number"), Column(name="age: missing", kind="number")]
    with pytest.raises(BackboneError, match="declares 'age: missing' twice"):
        describe(TABULAR, TableSection(columns=columns))
