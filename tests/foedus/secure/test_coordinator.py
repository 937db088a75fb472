"""A coordinator against sites that stray: a reply is refused by name, and the sum goes on without it."""

import secrets
from typing import Any

import numpy as np
import pytest

from foedus.errors import SecureSumError
from foedus.secure import shamir
from foedus.secure.coordinator import SumSession
from foedus.secure.keystore import Keystore
from foedus.secure.lanes import Lanes
from foedus.secure.wire import Advertisement, Consent, MaskReply, SharesReply, UnmaskReply
from foedus.statistic import Quantity

ME, OTHER = "site-00", "site-02"


def unmasked(sites: Any, masked: Any, bend: Any = None) -> None:
    """Legs 4 and 5, in which `bend` may change each site's reply."""
    sites.agree(masked)
    request = masked.unmask_request()
    for name in masked.consenters:
        reply = UnmaskReply.decode(sites.site(name).unmask(request))
        masked.add_unmask((bend(name, reply) if bend else reply).encode(), site=name)


@pytest.mark.parametrize(
    ("session", "sums", "reason"),
    [(0, 1, "'session'"), (2**53, 1, "'session'"), (1, 0, "'sums'"), (1, 65, "'sums'")],
)
def test_numbers_out_of_range_are_refused(five: Any, session: int, sums: int, reason: str) -> None:
    with pytest.raises(SecureSumError, match=f"the request for keys cannot be made: {reason}"):
        SumSession(five.roster, session=session, sums=sums)


def test_an_advertisement_counts_once_and_in_time(five: Any) -> None:
    session = SumSession(five.roster, session=1, sums=1)
    texts = {name: five.site(name).keys(session.keys_request()) for name in five.names}
    for name in five.names[:4]:
        assert session.add_keys(texts[name]) == name
    with pytest.raises(SecureSumError, match="site 'site-00' has advertised already"):
        session.add_keys(texts[ME])
    forged = Advertisement.decode(texts["site-04"]).model_copy(update={"signature": bytes(64)})
    with pytest.raises(
        SecureSumError, match="the signature on the advertisement of site 'site-04' is not valid"
    ):
        session.add_keys(forged.encode())
    session.shares_request()
    with pytest.raises(SecureSumError, match="of site 'site-04' arrived after the others were passed on"):
        session.add_keys(texts["site-04"])


def test_shares_are_for_exactly_the_sites_that_advertised(five: Any) -> None:
    session = SumSession(five.roster, session=1, sums=2)
    for name in five.names[:4]:
        session.add_keys(five.site(name).keys(session.keys_request()))
    with pytest.raises(SecureSumError, match="site 'site-00' sent shares but was not asked for any"):
        session.add_shares(SharesReply(session=1, site=ME, packages={}).encode(), site=ME)
    request = session.shares_request()
    replies = {name: SharesReply.decode(five.site(name).shares(request)) for name in five.names[:4]}
    good = replies[ME]
    packages = good.packages
    short = {**packages, OTHER: packages[OTHER][:-1]}
    wrong = [
        ({"site": OTHER}, ME, "sent shares of 'site-02' in session 1"),
        ({"session": 2}, ME, "sent shares of 'site-00' in session 2"),
        ({"packages": {OTHER: packages[OTHER]}}, ME, "did not send shares for exactly the sites"),
        ({"packages": {**packages, ME: packages[OTHER]}}, ME, "did not send shares for exactly the sites"),
        ({"packages": short}, ME, "the shares of site 'site-00' are not those of 2 sums"),
        ({"site": "site-04"}, "site-04", "sent shares but was not asked for any"),
    ]
    for change, site, reason in wrong:
        with pytest.raises(SecureSumError, match=reason):
            session.add_shares(good.model_copy(update=change).encode(), site=site)
    for name, reply in replies.items():
        session.add_shares(reply.encode(), site=name)
    session.begin(0, five.quantities, request=five.request)
    with pytest.raises(
        SecureSumError, match="the shares of site 'site-00' arrived after the first sum began"
    ):
        session.add_shares(good.encode(), site=ME)


def test_sums_begin_in_order(five: Any) -> None:
    session = five.session(sums=3)
    session.begin(1, five.quantities, request=five.request)
    for number in (0, 1, 3, -1):
        with pytest.raises(
            SecureSumError, match=f"sum {number} was passed or is not one of this session's 3"
        ):
            session.begin(number, five.quantities, request=five.request)
    with pytest.raises(SecureSumError, match="the statement cannot be made: 'request'"):
        session.begin(2, five.quantities, request=b"")
    with pytest.raises(SecureSumError, match="'x' may reach"):
        session.begin(2, {"x": Quantity((1,), high=2.0**60)}, request=five.request)
    session.begin(2, five.quantities, request=five.request)


def test_a_masked_contribution_of_another_size_or_type_is_refused_and_not_added(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    text, lanes = five.mask(masked, ME)
    more = Lanes(np.append(lanes.narrow, np.uint32(0)), lanes.wide)
    lies = MaskReply.decode(text).model_copy(update={"narrow": 3}).encode()
    wrong = [
        (text, Lanes(lanes.narrow[:-1], lanes.wide), "has 17 words of type uint32"),
        (text, more, "has 19 words of type uint32"),
        (text, Lanes(lanes.narrow, lanes.wide[:-1]), "has 6 words of type uint64"),
        (text, Lanes(lanes.narrow.astype(np.uint64), lanes.wide), "has 18 words of type uint64"),
        (text, Lanes(lanes.narrow.astype(np.float32), lanes.wide), "has 18 words of type float32"),
        (text, Lanes(lanes.narrow.reshape(2, 9), lanes.wide), "has 18 words of type uint32"),
        (lies, lanes, "and names 3; 18 words"),
    ]
    for reply, found, reason in wrong:
        with pytest.raises(SecureSumError, match=f"a lane of site 'site-00' {reason}|{reason}"):
            masked.add(reply, found, site=ME)
    masked.add(text, lanes, site=ME)
    with pytest.raises(SecureSumError, match="site 'site-00' has contributed to sum 0 already"):
        masked.add(text, lanes, site=ME)
    for name in five.names[1:]:
        masked.add(*five.mask(masked, name), site=name)
    unmasked(five, masked)
    five.check(masked.total(), five.names)


def test_a_masked_contribution_that_was_altered_on_its_way_is_refused_and_may_come_again(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    text, lanes = five.mask(masked, ME)
    for lane in ("narrow", "wide"):
        bent = Lanes(lanes.narrow.copy(), lanes.wide.copy())
        getattr(bent, lane)[-1] ^= getattr(bent, lane).dtype.type(1)
        with pytest.raises(SecureSumError, match="contribution of site 'site-00' was altered on its way"):
            masked.add(text, bent, site=ME)
    other = Lanes(lanes.narrow + np.uint32(1), lanes.wide)
    forged = MaskReply.decode(text).model_copy(update={"lanes": other.digest()}).encode()
    with pytest.raises(SecureSumError, match="signature on the masked contribution of site 'site-00' is not"):
        masked.add(forged, other, site=ME)
    assert masked.survivors == []
    masked.add(text, lanes, site=ME)
    for name in five.names[1:]:
        masked.add(*five.mask(masked, name), site=name)
    unmasked(five, masked)
    five.check(masked.total(), five.names)


def test_a_reply_for_another_site_session_or_sum_is_refused(five: Any) -> None:
    session = five.session(silent=["site-04"])
    masked = session.begin(0, five.quantities, request=five.request)
    text, lanes = five.mask(masked, ME)
    for change in ({"site": OTHER}, {"session": 2}, {"sum": 1}):
        bent = MaskReply.decode(text).model_copy(update=change).encode()
        with pytest.raises(SecureSumError, match="the masked contribution of site 'site-00' names site"):
            masked.add(bent, lanes, site=ME)
    with pytest.raises(
        SecureSumError, match="site 'site-04' shared no secrets in session 1; it sits this one out"
    ):
        masked.mask_request("site-04")


def test_a_contribution_after_the_survivors_are_named_is_refused(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    late = five.mask(masked, "site-04")
    for name in five.names[:4]:
        masked.add(*five.mask(masked, name), site=name)
    masked.consent_request()
    with pytest.raises(SecureSumError, match="of site 'site-04' arrived after the survivors were named"):
        masked.add(*late, site="site-04")
    unmasked(five, masked)
    five.check(masked.total(), five.names[:4])


def test_a_consent_to_anything_else_is_refused_and_the_sum_goes_on(five: Any) -> None:
    masked = five.contribute(five.session())
    request = masked.consent_request()
    found = {name: Consent.decode(five.site(name).consent(request)) for name in five.names}
    key = Keystore(five.folder / ME)
    other = found[ME].statement.model_copy(update={"request": bytes(32)})
    with pytest.raises(SecureSumError, match="sites do not agree: 'site-00' answered another request"):
        masked.add_consent(key.sign(found[ME].model_copy(update={"statement": other})).encode(), site=ME)
    with pytest.raises(SecureSumError, match="signature on the consent of site 'site-00' is not valid"):
        masked.add_consent(found[ME].model_copy(update={"signature": bytes(64)}).encode(), site=ME)
    with pytest.raises(SecureSumError, match="site 'site-00' answers for 'site-02'"):
        masked.add_consent(found[OTHER].encode(), site=ME)
    for name in five.names[1:]:
        masked.add_consent(found[name].encode(), site=name)
    assert masked.consenters == five.names[1:]
    five.unmask(masked)
    five.check(masked.total(), five.names)


def test_shares_of_the_wrong_sites_are_refused(five: Any) -> None:
    masked = five.contribute(five.session(), without=["site-04"])
    five.agree(masked)
    reply = UnmaskReply.decode(five.site(ME).unmask(masked.unmask_request()))
    share = bytes(66)
    for change in ({"seeds": {}}, {"pairs": {}}, {"seeds": {**reply.seeds, "site-04": share}}):
        with pytest.raises(
            SecureSumError, match="site 'site-00' sent shares of other sites than it was asked for"
        ):
            masked.add_unmask(reply.model_copy(update=change).encode(), site=ME)


@pytest.mark.parametrize("which", ["seeds", "pairs"])
@pytest.mark.parametrize("share", [bytes(66), b"\xff" * 66, (12345).to_bytes(66, "big")])
def test_a_wrong_share_is_noticed_even_when_there_is_none_to_spare(
    five: Any, which: str, share: bytes
) -> None:
    masked = five.contribute(five.session(), without=["site-04"])

    def bend(name: str, reply: UnmaskReply) -> UnmaskReply:
        if name != OTHER:
            return reply
        shares = getattr(reply, which)
        return reply.model_copy(update={which: {**shares, sorted(shares)[0]: share}})

    unmasked(five, masked, bend)
    victim = ME if which == "seeds" else "site-04"
    with pytest.raises(SecureSumError, match=f"the shares of the secrets of site '{victim}' are not sound"):
        masked.total()


def test_a_site_that_deals_another_secret_than_it_advertised_is_named(
    five: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = shamir.split, secrets.token_bytes(32)
    session = SumSession(five.roster, session=1, sums=1)
    for name in five.names:
        session.add_keys(five.site(name).keys(session.keys_request()))
    request = session.shares_request()
    for name in five.names:
        with monkeypatch.context() as patch:
            if name == OTHER:
                patch.setattr(shamir, "split", lambda _, **options: real(other, **options))
            session.add_shares(five.site(name).shares(request), site=name)
    masked = five.contribute(session)
    unmasked(five, masked)
    with pytest.raises(
        SecureSumError, match=f"the self-mask seed of site '{OTHER}' rebuilt from shares is not the"
    ):
        masked.total()


def test_a_site_that_sends_noise_is_noticed_in_the_total(five: Any) -> None:
    masked = five.session().begin(0, five.quantities, request=five.request)
    for name in five.names:
        text, lanes = five.mask(masked, name)
        if name == OTHER:
            lanes = Lanes(lanes.narrow, lanes.wide + np.uint64(2**62))
            draft = MaskReply.decode(text).model_copy(update={"lanes": lanes.digest()})
            text = Keystore(five.folder / name).sign(draft).encode()
        masked.add(text, lanes, site=name)
    unmasked(five, masked)
    for _ in range(2):
        with pytest.raises(
            SecureSumError, match="out of the range that 5 sites can reach; a site sent what it"
        ):
            masked.total()


def test_the_total_may_be_read_twice(five: Any) -> None:
    masked = five.contribute(five.session())
    unmasked(five, masked)
    five.check(masked.total(), five.names)
    five.check(masked.total(), five.names)
