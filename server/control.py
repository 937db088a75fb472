"""Asking the coordinator's own server: register sites, start, list and stop runs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from foedus import files, pki
from foedus.errors import RunError
from server.home import Home
from server.roles import Role

BUNDLE = """[project]
name = "foedus"
version = "{version}"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "foedus"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["LICENSE"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
run-folder = ""
"""
"""The app that travels: its name and no code; both sides run their own installed packages."""


@dataclass(frozen=True)
class Bearer:
    """Adds a role's token to every call."""

    token: str

    def intercept(self, context: Any, call_next: Any) -> httpx.Response:
        """See Flower's ProtobufClientInterceptor."""
        context.request.headers["Authorization"] = f"Bearer {self.token}"
        answered: httpx.Response = call_next(context)
        return answered


class Control:
    """The private side of a coordinator's server, as one role.

    Args:
        home: The coordinator's folder.
        role: Whose token is shown.
    """

    def __init__(self, home: Home, *, role: Role = "coordinator") -> None:
        self.home = home
        self._client = ControlHttpClient.from_server_address(
            server_address=home.control_address,
            insecure=False,
            root_certificates=(home.pki / pki.CA_CERTIFICATE).read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), Bearer(home.token(role))],
        )

    def start(self, run_folder: Path, *, version: str) -> int:
        """Submit a run; returns Flower's number of it."""
        bundle = _bundle(self.home.folder / "bundle", version=version)
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab),
            override_config=user_config_to_proto({"run-folder": str(run_folder.resolve())}),
        )
        return int(self._ask(self._client.StartRun, request).run_id)

    def stop(self, number: int) -> None:
        """Stop a run."""
        self._ask(self._client.StopRun, StopRunRequest(run_id=number))

    def runs(self) -> dict[int, tuple[str, str]]:
        """Number of each run to its status ("running", "finished:completed", ...) and its details."""
        found = self._ask(self._client.ListRuns, ListRunsRequest()).run_dict
        return {
            int(number): (
                ":".join(part for part in (run.status.status, run.status.sub_status) if part),
                str(run.status.details),
            )
            for number, run in found.items()
        }

    def nodes(self) -> dict[bytes, tuple[int, str]]:
        """Public key of each registered node to its id and status."""
        found = self._ask(self._client.ListNodes, ListNodesRequest()).nodes_info
        return {bytes(node.public_key): (int(node.node_id), str(node.status)) for node in found}

    def register(self, public_key: bytes, *, name: str) -> int:
        """Let a node in; returns its id."""
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self._ask(self._client.RegisterNode, request).node_id)

    def unregister(self, node: int) -> None:
        """Shut a node out."""
        self._ask(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node))

    def _ask(self, call: Any, request: Any) -> Any:
        try:
            return call(request)
        except httpx.HTTPStatusError as error:
            raise RunError(f"the coordinator's server refused: {error.response.text[:200]}") from None
        except httpx.HTTPError as error:
            raise RunError(
                f"the coordinator's server does not answer at {self.home.control_address} ({type(error).__name__}); "
                "start it with foedus coordinator up"
            ) from None


def key_bytes(openssh: str) -> bytes:
    """A node's public key as Flower keeps it: PEM."""
    key = load_ssh_public_key(openssh.encode())
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _bundle(folder: Path, *, version: str) -> bytes:
    files.write_bytes(folder / "pyproject.toml", BUNDLE.format(version=version).encode())
    files.write_bytes(folder / "LICENSE", b"See the installed package.\n")
    found: bytes = build_fab_from_disk(folder)
    return found
