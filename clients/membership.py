"""A site joins a federation: its own keys, the request it sends, the kit it accepts."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import flwr

from foedus import __version__, files, pki
from foedus.door import KEYS_FOLDER
from foedus.enrolment import Kit, Request
from foedus.errors import ConfigError, DoorError
from foedus.secure.keystore import Keystore
from foedus.site import load_site

FOLDER = ".foedus/node"
"""Below the site's folder: its key for signing in, the authority's certificate, the kit."""
SITE_KEY = "site-folder"
"""Node configuration: the folder with this site's site.toml."""
KIT, AUTHORITY, SECRET, STATUS = "kit.json", "ca.crt", "executor.secret", "status.json"
EGRESS = "egress.jsonl"
"""In the node's folder: every reply that was looked at."""
LOCAL = "local"
"""In that folder: certificates of the site's own two processes for each other, made anew at each start."""


@dataclass(frozen=True)
class Membership:
    """One site's side of a federation.

    Attributes:
        folder: The site's folder, with its site.toml.
    """

    folder: Path

    @property
    def node(self) -> Path:
        """Keys, certificate and kit; readable by their owner only."""
        return self.folder / FOLDER

    def request(self) -> Request:
        """What the site sends to the coordinator; keys are made once and kept.

        Raises:
            ConfigError: If the site file is not valid.
            SecureSumError: If the keystore can be read by others.
        """
        name = load_site(self.folder).site.name
        self.node.parent.mkdir(mode=0o700, exist_ok=True)
        keystore = Keystore.create(self.folder / KEYS_FOLDER)
        draft = Request.build(
            site=name,
            identity=keystore.public_key,
            node=pki.create_node_key(self.node),
            foedus=__version__,
            flwr=flwr.__version__,
            signature=bytes(64),
        )
        return keystore.sign(draft)

    def join(self, kit: Kit, *, fingerprint: str) -> None:
        """Accept a kit: pin the server's authority and the roster.

        Args:
            kit: As it came.
            fingerprint: As the coordinator's administrator read it out.

        Raises:
            SecureSumError: If the kit was altered.
            DoorError: If it is another one, or answers another request.
        """
        kit.check()
        if _plain(fingerprint) != _plain(kit.fingerprint()):
            raise DoorError(
                f"the kit's fingerprint is {kit.fingerprint()}, not {fingerprint}; it is not the one the coordinator "
                "read out: ask for it again over another channel"
            )
        own = self.request()
        if (kit.site, kit.request) != (own.site, own.fingerprint()):
            raise DoorError(
                f"the kit answers another request (site '{kit.site}'); this is site '{own.site}' with request "
                f"{own.fingerprint()}: send this site's request, and join with the kit that comes back"
            )
        if kit.roster is not None:
            Keystore(self.folder / KEYS_FOLDER).pin(kit.roster, replace=True)
        if not (self.node / SECRET).exists():
            files.write_bytes(self.node / SECRET, secrets.token_bytes(48), mode=0o600)
        files.write_bytes(self.node / AUTHORITY, kit.certificate.encode())
        files.write_bytes(self.node / KIT, kit.encode().encode())

    def kit(self) -> Kit:
        """The kit this site joined with.

        Raises:
            ConfigError: If it has not joined.
        """
        try:
            return Kit.decode((self.node / KIT).read_text())
        except FileNotFoundError:
            problem = "this site has not joined a federation; run foedus site join with the kit from the coordinator"
            raise ConfigError(str(self.folder), [problem]) from None


def _plain(fingerprint: str) -> str:
    """A fingerprint without what people type differently."""
    return fingerprint.replace(" ", "").replace("-", "").lower()
