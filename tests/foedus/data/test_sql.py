import logging
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foedus import simulation
from foedus.config import validate
from foedus.data import check_site, load_site_data, sql
from foedus.data.cells import cell_text
from foedus.data.sql import read_query
from foedus.errors import ConfigError, DataError
from foedus.site import SiteConfig

MakeSite = Callable[[str], SiteConfig]
MakeStudy = Callable[..., Any]
REST = 'label = "ill"\nunit = "patient"\n[groups.sex]\ncolumn = "sex"\nvalues = {m = "male", f = "female"}\n'
CSV = '[data]\nkind = "table"\npath = "data.csv"\n' + REST
QUERY = "SELECT age, sex, patient, ill FROM cases"
URL = "sqlite:///cases.db"
SQL = f'[data]\nkind = "table"\nurl = "{URL}"\nquery = "{QUERY}"\n' + REST
SOURCES = {"csv": 'path = "data.csv"', "sql": 'url = "sqlite:///cases.db"\nquery = "SELECT * FROM cases"'}
COLUMNS = [{"name": "age", "kind": "number"}, {"name": "sex", "kind": "category", "categories": ["f", "m"]}]
SECRETS = ("hunter2", "reader", "db.example", "Meier")


def people(n: int = 40) -> pd.DataFrame:
    """Rows with whole and broken numbers, missing cells and a repeated row, in no order."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "age": np.where(np.arange(n) % 7 == 3, np.nan, np.round(rng.uniform(20, 90, n), 1)),
            "sex": [[None, "f", "m"][i % 3] for i in range(n)],
            "patient": [f"P{i // 2}" for i in range(n)],
            "ill": np.arange(n) % 4 // 2,
        }
    )
    return pd.concat([frame, frame[5:6]]).sample(frac=1, random_state=1)


def sorted_as_read(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by the text of their columns in the order of their names, empty cells first."""
    rows = frame.sort_index(axis=1).astype(object).to_numpy().tolist()
    cells = [[cell_text(value) for value in row] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: [(cell is not None, cell or "") for cell in cells[i]])
    return frame.iloc[order]


def store(frame: pd.DataFrame, path: Path) -> None:
    connection = sqlite3.connect(path)
    frame.to_sql("cases", connection, index=False, if_exists="replace")
    connection.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    store(people(), tmp_path / "cases.db")
    return tmp_path / "cases.db"


def parsed(data: dict[str, Any]) -> SiteConfig:
    values = {"site": {"name": "north"}, "data": {"kind": "table", "label": "ill"} | data}
    return validate(SiteConfig, values, source="site.toml")


def same(one: Any, other: Any) -> None:
    assert one.inputs.equals(other.inputs)
    for name in ("labels", "units", "split"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert {k: v.tolist() for k, v in one.groups.items()} == {k: v.tolist() for k, v in other.groups.items()}
    assert one.notes == other.notes
    assert one.quarantined == other.quarantined


def test_query_gives_what_the_csv_of_its_rows_gives(
    tmp_path: Path, database: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    sorted_as_read(people()).to_csv(tmp_path / "data.csv", index=False)
    study = make_study(["0", "1"], COLUMNS)
    from_csv = load_site_data(tmp_path, make_site(CSV), study)
    from_query = load_site_data(tmp_path, make_site(SQL), study)
    assert len(from_query) == 41
    same(from_query, from_csv)


def test_texts_may_come_from_a_query(tmp_path: Path, make_site: MakeSite, make_study: MakeStudy) -> None:
    rows = [{"body": f"story {i}", "topic": ["grain", "oil"][i % 2]} for i in range(8)]
    store(pd.DataFrame([*rows, {"body": None, "topic": "oil"}]), tmp_path / "cases.db")
    site = make_site(f'[data]\nkind = "text"\n{SOURCES["sql"]}\nlabel = "topic"\ntext = "body"\n')
    data = load_site_data(tmp_path, site, make_study(["grain", "oil"]))
    assert data.inputs == [f"story {i}" for i in range(8)]
    assert [record.reason for record in data.quarantined] == ["text is empty"]


def test_order_of_rows_and_columns_changes_nothing_and_a_value_changes_the_digest(
    tmp_path: Path, database: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    study = make_study(["0", "1"], COLUMNS)
    first = load_site_data(tmp_path, make_site(SQL), study)
    other = SQL.replace(QUERY, "SELECT ill, patient, sex, age FROM cases ORDER BY random() -- any order")
    again = load_site_data(tmp_path, make_site(other), study)
    same(again, first)
    assert again.digest == first.digest
    changed = SQL.replace("SELECT age,", "SELECT age + 1 AS age,")
    assert load_site_data(tmp_path, make_site(changed), study).digest != first.digest


def test_digest_counts_names_and_rows_alone(tmp_path: Path, database: Path) -> None:
    _, digest = read_query(tmp_path, url=URL, query=QUERY)
    store(people()[::-1], tmp_path / "copy.db")
    assert read_query(tmp_path, url=f"sqlite:///{tmp_path / 'copy.db'}", query=QUERY)[1] == digest
    assert read_query(tmp_path, url=URL, query=QUERY.replace("age", "age AS years"))[1] != digest
    assert read_query(tmp_path, url=URL, query=QUERY + " LIMIT 40")[1] != digest


def test_cells_read_like_those_of_a_csv(tmp_path: Path, database: Path) -> None:
    query = "SELECT 1.0 AS a, 2.5 AS b, '' AS c, NULL AS d, x'414243' AS e, 7 AS f, ' 100% :x ' AS g"
    frame, _ = read_query(tmp_path, url=URL, query=query)
    assert frame.columns == {
        **{"a": ["1"], "b": ["2.5"], "c": [None], "d": [None]},
        **{"e": ["ABC"], "f": ["7"], "g": [" 100% :x "]},
    }


def test_url_may_be_in_an_environment_variable(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASES_URL", f"sqlite:///{database}")
    assert read_query(tmp_path, url="env:CASES_URL", query=QUERY) == read_query(
        tmp_path, url=URL, query=QUERY
    )


def test_site_check_describes_a_query_and_names_an_absent_column(
    tmp_path: Path, database: Path, make_site: MakeSite
) -> None:
    make_site(SQL)
    report = check_site(tmp_path)
    assert report.ok
    assert report.rows[0].found == "table in the database query"
    make_site(SQL.replace('label = "ill"', 'label = "sick"'))
    found = check_site(tmp_path).rows[1].found
    assert "[data] label asks for column 'sick', which the database query does not have" in found


def test_query_without_rows_is_refused(
    tmp_path: Path, database: Path, make_site: MakeSite, make_study: MakeStudy
) -> None:
    site = make_site(SQL.replace(QUERY, QUERY + " WHERE age > 900"))
    with pytest.raises(DataError, match="site 'north' has no records; the database query is empty"):
        load_site_data(tmp_path, site, make_study(["0", "1"], COLUMNS))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "data.path: is missing; add it, or url and query for a database"),
        ({"path": "a.csv", "url": URL, "query": QUERY}, "data.path: remove it, or url and query"),
        ({"path": "a.csv", "query": QUERY}, "data.path: remove it, or query: the data are in a file"),
        ({"url": URL}, "data.path: url is set alone"),
        ({"query": QUERY}, "data.path: query is set alone"),
        ({"kind": "images", "url": URL, "query": QUERY}, "images are read from files"),
        ({"path": "postgresql://reader:hunter2@db.example/x"}, "data.path: is a database's URL"),
        ({"url": "postgresql://reader:hunter2@db.example/x", "query": QUERY}, "holds a password or options"),
        ({"url": "postgresql://reader:hun/ter2@db.example/x", "query": QUERY}, "holds a password or options"),
        ({"url": "mssql://db.example/x?PWD=hunter2", "query": QUERY}, "put the whole URL in an environment"),
        ({"url": "env:hunter2 reader", "query": QUERY}, 'data.url: expected "env:NAME" or a database URL'),
        ({"url": "hunter2.db", "query": QUERY}, 'data.url: expected "env:NAME" or a database URL'),
    ],
)
def test_site_file_that_does_not_say_where_the_data_are_is_refused(
    data: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match="1 problem") as caught:
        parsed(data)
    assert problem in str(caught.value)
    assert not [secret for secret in SECRETS if secret in "".join(traceback.format_exception(caught.value))]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "DELETE FROM cases",
        "SELECT 1; DROP TABLE cases",
        "SELECT 1 /* ; */; SELECT 2",
        "WITH old AS (DELETE FROM cases RETURNING *) SELECT * FROM old",
        "WITH one AS (SELECT 1) INSERT INTO cases SELECT * FROM one",
        "SELECT * INTO copied FROM cases",
        "-- SELECT\nDROP TABLE cases",
        "PRAGMA table_info(cases)",
        "selection",
    ],
)
def test_query_that_is_not_one_select_is_refused(query: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.query: expected one statement that only reads"):
        parsed({"url": URL, "query": query})


@pytest.mark.parametrize(
    "query",
    [
        "select * from cases;",
        "/* all; of them */ SELECT *\nFROM cases -- insert; nothing\n;\n",
        "SELECT ';', 'it''s delete', \"into\", updated FROM cases",
        "WITH old AS (SELECT * FROM cases) SELECT * FROM old",
    ],
)
def test_one_select_is_allowed_however_it_is_written(query: str) -> None:
    assert parsed({"url": URL, "query": query}).data.query == query


@pytest.mark.parametrize(
    ("url", "query", "problem"),
    [
        ("env:UNSET_URL", QUERY, "the environment variable UNSET_URL, which is not set"),
        ("env:BAD_URL", QUERY, "the environment variable BAD_URL is not a database URL"),
        ("env:BAD_PORT", QUERY, "the environment variable BAD_PORT is not a database URL"),
        ("env:NO_DRIVER", QUERY, r"driver of the database in \[data\] url is not installed \(psycopg2\)"),
        ("env:NO_KIND", QUERY, "a kind of database that SQLAlchemy does not know"),
        ("env:NO_FILE", QUERY, "an SQLite file that does not exist; its path is relative to site.toml"),
        ("env:NO_NAME", QUERY, "an SQLite file that does not exist"),
        (URL, "SELECT agee FROM cases", r"refused \[data\] query \(no such column: agee\)"),
        (URL, "SELECT * FROM people", r"refused \[data\] query \(no such table: people\)"),
        (URL, "SELECT * FROM", r"refused \[data\] query; try it in the database's own client"),
        (URL, "SELECT json(patient) FROM (SELECT 'Meier' AS patient)", r"refused \[data\] query; try it"),
        (URL, "SELECT age, sex AS age FROM cases", "more than one column named 'age'"),
        ("sqlite:///plain.txt", QUERY, r"refused \[data\] query \(file is not a database\)"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_without_a_secret(
    tmp_path: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    url: str,
    query: str,
    problem: str,
) -> None:
    (tmp_path / "plain.txt").write_text("Meier " * 999)
    monkeypatch.setenv("BAD_URL", "reader hunter2")
    monkeypatch.setenv("BAD_PORT", "postgresql://reader:hunter2@db.example:port/x")
    monkeypatch.setenv("NO_DRIVER", "postgresql+psycopg2://reader:hunter2@db.example/x")
    monkeypatch.setenv("NO_KIND", "hunter2://reader:hunter2@db.example/x")
    monkeypatch.setenv("NO_FILE", "sqlite:///db.example/hunter2.db")
    monkeypatch.setenv("NO_NAME", "sqlite://")
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError, match=problem) as caught:
        read_query(tmp_path, url=url, query=query)
    assert "\n" not in str(caught.value)
    told = [*caplog.messages, str(caught.value)]
    assert not [text for text in told if any(secret in text for secret in SECRETS)]
    shown = "".join(traceback.format_exception(caught.value))
    assert "During handling" not in shown
    assert "direct cause" not in shown


def test_database_that_cannot_be_reached_is_one_sentence_without_a_secret(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise sqlite3.OperationalError("no password for reader:hunter2@db.example")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(DataError, match=r"database in \[data\] url cannot be opened; check that") as caught:
        read_query(tmp_path, url=URL, query=QUERY)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_nothing_is_written(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = database.read_bytes()
    insert = "INSERT INTO cases (patient) VALUES ('new') RETURNING patient"
    with pytest.raises(DataError, match=r"the database refused \[data\] query"):
        read_query(tmp_path, url=URL, query=insert)
    monkeypatch.setattr(sql, "SQLITE", ())  # as with a driver that cannot open read-only: rolled back
    frame, _ = read_query(tmp_path, url=f"sqlite:///{database}", query=insert)
    assert frame.columns == {"patient": ["new"]}
    assert database.read_bytes() == before


def test_ledger_knows_a_query_by_a_digest_that_holds_no_secret() -> None:
    one = parsed({"url": "env:CASES_URL", "query": QUERY}).data
    spaced = parsed({"url": "env:CASES_URL", "query": QUERY.replace(" ", "\n  ")}).data
    other = parsed({"url": "env:OTHER_URL", "query": QUERY}).data
    assert one.identity.startswith("sql-")
    assert len(one.identity) == 20
    assert one.identity == spaced.identity != other.identity
    assert parsed({"path": "data.csv"}).data.identity == "data.csv"


STUDY = """
[study]
name = "toy"
classes = ["no", "yes"]
seed = 3
[backbone]
source = "tabular"
[federation]
rounds = 2
batch_size = 16
min_sites = 2
[door]
mode = "open"
[[table.columns]]
name = "a"
kind = "number"
[[table.columns]]
name = "b"
kind = "number"
"""


def write_sites(folder: Path, kinds: list[str]) -> None:
    """Three sites of the same rows whatever the kind of their data."""
    for seed, kind in enumerate(kinds):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, 60))
        frame = pd.DataFrame({"a": a, "b": b, "y": np.where(a > b, "yes", "no"), "id": np.arange(60)})
        site = folder / f"site-{seed}"
        site.mkdir(parents=True)
        sorted_as_read(frame).to_csv(site / "data.csv", index=False)
        store(frame, site / "cases.db")
        body = f'[data]\nkind = "table"\nlabel = "y"\nunit = "id"\n{SOURCES[kind]}\n'
        (site / "site.toml").write_text(
            f'[site]\nname = "site-{seed}"\n{body}[policy]\ndoors = ["open", "local-dp"]\n'
        )


def test_whole_study_with_a_site_on_sql_ends_with_the_same_head(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    heads = []
    for name, kinds in {"files": ["csv"] * 3, "mixed": ["csv", "sql", "csv"]}.items():
        write_sites(tmp_path / name, kinds)
        run, _ = simulation.simulate(
            tmp_path / "study.toml", tmp_path / name, runs=tmp_path / f"runs-{name}", reference=False
        )
        heads.append((run.path / "model" / "head.safetensors").read_bytes())
    assert heads[0] == heads[1]


@pytest.mark.slow
def test_private_study_charges_a_site_on_sql(tmp_path: Path) -> None:
    private = STUDY.replace('mode = "open"', 'mode = "local-dp"\nepsilon = 5.0')
    (tmp_path / "study.toml").write_text(
        private.replace('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    )
    write_sites(tmp_path / "sites", ["csv", "sql", "sql"])
    simulation.simulate(tmp_path / "study.toml", tmp_path / "sites", runs=tmp_path / "runs", reference=False)
    chains = [next((tmp_path / "sites" / f"site-{i}").rglob("*.jsonl")).read_text() for i in range(3)]
    assert '"data":"data.csv"' in chains[0].replace('": "', '":"')
    assert all('"data":"sql-' in chain.replace('": "', '":"') for chain in chains[1:])
