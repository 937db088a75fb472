"""The models a service holds: the audited one, swapped when a newer version is released, and sites' own heads."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.answering import Answerer, SiteHead
from deploy.journal import read_gate
from deploy.served import Served
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
    """

    load: Callable[[Served | None], Served]
    heads: Path | None = None
    journal: Path | None = None
    gate: dict[str, Any] = field(default_factory=lambda: dict(OPEN_GATE))
    problem: str | None = "no model is loaded"
    _served: Served | None = None
    _models: dict[str, Model] = field(default_factory=dict)
    _retired: list[tuple[float, Served]] = field(default_factory=list)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)

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
            name, stat = f"{served.bundle.name}.{stem}", path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if self._seen.get(name) == stamp:
                if name in self._models:
                    models[name] = self._models[name]
                continue
            self._seen[name] = stamp
            try:
                models[name] = Model(name, served.bundle.version, served, _site_head(path, served))
                log.info("serving %s, which is not audited", name)
            except FewShotError as error:
                log.error("%s is not served: %s", path, error)
        self._models = models


def _site_head(path: Path, served: Served) -> SiteHead:
    head = AdaptedHead.load(path)
    dim, expected = head.head.weight.shape[1], served.embedder.spec.dim
    if dim != expected:
        raise FewShotError(
            f"it reads {dim} features, and the backbone gives {expected}; fit it on this model"
        )
    return SiteHead(head)
