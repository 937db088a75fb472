"""The models a service holds: the audited one, swapped when a newer version is released, and sites' own heads."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from deploy.answering import Answerer, SiteHead
from deploy.bundle import BACKBONE_FILE, COORDINATOR
from deploy.journal import read_gate
from deploy.served import Served
from fairness.registered import Registered
from fairness.signing import PublicKey
from fewshot.adapt import AdaptedHead
from foedus.errors import FewShotError, FoedusError

log = logging.getLogger("foedus.service")
HEAD_SUFFIX = ".safetensors"
LINGER_S = 120.0
"""A version that was replaced answers the requests that had begun for so long."""
OPEN_GATE: dict[str, Any] = {"action": "none", "reasons": []}


@dataclass(frozen=True)
class Model:
    """One name that clients can ask for.

    Attributes:
        name: The study's, or STUDY.NAME for a site's own head.
        version: Of the bundle.
        served: Backbone and bundle.
        answerer: The head.
    """

    name: str
    version: str
    served: Served
    answerer: Answerer


@dataclass
class Models:
    """What is served now.

    Attributes:
        load: Verifies and opens what is current, given the one served; itself if that is still current.
        heads: Folder of sites' own heads (NAME.safetensors), looked at again on every `refresh`; or None.
        journal: Folder that monitoring writes its gate to; or None.
        keys: Public keys of the auditors whose approval of a site's head counts.
    """

    load: Callable[[Served | None], Served]
    heads: Path | None = None
    journal: Path | None = None
    keys: Sequence[PublicKey] = ()
    gate: dict[str, Any] = field(default_factory=lambda: dict(OPEN_GATE))
    problem: str | None = "no model is loaded"
    _served: Served | None = None
    _models: dict[str, Model] = field(default_factory=dict)
    _retired: list[tuple[float, Served]] = field(default_factory=list)
    _seen: dict[str, list[object]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether the audited model may answer now."""
        return self.problem is None and self.gate["action"] != "stop"

    def get(self, name: str, version: str) -> Model:
        """The model of that name, and version if one is given.

        Raises:
            KeyError: Saying what there is.
        """
        found = self._models.get(name)
        if found is None:
            raise KeyError(
                f"there is no model '{name[:60]}'; served: {', '.join(sorted(self._models)) or 'none'}"
            )
        if version not in ("", found.version):
            raise KeyError(f"version {version[:20]} of '{name}' is not served; version {found.version} is")
        return found

    def usable(self, model: Model) -> str | None:
        """Why a model may not answer; None if it may."""
        if self.problem is not None:
            return self.problem
        if model.answerer.audited and self.gate["action"] == "stop":
            return f"monitoring has closed the gate: {'; '.join(self.gate['reasons'])}"
        return None

    def names(self) -> list[str]:
        """Everything that can be asked for."""
        return sorted(self._models)

    def refresh(self) -> None:
        """Look again at the releases, the heads and the gate; a model that no longer holds is not served."""
        try:
            self.open()
        except FoedusError as error:
            if self.problem != str(error):
                log.error("not ready: %s", error)
            self.problem = str(error)

    def open(self) -> None:
        """`refresh`, for the first time.

        Raises:
            FoedusError: If there is nothing to serve, or it does not hold.
        """
        served = self.load(self._served)
        if served is not self._served:
            before, self._served, self._seen = self._served, served, {}
            self._models = {
                served.bundle.name: Model(served.bundle.name, served.bundle.version, served, served.head)
            }
            log.info("serving %s version %s", served.bundle.name, served.bundle.version)
            if before is not None:
                self._retired.append((time.monotonic(), before))
        self._retire()
        self._refresh_heads(served)
        self.gate = dict(OPEN_GATE) if self.journal is None else read_gate(self.journal, served.bundle.name)
        self.problem = "its approval has expired; approve and release it again" if served.expired else None

    def close(self) -> None:
        """Finish what runs."""
        for _, served in self._retired:
            served.batcher.close()
        if self._served is not None:
            self._served.batcher.close()

    def _retire(self) -> None:
        """Close versions that nobody can still be waiting for."""
        old = [pair for pair in self._retired if time.monotonic() - pair[0] > LINGER_S]
        self._retired = [pair for pair in self._retired if pair not in old]
        for _, served in old:
            served.batcher.close()

    def _refresh_heads(self, served: Served) -> None:
        """Heads that are new or changed are loaded, those whose file is gone are dropped."""
        if self.heads is None or not self.heads.is_dir():
            return
        found = {path.stem: path for path in sorted(self.heads.glob(f"*{HEAD_SUFFIX}")) if path.is_file()}
        models = {served.bundle.name: self._models[served.bundle.name]}
        for stem, path in found.items():
            name, stamp = f"{served.bundle.name}.{stem}", _stamp(path)
            if self._seen.get(name) == stamp:
                if name in self._models:
                    models[name] = self._models[name]
                continue
            self._seen[name] = stamp
            try:
                head, reasons = _site_head(path, served, self.keys)
                models[name] = Model(name, served.bundle.version, served, head)
                said = f"is not audited: {'; '.join(reasons)}" if reasons else "is audited"
                log.info("serving %s, which %s", name, said)
            except FewShotError as error:
                log.error("%s is not served: %s", path, error)
        self._models = models


def _stamp(path: Path) -> list[object]:
    """What changes when a head or its audit does, and every day, as approvals expire."""
    stats = [(each.name, each.stat()) for each in Registered(path).files]
    return [
        datetime.now(UTC).date(),
        *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats),
    ]


def _site_head(path: Path, served: Served, keys: Sequence[PublicKey]) -> tuple[SiteHead, list[str]]:
    """The head, and why it does not count as audited; both of the same bytes."""
    try:
        content = path.read_bytes()
        head = AdaptedHead.from_bytes(content)
    except (OSError, SafetensorError, ValueError):
        raise FewShotError("it is not a head that Foedus saved; fit it again") from None
    dim, expected = head.head.weight.shape[1], served.embedder.spec.dim
    if dim != expected:
        raise FewShotError(
            f"it reads {dim} features, and the backbone gives {expected}; fit it on this model"
        )
    registered, auditors = Registered(path), [key for key in keys if key.role != COORDINATOR]
    reasons = registered.problems(
        hashlib.sha256(content).hexdigest(),
        backbone_sha256=served.bundle.manifest.files[BACKBONE_FILE].sha256,
        keys=auditors,
    )
    if reasons:
        return SiteHead(head), reasons
    report = registered.report()
    threshold = report.policy.decision_threshold
    return SiteHead(head, True, head.classes.index(report.positive), threshold), []
