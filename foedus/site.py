"""The site file: where an institution's data are, how they read, and what it allows (site.toml)."""

import hashlib
import re
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from foedus.config import Section, read_toml, validate
from foedus.errors import ConfigError
from foedus.study import NAME, Tuning

SITE_FILE = "site.toml"
SQL_TEXT = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/""", re.DOTALL)
"""Quoted text and comments of a query, in which words and semicolons mean nothing."""


class SiteIdentity(Section):
    """[site]"""

    name: str = Field(pattern=NAME)
    """Name of the site: letters, digits, dot, dash, underscore; at most 64."""


class DataSection(Section):
    """[data]: either a path, or a database's url and a query. Paths are relative to the site file."""

    kind: Literal["images", "text", "table"]
    url: str | None = None
    """text, table: "env:NAME", an environment variable that holds a database's URL; or the URL itself,
    if it holds no password ("sqlite:///cases.db")."""
    query: str | None = None
    """text, table: the SELECT whose rows are the records; their order does not matter."""
    path: str | None = Field(default=None, validate_default=True)
    """images: a folder with one sub-folder per class, a CSV/Parquet manifest, or a MedMNIST .npz.
    text, table: a CSV or Parquet file."""
    label: str | None = None
    """Column of the label; not used for a folder per class or an .npz."""
    labels: dict[str, str] = {}
    """Value in the data to class of the study, e.g. {"0" = "healthy", "1" = "disease"}.
    Values not listed are taken as class names. With label_separator, "" leaves the value out."""
    label_separator: str | None = None
    """The character between labels in one cell, e.g. ";", for a study with task = "multilabel"; a record
    whose cell is empty has none of the labels."""
    image: str = "path"
    """images, manifest: column of the image's path, relative to the manifest."""
    text: str = "text"
    """text: column of the text."""
    unit: str | None = None
    """Column of the patient or customer id. Records with the same id are one unit, which stays on
    one side of the split, and so do copies of an image, a text or a row that carry it. When not
    set, byte-identical images or texts are one unit and each row of a table is its own."""

    @property
    def title(self) -> str:
        """How messages call the data; never the url."""
        return "the database query" if self.path is None else f"'{self.path}'"

    @property
    def identity(self) -> str:
        """What the site's ledger knows the data by: the path, or a digest of url and query."""
        if self.path is not None:
            return self.path
        query = " ".join((self.query or "").split())
        return f"sql-{hashlib.sha256(f'{self.url} {query}'.encode()).hexdigest()[:16]}"

    @field_validator("label_separator")
    @classmethod
    def _one_mark(cls, mark: str | None) -> str | None:
        if mark is not None and (len(mark) != 1 or mark.isalnum()):
            raise ValueError('expected one character that is no letter and no digit, such as ";"')
        return mark

    @field_validator("url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        if url is None or re.fullmatch(r"env:[A-Za-z_]\w*", url):
            return url
        if re.search(r"://[\s\S]*:[\s\S]*@", url) or "?" in url:
            raise ValueError(
                "holds a password or options; put the whole URL in an environment variable and write "
                '"env:" and its name here'
            )
        if "://" not in url:
            raise ValueError('expected "env:NAME" or a database URL such as "sqlite:///cases.db"')
        return url

    @field_validator("query")
    @classmethod
    def _only_reads(cls, query: str | None) -> str | None:
        if query is None:
            return None
        bare = SQL_TEXT.sub(" ", query).strip().rstrip("; \t\r\n").lower()
        changes = {"insert", "update", "delete", "merge", "into"} & set(re.findall(r"\w+", bare))
        if ";" in bare or changes or not re.match(r"(select|with)\b", bare):
            raise ValueError("expected one statement that only reads: SELECT ... or WITH ... SELECT ...")
        return query

    @field_validator("path")
    @classmethod
    def _one_source(cls, path: str | None, info: ValidationInfo) -> str | None:
        known = info.data
        if not {"url", "query"} <= known.keys():  # what is wrong with them is reported
            return path
        asked = [key for key in ("url", "query") if known[key] is not None]
        if path is not None and "://" in path:
            raise ValueError("is a database's URL, not a file; give url and query instead")
        if path is not None and asked:
            raise ValueError(f"remove it, or {' and '.join(asked)}: the data are in a file or in a database")
        if path is None and not asked:
            raise ValueError("is missing; add it, or url and query for a database")
        if len(asked) == 1:
            raise ValueError(f"{asked[0]} is set alone; a database needs url and query, a file only path")
        if asked and known.get("kind") == "images":
            raise ValueError("is missing; images are read from files, not from a database")
        return path


class GroupSection(Section):
    """[groups.NAME]: a sensitive attribute and how its values map to the policy's groups."""

    column: str
    values: dict[str, str] = {}
    """Value in the data to group; values not listed become "unknown"."""
    edges: list[float] = []
    """Ascending cut points of a number; a value equal to an edge falls in the upper band."""
    bands: list[str] = []
    """Names of the bands: one more than edges."""

    @field_validator("edges", mode="before")
    @classmethod
    def _as_floats(cls, value: object) -> object:
        if isinstance(value, list) and all(isinstance(v, int | float) for v in value):
            return [float(v) for v in value]
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.values) == bool(self.edges):
            raise ValueError("give either values or edges with bands")
        if self.edges and len(self.bands) != len(self.edges) + 1:
            raise ValueError(
                f"{len(self.edges)} edges make {len(self.edges) + 1} bands; found {len(self.bands)}"
            )
        if self.edges != sorted(set(self.edges)):
            raise ValueError("edges must ascend")
        return self


Share = Annotated[float, Field(ge=0, lt=1)]


class SplitSection(Section):
    """[split]: by unit, within each class, so that no patient, and no copy of a record with the
    same unit id, is on both sides."""

    validation: Share = 0.15
    """Share of the units for early stopping and choosing."""
    test: Share = 0.25
    """Share of the units for the final figures and the audit."""
    seed: int = Field(default=0, ge=0)
    """Draws the split; the site's own choice, no study can move a patient."""
    column: str | None = None
    """Column that already holds train, validation or test; then the shares are not used."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing to train on; keep their sum below 1")
        return self


class PolicySection(Section):
    """[policy]: what this site allows; no study can override it."""

    doors: list[Literal["secure+ddp", "local-dp", "secure-only", "open"]] = ["secure+ddp"]
    """Door modes a study may use here."""
    release_site_metrics: bool = False
    """Whether this site's own figures may be sent to the coordinator."""
    studies: list[str] = []
    """Names of the studies allowed; any when empty."""
    epsilon_cap: float = Field(default=8.0, gt=0, le=1000)
    """What all studies together may ever give away of one patient or customer (epsilon); no study can raise it."""
    delta: float = Field(default=1e-5, gt=0, lt=0.01)
    """Where the ledger reads epsilon: at this delta, whichever a study names for itself; well below 1 / units."""
    min_class_count: int = Field(default=1, ge=1, le=10_000)
    """Records a class needs here to be part of sums of features; the records of rarer classes stay out of them."""
    backbone_folders: list[str] = []
    """Folders on this site, relative to the site file, from which a study may load its own weights
    (`file:` and local `hf:` backbones); none when empty."""
    tune: list[Tuning] = list(get_args(Tuning))
    """Ways to tune that a study may use here; all when not set."""
    min_sites: int = Field(default=1, ge=1, le=10_000)
    """Fewest sites a study must ask for behind each sum (its `federation.min_sites`)."""
    hours: str | None = Field(default=None, pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")
    """When studies may work here, local time, e.g. "20:00-06:00"; always when not set."""
    max_answer_mb: int = Field(default=1000, ge=1, le=100_000)
    """Largest answer that leaves, in megabytes."""

    def at_work(self, now: datetime) -> bool:
        """Whether `now`, local time, is within the hours."""
        if self.hours is None:
            return True
        begin, end = (time.fromisoformat(text) for text in self.hours.split("-"))
        inside = begin <= now.time() < end
        return inside if begin < end else now.time() >= begin or now.time() < end


class ServiceSection(Section):
    """[service]: what a service at this site notes. With it, sums over its records may be part of sums of
    several sites, through the doors that [policy] allows; without it, none."""

    journal: str
    """Folder of `foedus serve --journal`, relative to the site file."""
    labels: str | None = None
    """CSV with id, label and the policy's attributes, of records whose label came later; append to it."""
    min_records: int = Field(default=20, ge=1, le=1_000_000)
    """Records of the smallest block that may be part of a sum; at least the k of the policies that ask."""


class SiteConfig(Section):
    """A whole site.toml."""

    site: SiteIdentity
    data: DataSection
    groups: dict[str, GroupSection] = {}
    split: SplitSection = SplitSection()
    policy: PolicySection = PolicySection()
    service: ServiceSection | None = None
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """cpu, cuda or cuda:N."""


def local_weights(source: str) -> str | None:
    """The path on this machine that a study's `backbone.source` names, or None if it names no path.

    `hf:` names a path where it looks like one or is a folder here; else it is a name on the hub.
    """
    kind, _, name = source.partition(":")
    if kind == "file":
        return name.rpartition("#")[0] or name
    is_path = kind == "hf" and (name.startswith(("/", "~", ".")) or _expanded(name).is_dir())
    return name if is_path else None


def allows_backbone(policy: PolicySection, source: str, *, folder: Path) -> bool:
    """Whether the site in `folder` lets a study use this backbone; links are followed first."""
    path = local_weights(source)
    if path is None:
        return True
    real = _expanded(path).resolve()
    allowed = [(folder / _expanded(entry)).resolve() for entry in policy.backbone_folders]
    return any(real.is_relative_to(place) for place in allowed)


def _expanded(path: str) -> Path:
    """`path` with ~ as the home folder; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def load_site(folder: Path) -> SiteConfig:
    """The site.toml in `folder`.

    Raises:
        ConfigError: Listing every problem in the file.
    """
    return validate(SiteConfig, read_toml(folder / SITE_FILE), source=str(folder / SITE_FILE))


def find_sites(folder: Path) -> list[Path]:
    """Folders below `folder` that hold a site.toml, sorted by name.

    Raises:
        ConfigError: If there is none.
    """
    sites = sorted(path.parent for path in folder.glob(f"*/{SITE_FILE}"))
    if not sites:
        problem = f"no sub-folder holds a {SITE_FILE}; a site is a folder with that file and its data"
        raise ConfigError(str(folder), [problem])
    return sites
