"""Every error Foedus raises on purpose. Each has an exit code and a heading in docs/errors.md.

FoedusError
├── ConfigError      a study, site or policy file cannot be used            (exit 2)
├── DataError        a site's data cannot be read or do not fit the study   (exit 2)
├── BackboneError    a backbone is unknown, not on this machine, or altered (exit 2)
├── FewShotError     an episode or head cannot be formed from the examples  (exit 2)
├── AuditError       the audit cannot be computed as the policy asks        (exit 2)
├── RunError         a run folder is missing, incomplete or altered         (exit 2)
│   └── ExportError     an exported file is not the run's model             (exit 1)
├── ApprovalError    a signature does not hold, or an approval is refused   (exit 1)
├── ReleaseError     a bundle does not hold, or may not be released          (exit 1)
├── ServiceError     the inference service cannot start or go on            (exit 2)
├── PrivacyError     a budget would be overdrawn, or a guarantee not kept   (exit 1)
├── DoorError        the door or the site's policy refused a release        (exit 1)
│   └── SecureSumError  a secure sum stopped: a site or the coordinator strayed (exit 1)
└── RoundError       a round did not reach its quorum                       (exit 1)

Messages say what was found, what was expected and what to do. They never hold a
patient's value, a key, or a path inside a site when they can leave that site.
"""

from typing import ClassVar


class FoedusError(Exception):
    """Base of all deliberate errors; `exit_code` is the command's exit status."""

    exit_code: ClassVar[int] = 2


class ConfigError(FoedusError):
    """A study, site or policy file cannot be used; lists every problem found.

    Args:
        source: The file (or request) the problems are in, as the user named it.
        problems: One sentence each, beginning with the key the user typed.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source} has {count}:", *(f"  - {p}" for p in problems)]))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, list[str]]]:
        return (ConfigError, (self.source, self.problems))


class DataError(FoedusError):
    """A site's data cannot be read or do not fit the study."""


class BackboneError(FoedusError):
    """A backbone is unknown, not on this machine, or not what its digest says."""


class FewShotError(FoedusError):
    """An episode or a head cannot be formed from the examples given."""


class AuditError(FoedusError):
    """The audit cannot be computed as the policy asks."""


class RunError(FoedusError):
    """A run folder is missing, incomplete or altered."""


class ExportError(RunError):
    """A run's model, written for another runtime, does not give what the run's own gives."""

    exit_code = 1


class ApprovalError(FoedusError):
    """A key or signature does not hold, or an audit cannot be approved."""

    exit_code = 1


class ReleaseError(FoedusError):
    """A bundle does not hold, or a model may not be released or served."""

    exit_code = 1


class ServiceError(FoedusError):
    """The inference service cannot start with these settings, or a request cannot be answered."""


class PrivacyError(FoedusError):
    """A privacy budget would be overdrawn, or a guarantee cannot be kept or confirmed."""

    exit_code = 1


class DoorError(FoedusError):
    """The door or the site's policy refused to let something leave."""

    exit_code = 1


class SecureSumError(DoorError):
    """A secure sum stopped because too few sites are left or someone strayed from the protocol."""


class RoundError(FoedusError):
    """A round did not reach its quorum before its deadline."""

    exit_code = 1
