"""The messages of the secure sum: canonical JSON, exact sizes, nothing unknown.

A message is accepted only if encoding it again gives the same text, so there is one way to
write it: no repeated keys, no spaces, no second spelling of the same bytes.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from foedus.config import Section
from foedus.errors import SecureSumError
from foedus.study import NAME

MAX_SITES = 1000
MAX_SUMS = 64
MAX_SESSION = 2**53 - 1
MAX_TEXT = 2**26
SHARE_BYTES = 66
DOMAIN = "foedus/secure-sum/1"

Bytes32 = Annotated[bytes, Field(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, Field(min_length=64, max_length=64)]
Share = Annotated[bytes, Field(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Package = Annotated[bytes, Field(min_length=28 + 2 * SHARE_BYTES, max_length=28 + 2 * SHARE_BYTES * MAX_SUMS)]
Name = Annotated[str, Field(pattern=NAME)]
SessionNumber = Annotated[int, Field(ge=1, le=MAX_SESSION)]
SumNumber = Annotated[int, Field(ge=0, lt=MAX_SUMS)]
SumCount = Annotated[int, Field(ge=1, le=MAX_SUMS)]
Words = Annotated[int, Field(ge=0, le=2**32)]
Names = Annotated[list[Name], Field(max_length=MAX_SITES)]


def canonical(value: Any) -> bytes:
    """The one encoding of plain JSON values: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(label: str, value: Any) -> bytes:
    """32 bytes that stand for plain JSON values, never equal under two labels."""
    return hashlib.sha256(f"{DOMAIN}/{label}\0".encode() + canonical(value)).digest()


class Message(Section):
    """Base of everything here that is sent or kept; `title` names it in errors."""

    model_config = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
    title: ClassVar[str] = "message"

    def encode(self) -> str:
        """Canonical JSON; bytes in URL-safe base64."""
        return canonical(self.model_dump(mode="json")).decode("ascii")

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """The message in `text`.

        Raises:
            SecureSumError: If it is not exactly one such message, naming the first bad field.
        """
        if len(text) > MAX_TEXT:
            raise SecureSumError(
                f"the {cls.title} is longer than {MAX_TEXT} characters; it was refused unread"
            )
        try:
            message = cls.model_validate_json(text)
            same = message.encode() == (text.decode("ascii") if isinstance(text, bytes) else text)
        except ValidationError as error:
            raise SecureSumError(f"the {cls.title} is malformed: {cls._problem(error)}") from None
        except ValueError:  # text that is not Unicode or not ASCII
            same = False
        if not same:
            raise SecureSumError(f"the {cls.title} is malformed: it is not in canonical form")
        return message

    @classmethod
    def build(cls, **fields: Any) -> Self:
        """A message from fields that were not checked yet.

        Raises:
            SecureSumError: Naming the first bad field.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise SecureSumError(f"the {cls.title} cannot be made: {cls._problem(error)}") from None

    @classmethod
    def _problem(cls, error: ValidationError) -> str:
        """The first problem; never the value or a key its sender chose."""
        detail = error.errors(include_url=False, include_input=False)[0]
        known = [part for part in detail["loc"][:1] if part in cls.model_fields]
        reason = detail["msg"].removeprefix("Value error, ")
        return f"'{known[0]}': {reason}" if known else reason


class Signed(Message):
    """A message its sender signs; the label keeps signatures of one kind from serving as another."""

    label: ClassVar[str]
    signature: Bytes64

    def signed_bytes(self) -> bytes:
        """What the signature covers: the label and every other field."""
        content = canonical(self.model_dump(mode="json", exclude={"signature"}))
        return f"{DOMAIN}/{self.label}\0".encode() + content


class KeysRequest(Message):
    """Leg 1, coordinator to site: begin a session of `sums` independent sums."""

    title: ClassVar[str] = "request for keys"
    session: SessionNumber
    roster: Bytes32
    sums: SumCount
    threshold: Annotated[int, Field(ge=1, le=MAX_SITES)]


class Advertisement(Signed):
    """Leg 1, site to coordinator: a fresh channel key, and a fresh pair key for each sum.

    `checks[k]` commits to the site's self-mask seed of sum k, so that a wrong share is noticed.
    """

    title: ClassVar[str] = "advertisement"
    label: ClassVar[str] = "advertisement"
    site: Name
    session: SessionNumber
    roster: Bytes32
    sums: SumCount
    threshold: Annotated[int, Field(ge=1, le=MAX_SITES)]
    channel: Bytes32
    pairs: list[Bytes32]
    checks: list[Bytes32]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if not len(self.pairs) == len(self.checks) == self.sums:
            raise ValueError(f"it must hold a pair key and a check for each of its {self.sums} sums")
        return self


class SharesRequest(Message):
    """Leg 2, coordinator to site: everyone's advertisements."""

    title: ClassVar[str] = "request for shares"
    session: SessionNumber
    advertisements: Annotated[list[Advertisement], Field(max_length=MAX_SITES)]


class SharesReply(Message):
    """Leg 2, site to coordinator: one encrypted package for every other site."""

    title: ClassVar[str] = "reply with shares"
    session: SessionNumber
    site: Name
    packages: dict[Name, Package]


class MaskRequest(Message):
    """Leg 3, coordinator to site: answer sum `sum`; the packages addressed to this site by sender."""

    title: ClassVar[str] = "request for a masked contribution"
    session: SessionNumber
    sum: SumNumber
    packages: dict[Name, Package]


class MaskReply(Signed):
    """Leg 3, site to coordinator, beside the two masked vectors; `lanes` is `Lanes.digest` of them."""

    title: ClassVar[str] = "masked contribution"
    label: ClassVar[str] = "masked"
    session: SessionNumber
    sum: SumNumber
    site: Name
    narrow: Words
    wide: Words
    lanes: Bytes32


class ConsentRequest(Message):
    """Leg 4, coordinator to site: whose contributions arrived, sorted."""

    title: ClassVar[str] = "request for consent"
    session: SessionNumber
    sum: SumNumber
    survivors: Names


class Statement(Message):
    """What every surviving site signs alike before anything is unmasked."""

    title: ClassVar[str] = "statement"
    session: SessionNumber
    sum: SumNumber
    roster: Bytes32
    sharers: Bytes32
    survivors: Bytes32
    request: Bytes32
    layout: Bytes32
    narrow: Words
    wide: Words

    @property
    def asked(self) -> bytes:
        """64 bytes that stand for what was asked and how it is answered; the pairs' masks hang on them."""
        return self.request + self.layout


class Consent(Signed):
    """Leg 4, site to coordinator: the statement as this site sees it."""

    title: ClassVar[str] = "consent"
    label: ClassVar[str] = "consent"
    site: Name
    statement: Statement


class UnmaskRequest(Message):
    """Leg 5, coordinator to site: the consents of the others."""

    title: ClassVar[str] = "request to unmask"
    session: SessionNumber
    sum: SumNumber
    consents: Annotated[list[Consent], Field(max_length=MAX_SITES)]


class UnmaskReply(Message):
    """Leg 5, site to coordinator: seed shares of survivors, pair-key shares of the others."""

    title: ClassVar[str] = "reply to unmask"
    session: SessionNumber
    sum: SumNumber
    site: Name
    seeds: dict[Name, Share]
    pairs: dict[Name, Share]
