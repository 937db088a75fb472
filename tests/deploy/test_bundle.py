"""A bundle holds in every respect, or nothing of it is served."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy import bundle as bundles
from deploy.bundle import Bundle, Manifest, open_bundle, seal
from fairness.signing import Signer
from foedus import files
from foedus.approval import approve
from foedus.errors import ApprovalError, ReleaseError
from foedus.releasing import release
from foedus.runs import RunFolder

Made = Any
"""The class in conftest.py, which no test can import."""


def resealed(path: Path, hub: Signer, **changes: Any) -> None:
    """Make the manifest fit what is there now, and sign it: what a coordinator could do alone."""
    manifest = Manifest.model_validate_json((path / "manifest.json").read_bytes())
    for name in ("manifest.json", "signatures.json"):
        (path / name).unlink()
    seal(path, manifest.model_copy(update={"files": bundles.digests(path), **changes}), hub)


def test_a_release_holds_and_says_what_it_is(made: Made, released: Bundle) -> None:
    found = open_bundle(released.path, made.keys)
    assert (found.name, found.version) == ("toy", "1")
    assert found.expires is not None
    assert set(bundles.REQUIRED) <= set(found.manifest.files)
    lineage = json.loads((released.path / "lineage.json").read_text())
    assert len(lineage["sites"]) == 3
    assert not {"east", "north", "west"} & set(lineage["sites"])
    assert not [p for p in released.path.rglob("*") if p.is_file() and b"north" in p.read_bytes()]


def test_one_byte_changed_in_any_file_is_found(made: Made, bundle_copy: Path) -> None:
    names = sorted(p.relative_to(bundle_copy) for p in bundle_copy.rglob("*") if p.is_file())
    assert len(names) > 10
    for name in names:
        path = bundle_copy / name
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(ReleaseError):
            open_bundle(bundle_copy, made.keys)
        path.write_bytes(content)
    assert open_bundle(bundle_copy, made.keys)


def test_only_given_keys_count(made: Made, released: Bundle, new_signer: Callable[..., Signer]) -> None:
    other, mallory = new_signer("jane", "auditor"), new_signer("hub", "coordinator")
    with pytest.raises(ReleaseError, match="whose key is not among those given"):
        open_bundle(released.path, [made.hub.public, other.public])
    with pytest.raises(ReleaseError, match="whose key is not among those given"):
        open_bundle(released.path, [mallory.public, made.jane.public])
    with pytest.raises(ReleaseError, match="no auditor's public key"):
        open_bundle(released.path, [made.hub.public])
    with pytest.raises(ReleaseError, match="no coordinator's public key"):
        open_bundle(released.path, [made.jane.public])


def test_an_expired_approval_is_refused(made: Made, released: Bundle) -> None:
    later = datetime.now(UTC).date() + timedelta(days=31)
    with pytest.raises(ReleaseError, match="expired on"):
        open_bundle(released.path, made.keys, today=later)


@pytest.mark.parametrize("name", ["../evil.json", "/etc/passwd.json", "model/../../x.json", "a\\b.json"])
def test_a_path_that_leaves_the_bundle_is_refused(made: Made, bundle_copy: Path, name: str) -> None:
    manifest = Manifest.model_validate_json((bundle_copy / "manifest.json").read_bytes())
    listed = {**manifest.files, name: bundles.File(size_bytes=1, sha256="0" * 64)}
    seal(bundle_copy, manifest.model_copy(update={"files": listed}), made.hub)
    with pytest.raises(ReleaseError, match="has no place in a bundle"):
        open_bundle(bundle_copy, made.keys)


def test_links_and_special_files_are_refused(made: Made, bundle_copy: Path) -> None:
    head = bundle_copy / "model/head.safetensors"
    moved = bundle_copy.parent / "elsewhere.safetensors"
    shutil.move(head, moved)
    head.symlink_to(moved)
    with pytest.raises(ReleaseError, match="is a link"):
        open_bundle(bundle_copy, made.keys)
    head.unlink()
    os.mkfifo(head)
    with pytest.raises(ReleaseError, match="not a plain file"):
        open_bundle(bundle_copy, made.keys)


def test_a_linked_folder_and_a_linked_bundle_are_refused(made: Made, bundle_copy: Path) -> None:
    link = bundle_copy.parent / "link"
    link.symlink_to(bundle_copy)
    with pytest.raises(ReleaseError, match="not a folder"):
        open_bundle(link, made.keys)
    (bundle_copy / "more").symlink_to(bundle_copy / "model")
    with pytest.raises(ReleaseError, match="is a link"):
        open_bundle(bundle_copy, made.keys)


def test_a_pickle_is_refused_under_its_own_name_and_under_another(made: Made, bundle_copy: Path) -> None:
    (bundle_copy / "model/extra.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ReleaseError, match="not listed in the manifest"):
        open_bundle(bundle_copy, made.keys)
    resealed(bundle_copy, made.hub)
    with pytest.raises(ReleaseError, match="has no place in a bundle"):
        open_bundle(bundle_copy, made.keys)
    (bundle_copy / "model/extra.pkl").rename(bundle_copy / "model/extra.safetensors")
    resealed(bundle_copy, made.hub)
    with pytest.raises(ReleaseError, match="not a safetensors file"):
        open_bundle(bundle_copy, made.keys)


def test_a_coordinator_alone_cannot_change_what_was_approved(made: Made, bundle_copy: Path) -> None:
    arrays = files.read_arrays(bundle_copy / "model/head.safetensors")
    files.write_arrays(bundle_copy / "model/head.safetensors", {k: v + 1 for k, v in arrays.items()})
    resealed(bundle_copy, made.hub)
    with pytest.raises(ReleaseError, match=r"jane approved another model/head.safetensors"):
        open_bundle(bundle_copy, made.keys)


def test_a_failed_audit_is_refused_whoever_signs(made: Made, bundle_copy: Path) -> None:
    audit = json.loads((bundle_copy / "audit.json").read_text())
    files.write_json(bundle_copy / "audit.json", {**audit, "verdict": "fail"})
    resealed(bundle_copy, made.hub)
    with pytest.raises(ReleaseError, match="its audit failed"):
        open_bundle(bundle_copy, made.keys)


def test_without_approval_nothing_is_released(made: Made, run_copy: RunFolder, tmp_path: Path) -> None:
    (run_copy.path / "approval.json").unlink()
    with pytest.raises(ReleaseError, match=r"jane .* has not signed"):
        release(run_copy, made.hub, keys=[made.jane.public], to=tmp_path / "out")
    with pytest.raises(ReleaseError, match="no auditor has approved it"):
        release(run_copy, made.hub, keys=[], to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_audit_nothing_is_released(made: Made, run_copy: RunFolder, tmp_path: Path) -> None:
    (run_copy.path / "audit.json").unlink()
    with pytest.raises(ReleaseError, match=r"audit.json: it is missing"):
        release(run_copy, made.hub, keys=[made.jane.public], to=tmp_path)


def test_an_inconclusive_audit_takes_a_signed_waiver(made: Made, run_copy: RunFolder, tmp_path: Path) -> None:
    from foedus.simulation import audit_again

    policy = made.folder / "policy.toml"
    strict = tmp_path / "policy.toml"
    strict.write_text(policy.read_text().replace("min_n = 1", "min_n = 5000"))
    assert audit_again(run_copy, policy=strict).verdict == "inconclusive"
    (run_copy.path / "approval.json").unlink()
    with pytest.raises(ReleaseError, match="has not signed"):
        release(run_copy, made.hub, keys=[made.jane.public], to=tmp_path / "out")
    with pytest.raises(ApprovalError, match="inconclusive"):
        approve(run_copy, made.jane)
    approve(run_copy, made.jane, waive={"tpr:sex": "few people; reviewed", "policy": "stricter"})
    found = release(run_copy, made.hub, keys=[made.jane.public], to=tmp_path / "out")
    assert found.manifest.verdict == "inconclusive"


def test_only_a_coordinators_key_signs_a_bundle(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="signed by the coordinator"):
        release(made.run, made.jane, keys=[made.jane.public], to=tmp_path)
