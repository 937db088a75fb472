"""A run that an auditor can sign: what has to hold first, what may be waived, and that no byte can change after."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairness import approval as approving
from fairness.signing import Signer, create_key, load_public, load_signer, sign_file, signature_file
from foedus import files
from foedus.approval import approve, verify
from foedus.errors import ApprovalError
from foedus.runs import RunFolder
from server.federation import Federation

Toy = Any
"""The class in tests/foedus/conftest.py, which no test can import."""
EASY = "\n[evidence]\nmin_n = 1\nmin_positives = 1\nmin_sites = 1\n[disclosure]\nk = 1\nmin_sites = 1\n"
WAIVABLE = '\n[evidence]\ninconclusive = "waive_with_signature"\n'


def signer(toy: Toy, name: str = "jane", role: str = "auditor") -> Signer:
    create_key(toy.folder / "keys", name=name, role=role, passphrase=None)
    return load_signer(toy.folder / f"keys/{name}.key", passphrase=lambda: "")


def finished(toy: Toy, *, policy: str = "") -> RunFolder:
    """A run whose verdict is pass with EASY, else inconclusive."""
    path = toy.folder / "policy.toml"
    path.write_text(path.read_text().replace("tolerance = 0.2", "tolerance = 0.9") + policy)
    signed = signature_file(path).exists()
    made = (
        toy.folder.parent / f"made-{files.sha256_file(path)[:12]}-{signed}"
    )  # one run a policy, then copies
    if made.exists() and not signed:
        shutil.copytree(made, toy.folder / "runs")
    else:
        assert toy.simulate("--no-reference").code == 0
        shutil.copytree(toy.folder / "runs", made)
    [run] = toy.finished()
    return RunFolder.open(run)


def reasons(run: RunFolder, *keys: Signer) -> list[tuple[str, str]]:
    return [(p.file, p.reason) for p in verify(run, keys=[key.public for key in keys]).problems]


def test_a_passing_run_is_approved_and_verifies(toy: Toy) -> None:
    jane = signer(toy)
    run = finished(toy, policy=EASY)
    assert reasons(run) == []
    approved = approve(run, jane, reason="read and understood")
    assert approved.statement.verdict == "pass"
    assert approved.statement.reason == "read and understood"
    named = {"study.toml", "policy.toml", "results.json", "audit.json", "commitments.json", "report.html"}
    assert named | {"model/head.safetensors", "model/backbone.json"} <= approved.statement.files.keys()
    assert reasons(run, jane) == []
    assert run.events("approved")[0]["by"] == "jane"


def test_the_policy_is_fixed_with_its_signature_before_any_test_example_is_asked(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    jane, asked = signer(toy), []
    policy = toy.folder / "policy.toml"
    sign_file(policy, jane, purpose="foedus policy v1")
    ask = Federation.ask

    def spying(self: Federation, *args: Any, **kwargs: Any) -> Any:
        if kwargs["split"] == "test":
            [log] = toy.folder.glob("runs/*/log.jsonl")
            asked.append([json.loads(line) for line in log.read_text().splitlines()])
        return ask(self, *args, **kwargs)

    monkeypatch.setattr(Federation, "ask", spying)
    assert toy.simulate("--no-reference").code == 0
    assert asked
    for lines in asked:
        assert [line["event"] for line in lines] == ["created", "policy fixed"]
        assert lines[1]["policy_sha256"] == files.sha256_file(policy)
        assert lines[1]["signature_sha256"] == files.sha256_file(signature_file(policy))
    [run] = toy.finished()
    origin = json.loads((run / "audit.json").read_text())["policy_origin"]
    assert origin["fixed_sha256"] == origin["file_sha256"] == files.sha256_file(policy)
    assert (origin["after_evaluation"], origin["signed_by"]) == (False, "jane")
    assert origin["public_key"] == jane.public.public_key


def test_a_signature_that_does_not_fit_the_policy_starts_no_run(toy: Toy) -> None:
    policy = toy.folder / "policy.toml"
    sign_file(policy, signer(toy), purpose="foedus policy v1")
    policy.write_text(policy.read_text().replace("0.2", "0.3"))
    done = toy.simulate()
    assert done.code == 1
    assert "policy.toml.sig: the signature of jane is over something else" in done.err
    assert not (toy.folder / "runs").exists()


def test_an_audit_of_three_people_fewer_than_an_earlier_one_is_refused_and_nothing_is_written(
    toy: Toy,
) -> None:
    run = finished(toy)
    log = run.path.parent / "audits.jsonl"
    [earlier] = [json.loads(line) for line in log.read_text().splitlines()]
    earlier["groups"]["everyone"]["everyone"] += 3
    log.write_text(json.dumps(earlier) + "\n")
    before = run.digests()
    refused = toy.foedus("audit", "run", run.run_id)
    assert refused.code != 0
    assert "differ by fewer than 11 people in everyone" in " ".join(refused.err.split())
    assert run.digests() == before
    assert len(log.read_text().splitlines()) == 1


def test_a_policy_changed_after_the_evaluation_is_marked_and_takes_a_waiver(toy: Toy) -> None:
    jane, run = signer(toy), finished(toy)
    approve_is_refused(run, jane, "inconclusive, and the policy blocks that")
    first = files.sha256_file(run.path / "policy.toml")
    other = toy.folder / "other.toml"
    other.write_text((toy.folder / "policy.toml").read_text() + EASY)
    assert toy.foedus("audit", "run", run.run_id, "--policy", "other.toml").code == 0
    audit = json.loads((run.path / "audit.json").read_text())
    assert audit["verdict"] == "pass"
    assert audit["policy_origin"]["after_evaluation"]
    page = (run.path / "report.html").read_text()
    sentence = (
        f"Policy changed after evaluation: {first} was fixed before the test data were asked; this one is "
    )
    assert sentence + files.sha256_file(other) in page
    assert reasons(run) == []
    approve_is_refused(
        run, jane, "the policy is not the one that was fixed before the evaluation; to approve it"
    )
    approved = approve(run, jane, waive={"policy": "the first asked for too many people"})
    assert [waiver.gate for waiver in approved.statement.waivers] == ["policy"]
    assert reasons(run, jane) == []
    again = toy.foedus("audit", "run", run.run_id)  # its policy is now the other one: still marked
    assert again.code == 0
    assert json.loads((run.path / "audit.json").read_text())["policy_origin"]["after_evaluation"]
    assert toy.foedus("audit", "run", run.run_id, "--policy", "policy.toml").code == 1
    assert not json.loads((run.path / "audit.json").read_text())["policy_origin"]["after_evaluation"]


def approve_is_refused(run: RunFolder, key: Signer, why: str, **waive: str) -> None:
    with pytest.raises(ApprovalError, match=why):
        approve(run, key, waive=waive)
    assert not (run.path / "approval.json").exists()
    assert not run.events("approved")


def test_a_run_that_was_audited_by_no_policy_at_first_is_marked(toy: Toy) -> None:
    toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    assert toy.simulate("--no-reference").code == 0
    [path] = toy.finished()
    run = RunFolder.open(path)
    assert reasons(run) == [("audit.json", "there is none: the study names no policy")]
    toy.change("tolerance = 0.2", "tolerance = 0.9" + EASY, file="policy.toml")
    toy.foedus("audit", "run", path.name, "--policy", "policy.toml")
    assert "Policy given after evaluation: none was fixed" in (path / "report.html").read_text()
    approve_is_refused(run, signer(toy), "the policy is not the one that was fixed")


def test_a_failing_run_is_never_approved(toy: Toy) -> None:
    run = finished(toy, policy=EASY)
    report = json.loads((run.path / "audit.json").read_text())
    report["verdict"] = "fail"
    report["gates"][0] |= {
        "verdict": "fail",
        "tolerance": 0.2,
        "found": {"value": 0.5, "low": 0.4, "high": 0.6},
    }
    policy = approving.Policy.model_validate(
        {"policy": {"name": "x"}, "attributes": {"sex": ["f", "m"]}, "gate": [{**GATE, "tolerance": 0.2}]}
    )
    found = approving.AuditReport.model_validate(report)
    with pytest.raises(ApprovalError, match="the verdict is fail; it cannot be approved or waived"):
        approving.waivers(found, policy, {"tpr:sex": "please"})


GATE = {"metric": "tpr", "attribute": "sex", "compare": "max_difference"}


def test_inconclusive_gates_are_waived_one_by_one_and_with_a_reason(toy: Toy) -> None:
    jane, run = signer(toy), finished(toy, policy=WAIVABLE)
    approve_is_refused(
        run, jane, "tpr:sex: inconclusive; to approve it all the same, sign for it with --waive"
    )
    approve_is_refused(run, jane, "the waiver of 'tpr:sex' has no reason", **{"tpr:sex": " "})
    approve_is_refused(run, jane, "'fnr:sex' needs no waiver; did you mean 'tpr:sex'", **{"fnr:sex": "no"})
    approved = approve(run, jane, waive={"tpr:sex": "a pilot under supervision"})
    assert approved.statement.verdict == "inconclusive"
    assert approved.statement.waivers[0].reason == "a pilot under supervision"
    assert reasons(run, jane) == []


def test_a_failed_attack_cannot_be_waived(toy: Toy) -> None:
    jane, run = signer(toy), finished(toy, policy=EASY)
    results = json.loads((run.path / "results.json").read_text())
    results["privacy"]["at_site"] = {"site": "east", "verdict": "fail"}
    assert approving.privacy_failures(results) == ["the attack at site east shows more than the study claims"]
    attack = {"within_claim": False, "lower_bound": 4.0, "claim": 3.0}
    assert "epsilon 4.00; 3.00" in approving.privacy_failures({"privacy": {"attack": attack}})[0]
    attack = {"within_claim": True, "clipping_held": False}
    assert "more than the clip" in approving.privacy_failures({"privacy": {"attack": attack}})[0]
    files.write_json(run.path / "results.json", results)
    run.seal()
    with pytest.raises(ApprovalError, match="does not verify"):  # the report is not of these results
        approve(run, jane)


def test_every_role_of_the_policy_signs(toy: Toy) -> None:
    jane, lead = signer(toy), signer(toy, "lena", "site_lead")
    stranger = signer(toy, "sam", "visitor")
    run = finished(toy, policy=EASY + '[signoff]\nroles = ["auditor", "site_lead"]\n')
    approve_is_refused(
        run, stranger, "asks for the signature of: auditor, site_lead; this key is a visitor's"
    )
    approve(run, jane)
    assert reasons(run) == [("approval.json", "the policy also asks for the signature of: site_lead")]
    approve(run, lead)
    assert reasons(run, jane, lead) == []
    approve(run, jane, reason="once more")  # replaces her own
    assert len(verify(run).approvals) == 2
    assert reasons(run, jane, lead) == []
    assert [file for file, _ in reasons(run, jane)] == ["approval.json"]


def test_only_a_pinned_key_counts(toy: Toy) -> None:
    jane, other, run = signer(toy), signer(toy, "john"), finished(toy, policy=EASY)
    assert "has not signed" in reasons(run, jane)[0][1]
    approve(run, other)
    assert reasons(run) == []
    assert [text for _, text in reasons(run, jane)] == [
        f"jane (auditor, {jane.public.fingerprint}) has not signed",
        f"signed by john ({other.public.fingerprint}), whose key is not among those given",
    ]


def test_an_approval_expires(toy: Toy) -> None:
    jane, run = signer(toy), finished(toy, policy=EASY + "[signoff]\nexpires_days = 30\n")
    approved = approve(run, jane)
    last = datetime.now(UTC).date() + timedelta(days=30)
    assert approved.statement.expires == str(last)
    report = approving.AuditReport.model_validate_json((run.path / "audit.json").read_bytes())
    policy = approving_policy(run)
    for day, expected in ((last, 0), (last + timedelta(days=1), 1)):
        found = approving.approval_problems(approved, report, policy, keys=[], today=day)
        assert len(found) == expected


def approving_policy(run: RunFolder) -> approving.Policy:
    from fairness.policy import load_policy

    return load_policy(run.path / "policy.toml")


def test_an_unfinished_run_is_not_approved(toy: Toy) -> None:
    jane, run = signer(toy), finished(toy, policy=EASY)
    run.set_state("running")
    approve_is_refused(run, jane, "the run is running, not finished")


def test_an_approval_of_another_run_is_refused(toy: Toy) -> None:
    jane, run = signer(toy), finished(toy, policy=EASY)
    approve(run, jane)
    assert toy.simulate("--no-reference").code == 0
    [other] = [RunFolder.open(path) for path in toy.finished() if path != run.path]
    shutil.copy(run.path / "approval.json", other.path / "approval.json")
    assert f"jane approved run '{run.run_id}'" in [text for _, text in reasons(other)]


def test_a_verdict_that_does_not_follow_from_its_gates_is_found_although_everything_is_sealed_anew(
    toy: Toy,
) -> None:
    run = finished(toy)
    audit = json.loads((run.path / "audit.json").read_text())
    assert audit["verdict"] == "inconclusive"
    reseal(run, {**audit, "verdict": "pass"})
    assert ("audit.json", "the verdict is pass, but its gates give inconclusive") in reasons(run)
    gate = {**audit["gates"][0], "verdict": "pass", "found": {"value": 0.1, "low": 0.0, "high": 0.2}}
    gate |= {"lowest": "f", "highest": "m"}
    reseal(run, {**audit, "verdict": "pass", "gates": [gate]})
    assert ("audit.json", "gate tpr:sex: it passes, but there is too little evidence on f, m") in reasons(run)
    wide = {**gate, "found": {"value": 0.5, "low": 0.0, "high": 0.95}}
    reseal(run, {**audit, "verdict": "pass", "gates": [wide]})
    assert ("audit.json", "gate tpr:sex: it passes, but the interval is not within the tolerance") in reasons(
        run
    )
    easier = {**gate, "tolerance": 0.95}
    reseal(run, {**audit, "verdict": "pass", "gates": [easier]})
    assert ("audit.json", "its gates are not those of policy.toml") in reasons(run)


def reseal(run: RunFolder, audit: dict[str, Any]) -> None:
    files.write_json(run.path / "audit.json", audit)
    run.seal()


def test_a_byte_changed_in_any_file_is_found_and_named(toy: Toy) -> None:
    jane = signer(toy)
    toy.change("tolerance = 0.2", "tolerance = 0.9", file="policy.toml")
    (toy.folder / "policy.toml").open("a").write(EASY)
    sign_file(toy.folder / "policy.toml", jane, purpose="foedus policy v1")
    run = finished(toy)
    approve(run, jane)
    assert reasons(run, jane) == []
    names = [*run.digests(), "log.jsonl", "approval.json"]
    assert "policy.toml.sig" in names
    whole = {name: (run.path / name).read_bytes() for name in names}

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(names), st.integers(0), st.integers(1, 255))
    def flip(name: str, place: int, mask: int) -> None:
        content = bytearray(whole[name])
        content[place % len(content)] ^= mask
        (run.path / name).write_bytes(content)
        try:
            assert {file for file, _ in reasons(run)} == {name}
        finally:
            (run.path / name).write_bytes(whole[name])

    flip()
    assert reasons(run, jane) == []


@pytest.mark.parametrize("name", ["model/head.safetensors", "audit.json", "commitments.json", "report.html"])
def test_a_missing_file_is_named(toy: Toy, name: str) -> None:
    run = finished(toy, policy=EASY)
    (run.path / name).unlink()
    assert (name, "it is missing") in reasons(run)


def test_a_file_added_to_the_model_is_named(toy: Toy) -> None:
    run = finished(toy, policy=EASY)
    (run.path / "model/extra.bin").write_bytes(b"x")
    assert reasons(run) == [("model/extra.bin", "it was not there when the run was sealed")]


def test_a_signature_added_to_the_policy_afterwards_is_named(toy: Toy) -> None:
    run = finished(toy, policy=EASY)
    sign_file(run.path / "policy.toml", signer(toy), purpose="foedus policy v1")
    assert [file for file, _ in reasons(run)] == ["policy.toml.sig"]


def test_approvals_follow_their_published_schema(toy: Toy) -> None:
    schema = Path(__file__).parents[2] / "docs/schemas/approval.schema.json"
    assert schema.read_text() == approving.approval_schema(), (
        "write fairness.approval.approval_schema() to it"
    )
    run = finished(toy, policy=EASY)
    approve(run, signer(toy))
    jsonschema.validate(json.loads((run.path / "approval.json").read_text()), json.loads(schema.read_text()))


def test_public_keys_are_read_from_their_files(toy: Toy) -> None:
    jane = signer(toy)
    assert load_public(toy.folder / "keys/jane.pub") == jane.public
