"""Decoders: one spelling of each message, exact sizes, and a SecureSumError for anything else."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from foedus.errors import DoorError, SecureSumError
from foedus.secure import wire
from foedus.secure.coordinator import SumSession
from foedus.secure.keystore import Keystore
from foedus.secure.lanes import Layout
from foedus.secure.roster import Roster, SignedRoster
from foedus.secure.state import State

KINDS: list[type[wire.Message]] = [
    wire.KeysRequest,
    wire.Advertisement,
    wire.SharesRequest,
    wire.SharesReply,
    wire.MaskRequest,
    wire.MaskReply,
    wire.ConsentRequest,
    wire.Statement,
    wire.Consent,
    wire.UnmaskRequest,
    wire.UnmaskReply,
    Roster,
    SignedRoster,
    State,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def spoken(federate: Callable[[int], Any]) -> tuple[Any, list[tuple[type[wire.Message], str]]]:
    """Every message of a sum of four sites in which one drops, left before its last leg at site-00."""
    sites = federate(4)
    session = SumSession(sites.roster, session=1, sums=1)
    found: list[tuple[type[wire.Message], str]] = [(wire.KeysRequest, session.keys_request())]
    for name in sites.names:
        found.append((wire.Advertisement, sites.site(name).keys(session.keys_request())))
        session.add_keys(found[-1][1])
    found.append((wire.SharesRequest, session.shares_request()))
    for name in sites.names:
        found.append((wire.SharesReply, sites.site(name).shares(session.shares_request())))
        session.add_shares(found[-1][1], site=name)
    found.append((Roster, sites.roster.encode()))
    masked = session.begin(0, sites.quantities, request=sites.request)
    found.append((wire.MaskRequest, masked.mask_request("site-00")))
    for name in sites.names[:3]:
        text, lanes = sites.mask(masked, name)
        masked.add(text, lanes, site=name)
        found.append((wire.MaskReply, _with_zeros(sites, name, text)))
    found.append((wire.ConsentRequest, masked.consent_request()))
    sites.agree(masked)
    found.append((wire.UnmaskRequest, masked.unmask_request()))
    found.append((wire.Consent, wire.UnmaskRequest.decode(masked.unmask_request()).consents[0].encode()))
    found.append((wire.UnmaskReply, sites.site("site-01").unmask(masked.unmask_request())))
    return sites, found


def _with_zeros(sites: Any, name: str, text: str) -> str:
    """A site's word on its contribution, as if that were zeros: here no test keeps the vectors."""
    zeros = Layout(sites.quantities, len(sites.names)).empty().digest()
    draft = wire.MaskReply.decode(text).model_copy(update={"lanes": zeros})
    return Keystore(sites.folder / name).sign(draft).encode()


def accepts(kind: type[wire.Message], text: str | bytes) -> None:
    """A decoder refuses with a DoorError of one line, or reads a message that is written as it came."""
    message, reason = None, ""
    try:
        message = kind.decode(text)
    except DoorError as error:
        reason = str(error)
    assert message is not None or 0 < len(reason) < 400
    assert "\n" not in reason
    assert message is None or message.encode() == (text.decode() if isinstance(text, bytes) else text)


@many
@given(st.sampled_from(KINDS), st.text() | st.binary() | JSON.map(json.dumps))
def test_anything_is_refused_with_one_sentence(kind: type[wire.Message], text: str | bytes) -> None:
    with pytest.raises(SecureSumError, match=f"the {kind.title} is malformed"):
        kind.decode(text)


@pytest.mark.parametrize(
    "text", ["[" * 10**6, "9" * 10**5, '{"a":' * 10**5, "\ud800", b"\xff", "", b"\x00", "NaN"]
)
def test_hostile_texts_are_refused(text: str | bytes) -> None:
    for kind in KINDS:
        with pytest.raises(SecureSumError, match=f"the {kind.title} is malformed"):
            kind.decode(text)


def test_a_text_beyond_the_limit_is_not_read() -> None:
    with pytest.raises(
        SecureSumError, match="the roster is longer than 67108864 characters; it was refused unread"
    ):
        Roster.decode("[" * (wire.MAX_TEXT + 1))


@many
@given(st.data())
def test_a_valid_message_with_altered_characters(spoken: Any, data: st.DataObject) -> None:
    kind, text = data.draw(st.sampled_from(spoken[1]))
    at = data.draw(st.integers(0, len(text) - 1))
    until = data.draw(st.integers(at, min(at + 5, len(text))))
    accepts(kind, text[:at] + data.draw(st.text(max_size=4)) + text[until:])
    accepts(kind, text[:at])


def alter(value: Any, data: st.DataObject) -> Any:
    """A JSON value in which one part, somewhere, is another."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value)))
        change = data.draw(st.sampled_from(["inside", "drop", "rename"]))
        rest = {k: v for k, v in value.items() if k != key}
        if change == "drop":
            return rest
        if change == "rename":
            return {**rest, data.draw(st.text(max_size=5)): value[key]}
        return {**rest, key: alter(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], alter(value[at], data), *value[at + 1 :]]
    return data.draw(JSON)


@many
@given(st.data())
def test_a_valid_message_with_altered_parts(spoken: Any, data: st.DataObject) -> None:
    kind, text = data.draw(st.sampled_from(spoken[1]))
    altered = json.dumps(alter(json.loads(text), data), sort_keys=True, separators=(",", ":"))
    accepts(kind, altered)


@many
@given(st.data())
def test_a_site_answers_altered_requests_with_nothing_but_door_errors(
    spoken: Any, data: st.DataObject
) -> None:
    """The site is ready to unmask; whatever arrives, it refuses or stays as strict as before."""
    sites, messages = spoken
    _, text = data.draw(st.sampled_from(messages))
    altered = json.dumps(alter(json.loads(text), data), sort_keys=True, separators=(",", ":"))
    assume(altered != text)
    site = sites.site("site-00")
    options = {"quantities": sites.quantities, "request": sites.request}
    for leg in (site.shares, site.consent, site.unmask):
        with pytest.raises(DoorError):
            leg(altered)
    with pytest.raises(DoorError):
        site.mask(altered, sites.arrays("site-00"), **options)


@many
@given(st.data())
def test_the_coordinator_meets_altered_replies_with_nothing_but_door_errors(
    spoken: Any, data: st.DataObject
) -> None:
    sites, messages = spoken
    _, text = data.draw(st.sampled_from(messages))
    altered = json.dumps(alter(json.loads(text), data), sort_keys=True, separators=(",", ":"))
    session = SumSession(sites.roster, session=1, sums=1)
    advertised = [text for kind, text in messages if kind is wire.Advertisement]
    for found in (*advertised, altered):
        with contextlib.suppress(DoorError):
            session.add_keys(found)
    session.shares_request()
    shared = [text for kind, text in messages if kind is wire.SharesReply]
    for name, found in (*zip(sites.names, shared, strict=True), ("site-00", altered)):
        with contextlib.suppress(DoorError):
            session.add_shares(found, site=name)
    masked = session.begin(0, sites.quantities, request=sites.request)
    layout = Layout(sites.quantities, 4)
    for text, name in ((altered, "site-03"), *((spoken_text(messages, i), sites.names[i]) for i in range(3))):
        with contextlib.suppress(DoorError):
            masked.add(text, layout.empty(), site=name)
    masked.consent_request()
    for take in (masked.add_consent, masked.add_unmask):
        with contextlib.suppress(DoorError):
            take(altered, site="site-01")
    with pytest.raises(SecureSumError, match=r"[01] of 4 sites unmasked; a secure sum needs 3"):
        masked.total()


def spoken_text(messages: list[tuple[type[wire.Message], str]], index: int) -> str:
    """The contribution of one site."""
    return [text for kind, text in messages if kind is wire.MaskReply][index]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace(":", ": ", 1),
        lambda t: " " + t,
        lambda t: t + "\n",
        lambda t: "{" + '"session":1,' + t[1:],
        lambda t: t.replace('"session":1', '"session":1.0'),
        lambda t: t.replace('"session":1', '"session":true'),
        lambda t: t.replace('"session":1', '"session":"1"'),
        lambda t: t.replace('"session":1', '"session":0'),
        lambda t: t.replace('"session":1', '"session":9007199254740992'),
        lambda t: t.replace('"sums":1', '"sums":65'),
        lambda t: t.replace("=", "", 1),
        lambda t: t.replace('="', '"', 1),
        lambda t: json.dumps(json.loads(t)),
        lambda t: json.dumps(dict(reversed(json.loads(t).items())), separators=(",", ":")),
    ],
)
def test_a_message_has_one_spelling(spoken: Any, change: Callable[[str], str]) -> None:
    kind, text = spoken[1][0]
    assert kind.decode(text) == kind.decode(text.encode())
    assert change(text) != text
    with pytest.raises(SecureSumError, match="the request for keys is malformed"):
        kind.decode(change(text))


def test_unused_bits_of_base64_are_refused(spoken: Any) -> None:
    """32 bytes leave four bits of the last character unused."""
    kind, text = spoken[1][0]
    at = text.index("=") - 1
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = alphabet[alphabet.index(text[at]) ^ 1]
    with pytest.raises(SecureSumError, match="the request for keys is malformed"):
        kind.decode(text[:at] + other + text[at + 1 :])


def test_a_reason_never_repeats_what_was_sent() -> None:
    for text in ('{"secret-name":1}', '{"session":"secret-value"}', '{"survivors":["secret value"]}'):
        with pytest.raises(SecureSumError) as caught:
            wire.ConsentRequest.decode(text)
        assert "secret" not in str(caught.value)


def test_signatures_of_one_kind_do_not_serve_another(spoken: Any) -> None:
    """The label comes first, ended by a byte that no label holds."""
    labels = [kind.label for kind in (wire.Advertisement, wire.Consent, SignedRoster)]
    assert len(set(labels)) == 3
    advertisement = wire.Advertisement.decode(spoken[1][1][1])
    assert advertisement.signed_bytes().startswith(b"foedus/secure-sum/1/advertisement\0{")
    assert b"signature" not in advertisement.signed_bytes()
