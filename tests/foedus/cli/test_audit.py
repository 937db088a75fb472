"""foedus audit show|run as people read them, and foedus site check's table: brackets are text."""

import json
from typing import Any

import pytest

Toy = Any
"""The class in tests/foedus/conftest.py, which no test can import."""


def test_the_audit_of_a_run_is_shown_as_a_table(toy: Toy) -> None:
    assert toy.simulate().code == 0
    [run] = toy.finished()
    shown = toy.foedus("audit", "show", run.name)
    assert shown.code == 0
    assert "Gate: INCONCLUSIVE" in shown.out
    assert "unknown (suppressed)" in shown.out
    again = toy.foedus("audit", "run", run.name)
    assert again.code == 1
    assert again.out == shown.out


def test_what_to_do_is_shown_with_its_brackets(toy: Toy) -> None:
    toy.spoil("west", lambda rows: [{**rows[0], "y": "perhaps"}, *rows[1:]])
    shown = toy.foedus("site", "check", "sites/west", "--study", "study.toml")
    assert shown.code == 0
    assert "[data.labels]" in shown.out


def test_a_run_that_was_not_audited_says_so(toy: Toy) -> None:
    toy.change('[fairness]\npolicy = "policy.toml"\n', "")
    assert toy.simulate().code == 0
    [run] = toy.finished()
    shown = toy.foedus("audit", "show", run.name)
    assert shown.code == 2
    assert "audit.json does not exist" in shown.err
    again = toy.foedus("audit", "run", run.name)
    assert again.code == 2
    assert "the run's study names no policy; give one with --policy." in again.err


EASY = (
    "tolerance = 0.9\n[evidence]\nmin_n = 1\nmin_positives = 1\nmin_sites = 1\n"
    "[disclosure]\nk = 1\nmin_sites = 1\n"
)


def test_from_keys_to_a_verified_approval(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOEDUS_PASSPHRASE", "open sesame")
    made = toy.foedus("auditor", "init", "--name", "jane", "--folder", "keys", "--encrypt", "--json")
    assert made.code == 0
    fingerprint = json.loads(made.out)["fingerprint"]
    toy.change("tolerance = 0.2\n", EASY, file="policy.toml")
    signed = toy.foedus("policy", "sign", "policy.toml", "--key", "keys/jane.key")
    assert signed.out.startswith("policy.toml.sig: signed by jane (auditor)")
    assert toy.simulate().code == 0
    [run] = toy.finished()
    before = toy.foedus("audit", "verify", run.name)
    assert before.code == 0
    assert "everything holds; verdict: pass" in before.out
    assert "nobody has approved this run" in before.out
    assert toy.foedus("audit", "verify", run.name, "--auditor", "keys/jane.pub").code == 1
    approved = toy.foedus("approve", run.name, "--key", "keys/jane.key", "--reason", "reviewed")
    assert approved.code == 0
    assert f"approved by jane (auditor), {fingerprint}" in approved.out
    after = toy.foedus("audit", "verify", run.name, "--auditor", "keys/jane.pub", "--json")
    assert after.code == 0
    found = json.loads(after.out)
    assert (found["ok"], found["verdict"], found["approved_by"][0]["signer"]) == (True, "pass", "jane")
    (run / "results.json").write_text((run / "results.json").read_text().replace("toy", "tot"))
    altered = toy.foedus("audit", "verify", run.name)
    assert altered.code == 1
    assert "results.json: it is not what was written" in altered.out


def test_a_wrong_passphrase_and_bad_waivers_are_one_sentence(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOEDUS_PASSPHRASE", "open sesame")
    assert toy.foedus("auditor", "init", "--name", "jane", "--encrypt").code == 0
    assert toy.simulate().code == 0
    [run] = toy.finished()
    asked = ("approve", run.name, "--key", "auditor/jane.key")
    refused = toy.foedus(*asked)
    assert refused.code == 1
    assert "ApprovalError: tpr:sex: inconclusive, and the policy blocks that" in refused.err
    refused = toy.foedus(*asked, "--waive", "tpr:sex")
    assert refused.code == 2
    assert "write GATE=REASON" in refused.err
    monkeypatch.setenv("FOEDUS_PASSPHRASE", "sesame")
    refused = toy.foedus(*asked)
    assert refused.code == 1
    assert "the passphrase is wrong" in refused.err
    monkeypatch.delenv("FOEDUS_PASSPHRASE")
    refused = toy.foedus(*asked)
    assert refused.code == 1
    assert "set FOEDUS_PASSPHRASE or use a terminal" in refused.err
    assert not (run / "approval.json").exists()


def test_two_audits_side_by_side(toy: Toy) -> None:
    assert toy.simulate().code == 0
    [first] = toy.finished()
    shown = toy.foedus("audit", "compare", first.name, str(first / "audit.json"))
    assert shown.code == 0
    assert "within uncertainty" in " ".join(shown.out.split())
    found = json.loads(toy.foedus("audit", "compare", first.name, first.name, "--json").out)
    assert [gate["metric"] for gate in found["gates"]] == ["tpr"]
    assert found["gates"][0]["change"]["value"] is None, "too few people for any figure"
    missing = toy.foedus("audit", "compare", first.name, "nope")
    assert missing.code == 2
    assert "there is no run 'nope'" in missing.err


def test_a_site_compares_what_it_kept_with_what_was_published(toy: Toy) -> None:
    assert toy.simulate().code == 0
    [run] = toy.finished()
    for site in ("east", "north", "west"):
        done = toy.foedus("site", "verify-audit", str(run), "--folder", f"sites/{site}", "--json")
        assert (done.code, json.loads(done.out)["ok"]) == (0, True)
    [kept] = (toy.site("east") / f".foedus/reports/{run.name}").glob("audit-commitment-*.json")
    kept.write_text(kept.read_text().replace('"values":[', '"values":[1', 1))
    done = toy.foedus("site", "verify-audit", str(run / "audit.json"), "--folder", "sites/east")
    assert done.code == 1
    assert "are not those this site committed to" in done.out
