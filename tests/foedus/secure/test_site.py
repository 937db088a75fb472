"""A site against a coordinator that strays: every attempt ends with one sentence that says what was wrong."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foedus.errors import DoorError, SecureSumError
from foedus.secure import masks
from foedus.secure.keystore import Keystore
from foedus.secure.roster import Roster
from foedus.secure.wire import (
    Advertisement,
    Consent,
    ConsentRequest,
    KeysRequest,
    MaskRequest,
    SharesRequest,
    Signed,
    UnmaskReply,
    UnmaskRequest,
)
from foedus.statistic import count

ME, OTHER = "site-00", "site-02"


def keys_request(sites: Any, number: int, **changes: Any) -> str:
    fields = {
        "session": number,
        "roster": sites.roster.digest,
        "sums": 1,
        "threshold": sites.roster.threshold,
    }
    return KeysRequest(**{**fields, **changes}).encode()


def advertise(sites: Any, number: int = 1) -> dict[str, Advertisement]:
    request = keys_request(sites, number)
    return {name: Advertisement.decode(sites.site(name).keys(request)) for name in sites.names}


def shares_request(found: Any, number: int = 1) -> str:
    return SharesRequest(session=number, advertisements=list(found)).encode()


def signed_by(draft: Signed, key: Ed25519PrivateKey) -> Any:
    return draft.model_copy(update={"signature": key.sign(draft.signed_bytes())})


def key_of(sites: Any, name: str) -> Keystore:
    return Keystore(sites.folder / name)


# Leg 1


@pytest.mark.parametrize("number", [5, 4, 1])
def test_a_session_number_is_never_used_twice(five: Any, number: int) -> None:
    five.site(ME).keys(keys_request(five, 5))
    before = key_of(five, ME).load()
    with pytest.raises(SecureSumError, match=rf"session {number} was used before \(the last was 5\)"):
        five.site(ME).keys(keys_request(five, number))
    assert key_of(five, ME).load() == before, "a replay does not end the session in progress"
    five.site(ME).keys(keys_request(five, 6))


def test_a_session_that_is_finished_cannot_be_begun_again(five: Any) -> None:
    five.run(number=3)
    with pytest.raises(SecureSumError, match="session 3 was used before"):
        five.run(number=3)
    five.run(number=4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"roster": bytes(32)},
            "the coordinator has another roster than site 'site-00'; compare its fingerprint",
        ),
        ({"threshold": 3}, "asks for a threshold of 3; 5 sites have 4"),
    ],
)
def test_the_coordinator_chooses_neither_roster_nor_threshold(five: Any, changes: Any, reason: str) -> None:
    with pytest.raises(SecureSumError, match=reason):
        five.site(ME).keys(keys_request(five, 1, **changes))
    assert key_of(five, ME).last_session() == 0


# Leg 2


def test_a_swapped_key_breaks_the_signature(five: Any) -> None:
    found = advertise(five)
    mine = masks.public_key(bytes(range(32)))
    for change in ({"pairs": [mine]}, {"channel": mine}, {"checks": [mine]}):
        forged = {**found, OTHER: found[OTHER].model_copy(update=change)}
        with pytest.raises(
            SecureSumError, match=f"signature on the advertisement of site '{OTHER}' is not valid"
        ):
            five.site(ME).shares(shares_request(forged.values()))


def test_a_forged_signature_is_refused(five: Any) -> None:
    found = advertise(five)
    found[OTHER] = signed_by(found[OTHER], Ed25519PrivateKey.generate())
    with pytest.raises(
        SecureSumError, match=f"signature on the advertisement of site '{OTHER}' is not valid"
    ):
        five.site(ME).shares(shares_request(found.values()))


def test_an_outsider_is_refused(five: Any) -> None:
    found = advertise(five)
    draft = found[OTHER].model_copy(update={"site": "eve"})
    found["eve"] = signed_by(draft, Ed25519PrivateKey.generate())
    with pytest.raises(SecureSumError, match="site 'eve' is not on the roster"):
        five.site(ME).shares(shares_request(found.values()))


def test_an_advertisement_of_an_earlier_session_is_refused(five: Any) -> None:
    old = advertise(five, 1)
    found = {**advertise(five, 2), OTHER: old[OTHER]}
    with pytest.raises(SecureSumError, match=f"of site '{OTHER}' is for session 1, not 2; it is a replay"):
        five.site(ME).shares(shares_request(found.values(), 2))


def test_a_site_that_signs_other_terms_is_refused(five: Any) -> None:
    found = advertise(five)
    key = key_of(five, OTHER)
    changes = [
        ({"roster": bytes(32)}, "speaks of another roster"),
        ({"threshold": 3}, "is for 1 sums with a threshold of 3"),
        ({"sums": 2, "pairs": found[OTHER].pairs * 2, "checks": found[OTHER].checks * 2}, "is for 2 sums"),
    ]
    for change, reason in changes:
        other = key.sign(found[OTHER].model_copy(update=change))
        with pytest.raises(SecureSumError, match=f"the advertisement of site '{OTHER}' {reason}"):
            five.site(ME).shares(shares_request({**found, OTHER: other}.values()))


def test_a_site_deals_to_enough_distinct_sites_and_once(five: Any) -> None:
    found = list(advertise(five).values())
    site = five.site(ME)
    with pytest.raises(SecureSumError, match="3 of 5 sites sent keys; a secure sum needs 4"):
        site.shares(shares_request(found[:3]))
    with pytest.raises(SecureSumError, match="the advertisement of site 'site-01' is there twice"):
        site.shares(shares_request([*found, found[1]]))
    with pytest.raises(SecureSumError, match="the advertisement of site 'site-00' itself is missing"):
        site.shares(shares_request(found[1:]))
    site.shares(shares_request(found))
    with pytest.raises(SecureSumError, match="has dealt its shares of session 1 already"):
        site.shares(shares_request(found[:4]))


def test_a_degenerate_key_is_refused_by_name(five: Any) -> None:
    found = advertise(five)
    draft = found[OTHER].model_copy(update={"channel": bytes(32)})
    found[OTHER] = key_of(five, OTHER).sign(draft)
    with pytest.raises(SecureSumError, match=f"site '{OTHER}' sent a degenerate public key"):
        five.site(ME).shares(shares_request(found.values()))


# Leg 3


def ask(sites: Any, text: str, name: str = ME, **arrays: Any) -> Any:
    return sites.site(name).mask(
        text, {**sites.arrays(name), **arrays}, quantities=sites.quantities, request=sites.request
    )


def packages_for(sites: Any, masked: Any, name: str = ME) -> dict[str, bytes]:
    return dict(MaskRequest.decode(masked.mask_request(name)).packages)


def mask_request(packages: dict[str, bytes], *, number: int = 0, session: int = 1) -> str:
    return MaskRequest(session=session, sum=number, packages=packages).encode()


def test_altered_or_exchanged_shares_are_refused_by_the_name_of_their_site(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    packages = packages_for(five, masked)
    theirs = packages_for(five, masked, "site-01")
    bent = bytearray(packages[OTHER])
    bent[40] ^= 1
    for wrong in (bytes(bent), packages["site-01"], theirs[OTHER], packages[OTHER][::-1]):
        with pytest.raises(SecureSumError, match=f"the shares of site '{OTHER}' were altered on their way"):
            ask(five, mask_request({**packages, OTHER: wrong}))
    ask(five, mask_request(packages))


def test_shares_of_an_earlier_session_cannot_be_opened(five: Any) -> None:
    old = packages_for(five, five.session().begin(0, five.quantities, request=five.request))
    new = packages_for(five, five.session(number=2).begin(0, five.quantities, request=five.request))
    with pytest.raises(SecureSumError, match=f"the shares of site '{OTHER}' were altered"):
        ask(five, mask_request({**new, OTHER: old[OTHER]}, session=2))


def test_shares_come_from_enough_sites_that_advertised(five: Any) -> None:
    session = five.session(absent=["site-04"])
    packages = packages_for(five, session.begin(0, five.quantities, request=five.request))
    with pytest.raises(SecureSumError, match="3 of 5 sites shared their secrets; a secure sum needs 4"):
        ask(five, mask_request({n: packages[n] for n in ("site-01", "site-02")}))
    for name in ("site-04", ME, "eve"):
        with pytest.raises(SecureSumError, match=f"shares of site '{name}' arrived, which did not advertise"):
            ask(five, mask_request({**packages, name: packages["site-01"]}))


def test_shares_are_taken_in_once_for_the_whole_session(five: Any) -> None:
    masked = five.session(sums=3).begin(0, five.quantities, request=five.request)
    packages = packages_for(five, masked)
    ask(five, mask_request(packages))
    fewer = {name: packages[name] for name in ("site-01", "site-02", "site-03")}
    with pytest.raises(SecureSumError, match="received other shares before; they are fixed for the session"):
        ask(five, mask_request(fewer, number=1))
    ask(five, mask_request(packages, number=1))
    ask(five, mask_request({}, number=2))


def test_a_sum_is_masked_once_and_never_one_that_was_passed(five: Any) -> None:
    """Two vectors under the same masks would show their difference."""
    masked = five.session(sums=3).begin(0, five.quantities, request=five.request)
    packages = packages_for(five, masked)
    ask(five, mask_request(packages, number=1))
    for number in (0, 1, 3, 63):
        with pytest.raises(SecureSumError, match=f"has answered or passed sum {number}; ask for the next"):
            ask(five, mask_request(packages, number=number))
    ask(five, mask_request(packages, number=2))


def test_legs_in_the_wrong_order_are_refused(five: Any) -> None:
    site = five.site(ME)
    with pytest.raises(SecureSumError, match="has no session 1 in progress"):
        site.shares(shares_request([]))
    found = advertise(five)
    with pytest.raises(SecureSumError, match="has not dealt its shares; ask for shares first"):
        ask(five, mask_request({}))
    site.shares(shares_request(found.values()))
    with pytest.raises(SecureSumError, match="sum 0 is not in progress at site 'site-00'"):
        site.consent(ConsentRequest(session=1, sum=0, survivors=five.names).encode())
    with pytest.raises(SecureSumError, match="sum 0 is not in progress at site 'site-00'"):
        site.unmask(UnmaskRequest(session=1, sum=0, consents=[]).encode())
    with pytest.raises(SecureSumError, match="has no session 2 in progress"):
        ask(five, mask_request({}, session=2))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"loss": np.array(np.nan)}, "'loss' holds values that are not finite"),
        ({"loss": np.array(np.inf)}, "'loss' holds values that are not finite"),
        ({"head": np.full((3, 4), 8.1)}, "'head' ranges over 8.1 to 8.1; -8 to 8 was declared"),
        ({"head": np.zeros((4, 3))}, r"'head' has shape \(4, 3\)"),
        ({"cases": np.array([0.5, 1, 2])}, "'cases' has type float64; a count was declared"),
        ({"more": np.zeros(1)}, "arrays sent and arrays declared differ in: more"),
    ],
)
def test_what_was_not_declared_never_leaves_and_may_be_mended(five: Any, arrays: Any, reason: str) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    with pytest.raises(DoorError, match=reason):
        ask(five, masked.mask_request(ME), **arrays)
    ask(five, masked.mask_request(ME))


def test_the_request_is_named_by_32_bytes(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    with pytest.raises(SecureSumError, match="the statement cannot be made: 'request'"):
        five.mask(masked, ME, request=b"short")


# Leg 4


@pytest.mark.parametrize(
    ("survivors", "reason"),
    [
        (["site-00", "site-01", "site-02"], "3 of 5 sites survived; a secure sum needs 4"),
        (["site-01", "site-02", "site-03", "site-04"], "leaves out site 'site-00'"),
        (["site-00", "site-01", "site-02", "eve"], "not sorted"),
        (["eve", "site-00", "site-01", "site-02"], "the survivor list names 'eve', which shared no secrets"),
        (["site-00", "site-00", "site-01", "site-02"], "names a site twice"),
        ([], "0 of 5 sites survived"),
    ],
)
def test_a_survivor_list_that_cannot_be_is_refused(five: Any, survivors: list[str], reason: str) -> None:
    five.contribute(five.session())
    request = ConsentRequest(session=1, sum=0, survivors=survivors).encode()
    with pytest.raises(SecureSumError, match=reason):
        five.site(ME).consent(request)


def test_consent_is_given_once(five: Any) -> None:
    masked = five.contribute(five.session())
    five.site(ME).consent(masked.consent_request())
    for survivors in (five.names, five.names[:4]):
        with pytest.raises(SecureSumError, match="site 'site-00' has consented to sum 0 already"):
            five.site(ME).consent(ConsentRequest(session=1, sum=0, survivors=survivors).encode())


def test_two_consents_at_once_do_not_both_succeed(five: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading the state and writing it, another thread or process gets its chance."""
    five.contribute(five.session())
    load = Keystore.load

    def slow(store: Keystore) -> Any:
        found = load(store)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(Keystore, "load", slow)
    lists = [five.names, five.names[:4]] * 3
    given: list[Consent] = []

    def ask_for(survivors: list[str]) -> None:
        request = ConsentRequest(session=1, sum=0, survivors=survivors).encode()
        with contextlib.suppress(SecureSumError):
            given.append(Consent.decode(five.site(ME).consent(request)))

    threads = [threading.Thread(target=ask_for, args=(survivors,)) for survivors in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 1


# Leg 5


def consents(sites: Any, lists: dict[str, list[str]]) -> list[Consent]:
    """Each site's consent to the survivor list it is shown."""
    return [
        Consent.decode(
            sites.site(name).consent(ConsentRequest(session=1, sum=0, survivors=survivors).encode())
        )
        for name, survivors in lists.items()
    ]


def unmask_request(found: list[Consent]) -> str:
    return UnmaskRequest(session=1, sum=0, consents=found).encode()


def test_survivor_lists_that_differ_between_sites_unmask_nothing(five: Any) -> None:
    five.contribute(five.session())
    everyone, fewer = five.names, five.names[:4]
    found = consents(five, {ME: everyone, "site-01": everyone, "site-02": fewer, "site-03": fewer})
    with pytest.raises(SecureSumError, match="sites do not agree: 'site-02' was shown another survivor list"):
        five.site(ME).unmask(unmask_request(found))
    with pytest.raises(SecureSumError, match="sites do not agree: 'site-00' was shown another survivor list"):
        five.site("site-02").unmask(unmask_request(found))


def test_requests_that_differ_between_sites_unmask_nothing(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    for name in five.names:
        five.mask(masked, name, request=bytes(32) if name == OTHER else None)
    found = consents(five, dict.fromkeys(five.names, five.names))
    with pytest.raises(SecureSumError, match=f"sites do not agree: '{OTHER}' answered another request"):
        five.site(ME).unmask(unmask_request(found))


@pytest.mark.parametrize("asked", ["request", "quantities"])
def test_a_site_that_was_asked_something_else_stays_hidden_though_all_others_unmask(
    five: Any, asked: str
) -> None:
    """Its consent is not needed. The others' shares give its own mask, not those it has with each of them."""
    masked = five.session().begin(0, five.quantities, request=five.request)
    for name in five.names:
        given = {"quantities": five.quantities, "request": five.request}
        if name == OTHER and asked == "request":
            given["request"] = bytes(32)
        elif name == OTHER:
            given["quantities"] = {**five.quantities, "cases": count(3, behind="sum")}
            given["quantities"]["loss"] = replace(five.quantities["loss"], low=-101)
        text, lanes = five.site(name).mask(masked.mask_request(name), five.arrays(name), **given)
        masked.add(text, lanes, site=name)
    five.agree(masked, without=[OTHER])
    five.unmask(masked)
    with pytest.raises(SecureSumError, match="is out of the range that 5 sites can reach"):
        masked.total()


def test_shares_that_reached_only_some_sites_unmask_nothing(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    for name in five.names[:4]:
        packages = packages_for(five, masked, name)
        if name == ME:
            del packages["site-04"]
        ask(five, mask_request(packages), name)
    found = consents(five, dict.fromkeys(five.names[:4], five.names[:4]))
    with pytest.raises(
        SecureSumError, match="sites do not agree: 'site-00' received shares from other sites"
    ):
        five.site("site-01").unmask(unmask_request(found))


def test_declarations_that_differ_between_sites_unmask_nothing(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    for name in five.names:
        declared = dict(five.quantities)
        if name == OTHER:
            declared = {("heads" if key == "head" else key): value for key, value in declared.items()}
        arrays = dict(zip(declared, five.arrays(name).values(), strict=True))
        five.site(name).mask(masked.mask_request(name), arrays, quantities=declared, request=five.request)
    found = consents(five, dict.fromkeys(five.names, five.names))
    with pytest.raises(SecureSumError, match=f"sites do not agree: '{OTHER}' declares other quantities"):
        five.site(ME).unmask(unmask_request(found))


def test_consents_must_be_enough_distinct_valid_and_of_survivors(five: Any) -> None:
    masked = five.contribute(five.session(), without=["site-04"])
    masked.consent_request()
    found = consents(five, dict.fromkeys(masked.survivors, masked.survivors))
    forged = signed_by(found[1], Ed25519PrivateKey.generate())
    renamed = found[1].model_copy(update={"site": "site-02"})
    outsider = key_of(five, "site-04").sign(found[1].model_copy(update={"site": "site-04"}))
    other = found[1].statement.model_copy(update={"session": 9})
    replayed = key_of(five, "site-01").sign(found[1].model_copy(update={"statement": other}))
    wrong = [
        ([found[0], forged, *found[2:]], "the signature on the consent of site 'site-01' is not valid"),
        ([found[0], renamed, found[3]], "the signature on the consent of site 'site-02' is not valid"),
        ([*found, outsider], "site 'site-04' consents to a sum it is not a survivor of"),
        ([*found, found[0]], "the consent of site 'site-00' is there twice"),
        ([found[0], replayed, *found[2:]], "'site-01' speaks of another session"),
        (found[:3], "3 of 5 sites consented; a secure sum needs 4"),
        ([], "0 of 5 sites consented"),
    ]
    for given, reason in wrong:
        with pytest.raises(SecureSumError, match=reason):
            five.site(ME).unmask(unmask_request(given))
    five.site(ME).unmask(unmask_request(found))


def test_unmasking_is_done_once_and_never_gives_both_shares_of_a_site(five: Any) -> None:
    masked = five.contribute(five.session(), without=["site-04"])
    five.agree(masked)
    reply = UnmaskReply.decode(five.site(ME).unmask(masked.unmask_request()))
    assert sorted(reply.seeds) == five.names[:4]
    assert sorted(reply.pairs) == ["site-04"]
    for text in (masked.unmask_request(), unmask_request([])):
        with pytest.raises(SecureSumError, match="has no session 1 in progress: it is finished"):
            five.site(ME).unmask(text)


def test_an_unmasked_sum_of_a_batch_is_not_unmasked_again(five: Any) -> None:
    masked = five.contribute(five.session(sums=2), without=["site-04"])
    five.agree(masked)
    five.site(ME).unmask(masked.unmask_request())
    with pytest.raises(SecureSumError, match="sum 0 is not in progress at site 'site-00'"):
        five.site(ME).unmask(masked.unmask_request())
    with pytest.raises(SecureSumError, match="sum 0 is not in progress"):
        five.site(ME).consent(ConsentRequest(session=1, sum=0, survivors=five.names).encode())


def test_a_split_coordinator_learns_at_most_one_list_with_colluders_below_the_bound(
    federate: Callable[[int], Any],
) -> None:
    """n = 7, t = 5: two colluders (2t - n - 1) sign whatever is asked; a victim is in list A and not in B."""
    sites = federate(7)
    names = sites.names
    honest, colluders = names[:5], names[5:]
    lists = {"A": names, "B": names[1:]}
    ever = set()
    for split in range(1, 6):
        sites.contribute(sites.session(number=split))
        shown = {name: ("A" if i < split else "B") for i, name in enumerate(honest)}
        answered = set()
        given: dict[str, list[Consent]] = {"A": [], "B": []}
        for name, which in shown.items():
            request = ConsentRequest(session=split, sum=0, survivors=lists[which]).encode()
            given[which].append(Consent.decode(sites.site(name).consent(request)))
        for which in ("A", "B"):
            for name in colluders if given[which] else []:
                statement = given[which][0].statement
                draft = Consent(site=name, statement=statement, signature=bytes(64))
                given[which].append(key_of(sites, name).sign(draft))
        for name, which in shown.items():
            text = UnmaskRequest(session=split, sum=0, consents=given[which]).encode()
            with contextlib.suppress(SecureSumError):
                sites.site(name).unmask(text)
                answered.add(which)
        assert len(answered) <= 1
        ever |= answered
    assert ever == {"A", "B"}, "three honest sites and two colluders are enough for one list"


# What stays on disk


def test_secrets_are_erased_as_soon_as_they_are_not_needed(five: Any) -> None:
    session = five.session(sums=3)
    state = key_of(five, ME).load()
    own = [secret for pending in state.sums for secret in (pending.seed, pending.pair)]
    assert len(set(own)) == 6
    assert len(state.channel) == 32

    masked = five.contribute(session, 0)
    state = key_of(five, ME).load()
    assert (state.channel, state.sums[0].seed, state.sums[0].pair) == (b"", b"", b"")
    assert state.sums[1].seed == own[2]

    five.agree(masked)
    five.unmask(masked)
    state = key_of(five, ME).load()
    assert state.sums[0] is None
    assert state.current is None

    five.contribute(session, 2)
    state = key_of(five, ME).load()
    assert state.sums[:2] == [None, None], "sum 1 was passed"

    five.site(ME).abandon()
    assert key_of(five, ME).load() is None


def test_a_new_session_ends_the_one_before(five: Any) -> None:
    masked = five.contribute(five.session())
    five.session(number=2)
    with pytest.raises(SecureSumError, match="has no session 1 in progress: it is finished, was abandoned"):
        five.site(ME).consent(masked.consent_request())


def test_a_roster_pinned_anew_ends_the_session(five: Any) -> None:
    site = five.site(ME)
    masked = five.contribute(five.session())
    grown = Roster.build(sites={**five.roster.sites, "late": bytes(32)})
    key_of(five, ME).pin(grown, replace=True)
    with pytest.raises(SecureSumError, match="the roster pinned at site 'site-00' was changed"):
        site.consent(masked.consent_request())
    with pytest.raises(SecureSumError, match="has no session 1 in progress"):
        five.site(ME).consent(masked.consent_request())
    with pytest.raises(SecureSumError, match="the coordinator has another roster than site 'site-00'"):
        five.site(ME).keys(keys_request(five, 2))


def test_a_request_that_is_summed_once_is_unmasked_for_the_same_sites_again_and_for_no_others(
    five: Any,
) -> None:
    def total(number: int, *, without: str = "", request: bytes = bytes(32)) -> Any:
        session = five.session(number=number)
        masked = session.begin(0, five.quantities, request=request)
        for name in session.sharers:
            if name != without:
                asked, arrays = masked.mask_request(name), five.arrays(name)
                given = {"quantities": five.quantities, "request": request, "once": True}
                text, lanes = five.site(name).mask(asked, arrays, **given)
                masked.add(text, lanes, site=name)
        five.agree(masked)
        five.unmask(masked)
        return masked.total()

    first = total(1)
    with pytest.raises(SecureSumError, match="were summed before over other sites"):
        total(2, without=OTHER)
    np.testing.assert_array_equal(total(3)["gram"], first["gram"])
    total(4, without=OTHER, request=bytes(31) + b"1")
    with pytest.raises(SecureSumError, match="were summed before over other sites"):
        total(5, request=bytes(31) + b"1")


def test_consent_that_was_never_followed_by_unmasking_binds_to_no_sites(five: Any) -> None:
    """Nothing was revealed, so what is asked again may be summed over who is left."""
    for number, without in ((1, ""), (2, OTHER)):
        session = five.session(number=number)
        masked = session.begin(0, five.quantities, request=five.request)
        for name in session.sharers:
            if name != without:
                given = {"quantities": five.quantities, "request": five.request, "once": True}
                text, lanes = five.site(name).mask(masked.mask_request(name), five.arrays(name), **given)
                masked.add(text, lanes, site=name)
        five.agree(masked)
    five.unmask(masked)
    five.check(masked.total(), [name for name in five.names if name != OTHER])
