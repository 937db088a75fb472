"""The four ways out of a site, on a whole study: masks change no byte, noise is charged, nothing else leaves."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from clients.app import app as client_app
from foedus import noising, privacy_check, records, simulation, updates
from foedus.backbones import Centre, Moments
from foedus.door import KEPT_FOLDER, LEDGER_FOLDER, Premises, Release, leave
from foedus.errors import ConfigError, DoorError, RoundError
from foedus.head import LinearHead
from foedus.model import Model
from foedus.privacy.status import status
from foedus.runs import RunFolder
from foedus.secure.wire import SharesReply, UnmaskReply
from foedus.site import find_sites, load_site
from foedus.statistic import Arrays, Quantity
from foedus.study import load_study
from server.app import conduct
from server.federation import Federation
from server.local_grid import LocalGrid
from server.masked import MaskedSums

SAME = ("model/head.safetensors", "audit.json", "results.json")


def _use(toy: Path, mode: str, *, study: str = "", policy: str = "", audited: bool = False) -> None:
    """Make the toy study and every site's policy use `mode`."""
    path = toy / "study.toml"
    text = re.sub(r'mode = ".*"', f'mode = "{mode}"', path.read_text())
    if mode in ("secure+ddp", "local-dp"):
        text = text.replace('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
        text = text if audited else re.sub(r"\[fairness\]\n.*\n", "", text)
    path.write_text(text + study)
    for site in find_sites(toy / "sites"):
        file = site / "site.toml"
        file.write_text(re.sub(r"doors = \[.*\]", f'doors = ["{mode}"]\n{policy}', file.read_text()))


def _run(toy: Path, name: str) -> RunFolder:
    run, _ = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / name, reference=False)
    return run


def _spent(toy: Path) -> list[float]:
    return [status(site / LEDGER_FOLDER)[0].epsilon for site in find_sites(toy / "sites")]


def test_masks_change_no_byte_of_the_result(toy: Path) -> None:
    plain = _run(toy, "plain")
    _use(toy, "secure-only")
    masked = _run(toy, "masked")
    for name in SAME[:2]:
        assert (masked.path / name).read_bytes() == (plain.path / name).read_bytes(), name
    one, other = (json.loads((run.path / "results.json").read_text()) for run in (plain, masked))
    assert other.pop("privacy")["mode"] == "secure-only"
    assert one.pop("privacy")["mode"] == "open"
    assert one == other


@pytest.mark.parametrize("mode", ["secure+ddp", "local-dp"])
def test_a_private_study_spends_its_epsilon_at_every_site_and_no_more(toy: Path, mode: str) -> None:
    _use(toy, mode)
    run = _run(toy, "private")
    assert _spent(toy) == pytest.approx([3.0] * 4, abs=1e-3)
    results = json.loads((run.path / "results.json").read_text())
    assert results["data_quality"] is None
    privacy = results["privacy"]
    assert privacy["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert privacy["epsilon_prv"] == pytest.approx(3.0, rel=0.02)
    assert privacy["attack"]["within_claim"]
    spent = [line["epsilon"] for line in run.rounds()]
    assert spent == sorted(spent)
    assert spent[-1] < 3.0
    assert all(line["train_loss"] is None and line["validation_loss"] is None for line in run.rounds())


def test_the_ledger_refuses_a_study_that_would_exceed_the_sites_cap(toy: Path) -> None:
    _use(toy, "local-dp", policy="epsilon_cap = 4.0")
    _run(toy, "first")
    before = _spent(toy)
    with pytest.raises(
        RoundError, match=r"may give away epsilon 4 .*'all releases' of study 'toy' would make it"
    ):
        _run(toy, "second")
    assert _spent(toy) == before


def test_a_study_does_not_look_cheaper_by_naming_a_larger_delta(toy: Path) -> None:
    _use(toy, "local-dp", policy="epsilon_cap = 4.0")
    path = toy / "study.toml"
    path.write_text(path.read_text().replace('mode = "local-dp"', 'mode = "local-dp"\ndelta = 0.009'))
    with pytest.raises(RoundError, match=r"may give away epsilon 4 \(delta 1e-05\) for each"):
        _run(toy, "first")
    assert all(spent <= 4.0 for spent in _spent(toy))


def test_a_site_that_refuses_is_named_by_its_folder(toy: Path) -> None:
    file = toy / "sites/south/site.toml"
    file.write_text(file.read_text().replace('doors = ["open"]', 'doors = ["secure-only"]'))
    grid = LocalGrid(client_app, find_sites(toy / "sites"))
    federation = Federation.enlist(grid, load_study(toy / "study.toml"), "run")
    assert federation.refused == {
        "south": 'the site\'s policy allows doors: secure-only; the study asks for "open"'
    }


def test_a_private_run_that_is_resumed_pays_for_nothing_twice(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(toy, "secure+ddp")
    keep = RunFolder.checkpoint

    def checkpoint(self: RunFolder, number: int, *args: object, **kwargs: object) -> None:
        if number == 3:  # the third round was released, but is not durable yet
            raise KeyboardInterrupt
        keep(self, number, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", checkpoint)
        with pytest.raises(KeyboardInterrupt):
            _run(toy, "runs")
    [path] = (toy / "runs").iterdir()
    simulation.resume(RunFolder.open(path))
    assert _spent(toy) == pytest.approx([3.0] * 4, abs=1e-3)


def test_a_release_is_made_once_and_for_one_request(toy: Path) -> None:
    _use(toy, "local-dp")
    run = _run(toy, "runs")
    study = load_study(toy / "study.toml")
    site = find_sites(toy / "sites")[0]
    assert len(list((site / KEPT_FOLDER / run.run_id).iterdir())) == 7  # centre, start, 4 rounds, test
    federation = Federation.enlist(LocalGrid(client_app, find_sites(toy / "sites")), study, run.run_id)
    before = _spent(toy)
    with pytest.raises(RoundError, match="'centre' of this run was released for another request"):
        federation.ask(Centre(dim=4), split="test")
    assert _spent(toy) == before


def _ask(site: Path, study: str, **config: str) -> Message:
    grid = LocalGrid(client_app, [site])
    words = {records.STUDY: study, records.RUN: "r", **config}
    content = RecordDict({records.CONFIG: ConfigRecord(dict(words))})
    message = Message(content, dst_node_id=1000, message_type=records.QUERY_STATISTIC)
    [reply] = grid.send_and_receive([message])
    return reply


@pytest.mark.parametrize(
    ("mode", "statistic", "settings", "reason"),
    [
        ("secure-only", "moments", {"dim": 4}, "the request is not part of a secure sum"),
        ("secure+ddp", "centre", {"dim": 4}, "holds no|cannot be opened"),
        ("local-dp", "moments", {"dim": 4}, "'moments' has no place in a private study"),
        (
            "local-dp",
            "ridge",
            {"n_classes": 2, "dim": 4, "classes": [], "min_count": 0},
            "'ridge' has no place",
        ),
    ],
)
def test_what_the_mode_does_not_allow_stays_at_the_site(
    toy: Path, mode: str, statistic: str, settings: dict[str, object], reason: str
) -> None:
    _use(toy, mode)
    study = load_study(toy / "study.toml").to_json()
    site = find_sites(toy / "sites")[0]
    config = {records.STATISTIC: statistic, records.SETTINGS: json.dumps(settings), records.SPLIT: "train"}
    reply = _ask(site, study, **config)
    assert reply.has_error()
    assert re.search(reason, reply.error.reason or "")
    assert str(site) not in (reply.error.reason or "")


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of legs at which site 'south' is lost."""
    lost: set[str] = set()
    answer = LocalGrid._answer

    def flaky(self: LocalGrid, message: Message) -> Message:
        folder = Path(str(self._contexts[message.metadata.dst_node_id].node_config["site-folder"]))
        leg = str(message.content.config_records.get(records.SECURE, ConfigRecord()).get(records.LEG, ""))
        if folder.name == "south" and leg in lost:  # the site cannot make sense of it, so it does not answer
            message.content[records.CONFIG] = ConfigRecord({records.STUDY: "{}"})
        return answer(self, message)

    monkeypatch.setattr(LocalGrid, "_answer", flaky)
    return lost


@pytest.mark.parametrize("leg", ["keys", "shares", "mask", "consent", "unmask"])
def test_a_site_lost_in_any_leg_costs_its_contribution_at_most(toy: Path, lossy: set[str], leg: str) -> None:
    _use(toy, "secure-only")
    simulation.enrol(find_sites(toy / "sites"), load_study(toy / "study.toml"))
    policy = (toy / "policy.toml").read_text()
    run = RunFolder.create(
        toy / "runs", toy / "study.toml", policy=policy, engine="local", sites=str(toy / "sites")
    )
    lossy.add(leg)
    outcome = conduct(LocalGrid(client_app, find_sites(toy / "sites")), run)
    answered = {line["answered"] for line in run.rounds()}
    assert answered == ({3} if leg in ("keys", "shares", "mask") else {4})
    assert outcome.results["models"]["federated"]["accuracy"] > 0.7


@pytest.mark.parametrize("leg", ["keys", "shares", "mask", "consent", "unmask"])
def test_an_answer_that_was_lost_on_its_way_costs_no_byte_where_every_site_is_needed(
    toy: Path, monkeypatch: pytest.MonkeyPatch, leg: str
) -> None:
    """South answers and its answer never arrives; asked again it has used up its secrets, and says so."""
    shutil.rmtree(toy / "sites/west")
    _use(toy, "secure-only")
    whole = _run(toy, "whole")
    answer, lost = LocalGrid._answer, []

    def losing(self: LocalGrid, message: Message) -> Message:
        folder = Path(str(self._contexts[message.metadata.dst_node_id].node_config["site-folder"]))
        asked = str(message.content.config_records.get(records.SECURE, ConfigRecord()).get(records.LEG, ""))
        if folder.name == "south" and asked == leg and not lost:
            lost.append(answer(self, message))
        return answer(self, message)

    monkeypatch.setattr(LocalGrid, "_answer", losing)
    run = _run(toy, "lossy")
    assert lost
    assert not lost[0].has_error()
    for name in SAME:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name


def test_too_few_sites_under_masks_is_one_clear_sentence(toy: Path) -> None:
    _use(toy, "secure-only")
    for name in ("west", "south"):
        (toy / "sites" / name / "site.toml").unlink()
    with pytest.raises(DoorError, match="3"):
        _run(toy, "runs")


@pytest.mark.parametrize("mode", ["secure+ddp", "secure-only"])
def test_robust_strategies_are_refused_under_masks_and_told_why(toy: Path, mode: str) -> None:
    _use(toy, mode)
    path = toy / "study.toml"
    path.write_text(path.read_text().replace("[federation]", '[federation]\nstrategy = "krum"'))
    with pytest.raises(ConfigError, match=re.escape('"krum" reads each site\'s update, which door.mode')):
        load_study(path)


def test_robust_strategies_run_under_local_dp(toy: Path) -> None:
    _use(toy, "local-dp")
    path = toy / "study.toml"
    path.write_text(path.read_text().replace("[federation]", '[federation]\nstrategy = "fedmedian"'))
    assert np.isfinite(_run(toy, "runs").rounds()[-1]["epsilon"])


def test_a_private_table_needs_declared_ranges(toy: Path) -> None:
    _use(toy, "local-dp")
    path = toy / "study.toml"
    path.write_text(path.read_text().replace("range = [-4.0, 4.0]", "", 1))
    with pytest.raises(ConfigError, match="column 'a' has no range; a private study scales numbers"):
        _run(toy, "runs")


@pytest.mark.parametrize("mode", ["secure+ddp", "local-dp"])
def test_a_private_audit_is_charged_and_says_what_its_noise_costs_each_group(toy: Path, mode: str) -> None:
    _use(toy, mode, audited=True)
    run = _run(toy, "runs")
    assert _spent(toy) == pytest.approx([3.0] * 4, abs=1e-3)
    audit = json.loads((run.path / "audit.json").read_text())
    assert audit["verdict"] in ("inconclusive", "fail")
    assert any("the noise makes the interval wider" in note for note in audit["notes"])
    assert "carries noise with a standard deviation" in (run.path / "report.html").read_text()


def test_noise_three_times_too_small_fails_the_audit(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(toy, "local-dp", audited=True)
    honest = noising.add_noise

    def careless(*args: Any, multiplier: float, **more: Any) -> Arrays:
        return honest(*args, multiplier=multiplier / 3, **more)

    monkeypatch.setattr(privacy_check, "add_noise", careless)
    run = _run(toy, "runs")
    audit = json.loads((run.path / "audit.json").read_text())
    assert audit["verdict"] == "fail"
    assert "the noise is not what was claimed" in audit["reasons"][0]


@pytest.mark.parametrize("mode", ["open", "secure-only", "local-dp", "secure+ddp"])
def test_a_refusal_says_nothing_of_the_values_that_were_found(toy: Path, mode: str) -> None:
    """A coordinator could choose a model that drives a contribution out of range, and read it past noise and masks."""
    _use(toy, mode)
    site = find_sites(toy / "sites")[0]
    premises = Premises(load_study(toy / "study.toml"), load_site(site), site)
    grid = LocalGrid(client_app, [site])
    content = RecordDict({records.CONFIG: ConfigRecord({records.RUN: "r"})})
    asked = grid.create_message(content, records.QUERY_STATISTIC, 1000, "")
    release = Release(
        {"x": np.array([1234.5])}, {"x": Quantity((1,), high=10.0, sensitivity=1.0)}, name="centre"
    )
    reply = leave(asked, lambda: release, permit=lambda: premises)
    assert reply.error.reason.startswith("the site's contribution is not what the question declares")
    assert not re.search(r"\d", reply.error.reason)
    assert not list(site.glob(f"{LEDGER_FOLDER}/*"))  # nothing was charged for it


def test_a_question_whose_answer_would_fill_the_memory_is_refused_before_it_is_measured(toy: Path) -> None:
    study = load_study(toy / "study.toml").to_json()
    settings = json.dumps({"n_classes": 1000, "dim": 65_536, "classes": [], "min_count": 0})
    words = {records.STATISTIC: "ridge", records.SETTINGS: settings, records.SPLIT: "train"}
    reply = _ask(find_sites(toy / "sites")[0], study, **words)
    assert re.fullmatch(
        r"the question asks for \d+ MB of numbers; .*allows 1000 \(max_answer_mb\)", reply.error.reason
    )


def _enlisted(toy: Path) -> Federation:
    sites, study = find_sites(toy / "sites"), load_study(toy / "study.toml")
    simulation.enrol(sites, study)
    return Federation.enlist(LocalGrid(client_app, sites), study, "r")


def test_noised_answers_are_summed_over_one_set_of_sites_only(toy: Path) -> None:
    """The second total, over one site less, would leave that site's answer with its own share of the noise alone."""
    _use(toy, "secure+ddp")
    federation = _enlisted(toy)
    everyone = dict(federation.cohort)
    first = federation.ask(Centre(dim=4), split="train")
    without = max(everyone)
    federation.cohort = {node: name for node, name in everyone.items() if node != without}
    with pytest.raises(RoundError, match="summed before over other sites"):
        federation.ask(Centre(dim=4), split="train")
    federation.cohort = everyone
    again = federation.ask(Centre(dim=4), split="train")
    np.testing.assert_array_equal(again.centre, first.centre)


def test_a_site_sums_with_as_many_others_as_its_policy_wants_whatever_the_study_says(toy: Path) -> None:
    _use(toy, "secure-only", policy="min_sites = 4")
    path = toy / "study.toml"
    path.write_text(path.read_text().replace("min_sites = 2", "min_sites = 4"))
    federation, moments = _enlisted(toy), Moments(dim=4)
    words = {records.STATISTIC: "moments", records.SETTINGS: '{"dim": 4}', records.SPLIT: "train"}
    three = dict(sorted(federation.cohort.items())[:3])
    messages = federation.messages(records.QUERY_STATISTIC, three, config=words)
    with pytest.raises(RoundError, match="the sum is over 3 sites; the site's policy wants at least 4"):
        federation.sums.total(federation._cohort(three, quorum=3), messages, moments.declare(), what="asking")


@pytest.mark.parametrize("leg", ["shares", "unmask"])
def test_a_site_that_gives_wrong_shares_costs_its_own_contribution_at_most(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, leg: str
) -> None:
    """South's packages cannot be opened, so that nobody answers; or its shares rebuild other secrets."""
    _use(toy, "secure-only")
    federation, answer = _enlisted(toy), LocalGrid._answer
    whole = federation.ask(Moments(dim=4), split="train")

    def lying(self: LocalGrid, message: Message) -> Message:
        reply = answer(self, message)
        asked = str(message.content.config_records.get(records.SECURE, ConfigRecord()).get(records.LEG, ""))
        if federation.cohort[message.metadata.dst_node_id] == "south" and asked == leg:
            words = reply.content.config_records[records.CONFIG]
            kind, part = (SharesReply, "packages") if leg == "shares" else (UnmaskReply, "seeds")
            said = kind.decode(str(words[records.TEXT]))
            wrong = {name: bytes(len(share)) for name, share in getattr(said, part).items()}
            words[records.TEXT] = said.model_copy(update={part: wrong}).encode()
        return reply

    monkeypatch.setattr(LocalGrid, "_answer", lying)
    federation.sums = MaskedSums(federation.sums.roster, lambda: federation.config({}))  # type: ignore[attr-defined]
    found = [federation.ask(Moments(dim=4), split="train").n for _ in range(2)]
    if leg == "shares":
        assert found == [whole.n - 54] * 2
        assert "3 other sites could not open its shares" in federation.sums._left_out["south"]
    else:
        assert found == [whole.n] * 2
        assert "'south' gave wrong shares to unmask; others' served" in caplog.text


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ("", {}),
        (DEEP, {}),
        ('{"study": ' + DEEP, {}),
        ("null", {}),
        (None, {records.RUN: "../../etc"}),
        (None, {records.RUN: "a/b", records.STATISTIC: "audit-counts"}),
        (None, {records.STATISTIC: "x" * 10**6, records.SETTINGS: "{}"}),
        (None, {records.STATISTIC: "moments", records.SETTINGS: DEEP}),
        (None, {records.STATISTIC: "moments", records.SETTINGS: "[]"}),
        (None, {records.STATISTIC: "moments", records.SETTINGS: '{"dim": 1e400}'}),
        (None, {records.STATISTIC: "moments", records.SETTINGS: '{"dim": 4}', records.SPLIT: "../train"}),
        (None, {records.STATISTIC: "evaluation", records.SETTINGS: "{}"}),
    ],
)
def test_whatever_a_coordinator_asks_is_answered_with_one_sentence_and_leaves_nothing_behind(
    toy: Path, study: str | None, words: dict[str, str]
) -> None:
    site = find_sites(toy / "sites")[0]
    before = {path for path in toy.rglob("*") if ".foedus" not in path.parts}
    given = {records.SPLIT: "train", **words}
    reply = _ask(site, load_study(toy / "study.toml").to_json() if study is None else study, **given)
    assert reply.has_error()
    assert reply.error.reason.isprintable()
    assert len(reply.error.reason) < 300
    assert {path for path in toy.rglob("*") if ".foedus" not in path.parts} == before


@pytest.mark.parametrize("mode", ["open", "secure+ddp"])
def test_what_a_site_keeps_can_be_read_by_its_owner_only(toy: Path, mode: str) -> None:
    _use(toy, mode)
    before = os.umask(0)
    try:
        _run(toy, "runs")
    finally:
        os.umask(before)
    for site in find_sites(toy / "sites"):
        kept = [path for path in (site / ".foedus").rglob("*") if path.is_file()]
        assert kept
        for path in kept:
            around = [path, *path.parents[: len(path.relative_to(site / ".foedus").parts) - 1]]
            assert any(each.stat().st_mode & 0o077 == 0 for each in around), path


def test_a_site_that_is_asked_in_other_kinds_of_words_stays_hidden(toy: Path) -> None:
    """Read as numbers, b"1000" is 1000 and "31303030" 31 million: all shares but north's would vanish in the total."""
    _use(toy, "secure-only")
    federation = _enlisted(toy)
    federation.standardiser = federation.ask(Moments(dim=4), split="train")
    model = Model(LinearHead.zeros(2, 4))
    content = {
        records.CONFIG: federation.config({}),
        records.ARRAYS: records.to_record(model.arrays()),
        records.STANDARDISER: records.to_record(federation.standardiser.arrays()),
    }
    messages = []
    for node, name in federation.cohort.items():
        content[records.CONFIG] = ConfigRecord(
            {
                **federation.config({}),
                records.SERVER_ROUND: 1,
                records.N_SITES: 4,
                records.N_TRAIN: b"1000" if name == "north" else "31303030",
            }
        )
        messages.append(Message(RecordDict(dict(content)), dst_node_id=node, message_type="train"))
    assert len({records.digest(message) for message in messages}) == 2
    with pytest.raises(DoorError, match="is out of the range that 4 sites can reach"):
        federation.total(messages, updates.quantities(model, n_sites=4, n_total=31303030), what="round 1")
