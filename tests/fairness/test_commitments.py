"""What a site commits to: it hides the counts, binds the site to them, and names who asked."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairness.commitments import Commitment, Commitments, commit, kept_file, open_at_site
from foedus.door import KEYS_FOLDER
from foedus.errors import ApprovalError, SecureSumError
from foedus.secure.keystore import Keystore
from foedus.secure.roster import Roster
from foedus.statistic import Arrays

COUNTS: Arrays = {"confusion:sex": np.arange(12).reshape(3, 2, 2), "sites": np.ones(1, np.int64)}
NOISED: Arrays = {"joint": np.array([0.1, -3.7 / 3, 2.0**-30, 1e9])}


def made(folder: Path, arrays: Arrays = COUNTS, *, run: str = "r", request: bytes = b"q" * 32) -> Commitment:
    return commit(folder, arrays, site="east", run=run, request=request)


def published(*sites: Commitment, roster: Roster | None = None) -> Commitments:
    return Commitments(run="r", audit_sha256="ab" * 32, roster=roster, sites=list(sites), missing=[])


@pytest.mark.parametrize("arrays", [COUNTS, NOISED])
def test_a_site_opens_what_it_committed_to(tmp_path: Path, arrays: Arrays) -> None:
    found = made(tmp_path, arrays)
    assert open_at_site(tmp_path, published(found), site="east") == []
    kept = kept_file(tmp_path, "r", b"q" * 32)
    assert kept.stat().st_mode & 0o777 == 0o600
    for name, value in arrays.items():
        array = json.loads(kept.read_text())["arrays"][name]
        again = np.array(array["values"], array["dtype"]).reshape(array["shape"])
        assert again.tobytes() == value.tobytes()


def test_the_same_counts_are_committed_to_with_another_salt_each_time(tmp_path: Path) -> None:
    found = {made(tmp_path / str(i)).commitment for i in range(20)}
    assert len(found) == 20


def test_the_same_request_is_answered_with_the_same_commitment(tmp_path: Path) -> None:
    first = made(tmp_path)
    assert made(tmp_path) == first
    assert made(tmp_path, {**COUNTS, "sites": np.zeros(1, np.int64)}).commitment != first.commitment
    assert made(tmp_path, request=b"p" * 32).commitment != first.commitment


@given(st.integers(0), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_no_other_counts_or_salt_open_it(
    tmp_path_factory: pytest.TempPathFactory, place: int, by: int
) -> None:
    folder = tmp_path_factory.mktemp("site")
    found = published(made(folder))
    path = kept_file(folder, "r", b"q" * 32)
    opening = json.loads(path.read_text())
    values = opening["arrays"]["confusion:sex"]["values"]
    values[place % len(values)] += by
    path.write_text(json.dumps(opening))
    assert open_at_site(folder, found, site="east") == [
        "the counts kept here are not those this site committed to"
    ]
    path.write_text(json.dumps({**opening, "salt": "0" * 64}))
    assert open_at_site(folder, found, site="east")


def test_a_site_with_a_key_signs_and_only_its_own_signature_counts(tmp_path: Path) -> None:
    stores = {name: Keystore.create(tmp_path / name / KEYS_FOLDER) for name in ("east", "north", "west")}
    roster = Roster.build(sites={name: store.public_key for name, store in stores.items()})
    for store in stores.values():
        store.pin(roster)
    found = made(tmp_path / "east")
    assert found.signed
    assert published(found, roster=roster).problems() == []
    assert open_at_site(tmp_path / "east", published(found), site="east") == []
    forged = found.model_copy(update={"commitment": bytes(32)})
    [problem] = published(forged, roster=roster).problems()
    assert "the signature on the commitment of site 'east' is not valid" in problem
    assert len(open_at_site(tmp_path / "east", published(forged), site="east")) == 2


def test_a_second_audit_leaves_the_first_openable(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path, NOISED, request=b"p" * 32)
    assert open_at_site(tmp_path, published(first), site="east") == []
    assert open_at_site(tmp_path, published(second), site="east") == []
    assert open_at_site(tmp_path, published(first.model_copy(update={"request": b"p" * 32})), site="east")


def test_a_commitment_for_another_run_is_refused(tmp_path: Path) -> None:
    [problem] = published(made(tmp_path, run="other")).problems()
    assert problem == "the commitment of site 'east' is for 'east' in run 'other'"


def test_a_site_that_is_not_on_the_list_or_keeps_nothing_says_so(tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere")
    with pytest.raises(ApprovalError, match="keeps nothing of that audit"):
        open_at_site(tmp_path, published(elsewhere), site="east")
    made(tmp_path)
    assert open_at_site(tmp_path, published(), site="east") == [
        "the published list holds no commitment of site 'east'"
    ]


def test_the_list_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found, path = published(made(tmp_path)), tmp_path / "commitments.json"
    path.write_text(found.to_json())
    assert Commitments.read(path) == found
    path.write_text(found.to_json().replace(" ", ""))
    with pytest.raises(ApprovalError, match="is not as it was written"):
        Commitments.read(path)
    with pytest.raises(SecureSumError):
        Commitment.decode("{}")
