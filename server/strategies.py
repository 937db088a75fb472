"""Flower's strategies by name, and their state as arrays for the checkpoint."""

from typing import Any

import numpy as np
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    QFedAvg,
)

from foedus import records
from foedus.statistic import Arrays
from foedus.study import FederationSection

_STATE_DICTS = ("m_t", "v_t")
_STATE_LIST = "momentum_vector"


def make_strategy(federation: FederationSection) -> FedAvg:
    """The strategy a study names. Which sites take part is the round engine's business, not its own."""
    common: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1, "min_evaluate_nodes": 1}
    adaptive: dict[str, Any] = {**common, "eta": federation.server_lr, "eta_l": federation.lr}
    malicious: dict[str, Any] = {**common, "num_malicious_nodes": federation.malicious_sites}
    match federation.strategy:
        case "fedavg" | "scaffold":  # scaffold is fedavg with control variates among the arrays
            return FedAvg(**common)
        case "fedprox":
            return FedProx(**common, proximal_mu=federation.proximal_mu)
        case "fedadam":
            return FedAdam(**adaptive, beta_1=0.9, beta_2=0.99)
        case "fedyogi":
            return FedYogi(**adaptive, beta_1=0.9, beta_2=0.99)
        case "fedadagrad":
            return FedAdagrad(**adaptive)
        case "fedavgm":
            return FedAvgM(
                **common,
                server_learning_rate=federation.server_lr,
                server_momentum=federation.server_momentum,
            )
        case "qfedavg":
            return QFedAvg(
                **common,
                client_learning_rate=federation.lr,
                q=federation.fairness_q,
                train_loss_key=records.TRAIN_LOSS,
            )
        case "fedmedian":
            return FedMedian(**common)
        case "fedtrimmedavg":
            return FedTrimmedAvg(**common, beta=federation.trim)
        case "krum":
            return Krum(**malicious)
        case "bulyan":
            return Bulyan(**malicious)


def strategy_state(strategy: FedAvg) -> Arrays:
    """The server optimiser's memory as named arrays; empty before the first round."""
    state: Arrays = {}
    for attribute in _STATE_DICTS:
        for key, value in (getattr(strategy, attribute, None) or {}).items():
            state[f"{attribute}/{key}"] = np.asarray(value)
    for index, value in enumerate(getattr(strategy, _STATE_LIST, None) or []):
        state[f"{_STATE_LIST}/{index}"] = np.asarray(value)
    return state


def restore_strategy(strategy: FedAvg, state: Arrays) -> None:
    """Give a fresh strategy the memory that `strategy_state` saved."""
    for attribute in _STATE_DICTS:
        found = {k.split("/", 1)[1]: v for k, v in state.items() if k.startswith(f"{attribute}/")}
        if found:
            setattr(strategy, attribute, found)
    vector = [state[k] for k in sorted(state) if k.startswith(f"{_STATE_LIST}/")]
    if vector:
        setattr(strategy, _STATE_LIST, vector)
