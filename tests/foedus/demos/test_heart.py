import csv
from collections import Counter

from fairness.policy import load_policy
from foedus.demos import Prepared
from foedus.demos.heart import DATA, HOSPITALS, read
from foedus.demos.packages import _sha256
from foedus.site import find_sites, load_site
from foedus.study import load_study


def _patients(prepared: Prepared, hospital: str) -> list[dict[str, str]]:
    with (prepared.sites_path / hospital / "patients.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_data_are_the_attributed_file() -> None:
    attribution = (DATA.parent / "ATTRIBUTION.md").read_text()
    assert _sha256(DATA) in attribution
    for name in ("Janosi", "Steinbrunn", "Pfisterer", "Detrano"):
        assert name in attribution


def test_hospitals_have_the_patients_of_the_original(heart: Prepared) -> None:
    patients = {hospital: _patients(heart, hospital) for hospital in HOSPITALS.values()}
    counts = {hospital: len(rows) for hospital, rows in patients.items()}
    assert counts == {"cleveland": 303, "hungary": 294, "switzerland": 123, "va-long-beach": 200}
    assert len({row["id"] for rows in patients.values() for row in rows}) == 920
    positives = {hospital: sum(row["num"] != "0" for row in rows) for hospital, rows in patients.items()}
    assert positives == {"cleveland": 139, "hungary": 106, "switzerland": 115, "va-long-beach": 149}


def test_the_misfiled_patient_is_in_hungary() -> None:
    assert {row["id"]: row["dataset"] for row in read()}["304"] == "Hungary"


def test_study_declares_every_category_and_a_range_for_every_value(heart: Prepared) -> None:
    study = load_study(heart.study_path)
    assert study.table is not None
    for column in study.table.columns:
        values = Counter(row[column.name] for row in read() if row[column.name])
        missing = {str(value) for value in column.missing}
        if column.kind == "category":
            assert set(values) == set(column.categories)
        else:
            assert column.range is not None
            low, high = column.range
            assert all(low <= float(value) <= high for value in values if value not in missing)


def test_policy_and_sites_speak_of_the_same_groups(heart: Prepared) -> None:
    study = load_study(heart.study_path)
    assert study.fairness is not None
    policy = load_policy(heart.study_path.parent / study.fairness.policy)
    for folder in find_sites(heart.sites_path):
        groups = load_site(folder).groups
        found = {name: {*group.values.values(), *group.bands} for name, group in groups.items()}
        assert found == {name: set(names) for name, names in policy.attributes.items()}
    assert {gate.metric for gate in policy.gates} == {"fnr", "auc"}
