"""What every command sets before anything heavy is imported: offline, quiet, one thread."""

import os

DEFAULTS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "GOMP_SPINCOUNT": "0",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # a forked child of ours becomes another program at once
}
"""One thread a process and no spinning: two threads beside a busy neighbour are slower than one."""
LOOPBACK = "127.0.0.1,localhost,::1"


def prepare() -> None:
    """Set what the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):  # a proxy for the way out must not be asked for this machine itself
        given = os.environ.get(name)
        os.environ[name] = f"{given},{LOOPBACK}" if given else LOOPBACK
    if "FOEDUS_ALLOW_HUB" not in os.environ:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
