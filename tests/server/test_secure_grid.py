"""Flower's strategies, by their own start(), on sums alone: the result of our loop, and no site's update in sight."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi

from clients.app import app as client_app
from clients.rounds import train_here as train_locally
from foedus import records, simulation
from foedus.errors import DoorError, RoundError
from foedus.model import Model
from foedus.runs import RunFolder
from foedus.site import find_sites
from foedus.study import Study, load_study, study_from_json
from server.federation import Federation
from server.local_grid import LocalGrid
from server.private import begin_private
from server.rounds import run_rounds
from server.secure_grid import SecureGrid
from server.start import begin

STRATEGIES: dict[str, Callable[..., FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": lambda **common: FedProx(**common, proximal_mu=0.1),
    "fedadam": lambda **common: FedAdam(**common, eta=0.1, eta_l=0.1, beta_1=0.9, beta_2=0.99),
    "fedyogi": lambda **common: FedYogi(**common, eta=0.1, eta_l=0.1, beta_1=0.9, beta_2=0.99),
    "fedavgm": lambda **common: FedAvgM(**common, server_learning_rate=0.1, server_momentum=0.9),
}
"""As studies have them by default, made with Flower's own classes."""


def _study(toy: Path, mode: str, strategy: str = "fedavg") -> Study:
    path = toy / "study.toml"
    text = path.read_text().replace("rounds = 4", f'rounds = 2\nstrategy = "{strategy}"')
    text = text.replace('mode = "open"', f'mode = "{mode}"').replace(
        '[fairness]\npolicy = "policy.toml"\n', ""
    )
    if mode == "secure+ddp":
        text = text.replace('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]')
    path.write_text(text)
    for site in find_sites(toy / "sites"):
        file = site / "site.toml"
        file.write_text(file.read_text().replace('doors = ["open"]', f'doors = ["{mode}"]'))
    study = load_study(path)
    simulation.enrol(find_sites(toy / "sites"), study)
    return study


def _federation(toy: Path, study: Study, run: str) -> Federation:
    return Federation.enlist(LocalGrid(client_app, find_sites(toy / "sites")), study, run)


def _model(arrays: ArrayRecord | None) -> Model:
    assert arrays is not None
    return Model.from_arrays(records.from_record(arrays))


class Spy:
    """Everything a strategy is given, and what each site contributed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, strategy: FedAvg) -> None:
        self.shown: list[list[Message]] = []
        self.single: list[np.ndarray] = []
        aggregate = strategy.aggregate_train

        def train_here(*args: Any) -> tuple[Model, float]:
            model, loss = train_locally(*args)
            self.single.append(model.head.weight.copy())
            return model, loss

        def aggregate_train(number: int, replies: Iterable[Message]) -> Any:
            self.shown.append(list(replies))
            return aggregate(number, self.shown[-1])

        monkeypatch.setattr("clients.app.train_here", train_here)
        monkeypatch.setattr(strategy, "aggregate_train", aggregate_train)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_of_flower_runs_as_it_is_and_ends_where_our_loop_ends(
    toy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    study = _study(toy, "secure-only", name)
    loop = _federation(toy, study, "loop")
    start = begin(loop)
    ours = run_rounds(loop, start, RunFolder(toy / "loop"), lambda line: None)

    random.seed(5)  # of Flower's order of nodes
    federation = _federation(toy, study, "flower")
    initial = records.to_named_record(begin(federation).model.arrays())
    strategy = STRATEGIES[name](min_available_nodes=4)
    spy = Spy(monkeypatch, strategy)
    result = strategy.start(SecureGrid(federation), initial, num_rounds=2)

    found = _model(result.arrays)
    # Flower carries an optimiser's float64 from round to round, a checkpoint of ours float32.
    np.testing.assert_allclose(found.head.weight, ours.model.head.weight, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.head.bias, ours.model.head.bias, rtol=1e-6, atol=1e-7)
    losses = [found["train-loss"] for _, found in sorted(result.train_metrics_clientapp.items())]
    assert losses == pytest.approx([line["train_loss"] for line in ours.lines])
    validated = [found["log-loss"] for _, found in sorted(result.evaluate_metrics_clientapp.items())]
    assert validated == pytest.approx([line["validation_loss"] for line in ours.lines])

    assert [len(replies) for replies in spy.shown] == [1, 1]
    assert len(spy.single) == 8
    for [reply] in spy.shown:
        assert set(reply.content) == {"arrays", "metrics"}
        assert list(reply.content["arrays"]) == list(initial)
        assert reply.content["metrics"]["num-examples"] == federation.n_train
        shown = records.from_record(reply.content.array_records["arrays"])["weight"]
        assert min(float(np.abs(shown - alone).max()) for alone in spy.single) > 1e-3


def test_nothing_but_masked_lanes_arrives_for_a_train_message(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = _federation(toy, _study(toy, "secure-only"), "run")
    initial = records.to_named_record(begin(federation).model.arrays())
    arrived: list[set[str]] = []
    answer = LocalGrid._answer

    def watched(self: LocalGrid, message: Message) -> Message:
        reply = answer(self, message)
        if message.metadata.message_type == MessageType.TRAIN:
            arrived.append(set(reply.content))
        return reply

    monkeypatch.setattr(LocalGrid, "_answer", watched)
    FedAvg(min_available_nodes=4).start(SecureGrid(federation), initial, num_rounds=1)
    assert arrived == [{records.SECURE, records.LANES}] * 4


def test_a_private_study_trains_on_flowers_strategy_and_evaluates_nothing(toy: Path) -> None:
    study = _study(toy, "secure+ddp")
    federation = _federation(toy, study, "private")
    initial = begin_private(federation).model
    result = FedAvg(min_available_nodes=4).start(
        SecureGrid(federation), records.to_named_record(initial.arrays()), num_rounds=2
    )
    assert not np.array_equal(_model(result.arrays).head.weight, initial.head.weight)
    assert result.evaluate_metrics_clientapp == {}
    with pytest.raises(DoorError, match="'round 3' is not among the releases"):
        FedAvg(min_available_nodes=4).start(
            SecureGrid(federation), records.to_named_record(initial.arrays()), num_rounds=3
        )


def test_keys_of_a_strategy_may_have_other_names(toy: Path) -> None:
    federation = _federation(toy, _study(toy, "open"), "run")
    initial = records.to_named_record(begin(federation).model.arrays())
    renamed = FedAvg(min_available_nodes=4, arrayrecord_key="model", configrecord_key="settings")
    usual = FedAvg(min_available_nodes=4)
    found = [s.start(SecureGrid(federation), initial, num_rounds=1).arrays for s in (usual, renamed)]
    np.testing.assert_array_equal(_model(found[0]).head.weight, _model(found[1]).head.weight)


def test_fewer_sites_than_the_secure_sum_needs_stop_the_round(toy: Path) -> None:
    federation = _federation(toy, _study(toy, "secure-only"), "run")
    initial = records.to_named_record(begin(federation).model.arrays())
    few = FedAvg(fraction_train=0.5, min_available_nodes=4)
    with pytest.raises(RoundError, match="round 1"):
        few.start(SecureGrid(federation), initial, num_rounds=1)


def test_a_sites_own_reply_cannot_be_had(toy: Path) -> None:
    study = study_from_json(_study(toy, "secure-only").to_json())
    grid = SecureGrid(_federation(toy, study, "run"))
    message = Message(RecordDict(), dst_node_id=1000, message_type=records.QUERY_STATISTIC)
    with pytest.raises(DoorError, match=r"messages to train or to evaluate, not query\.statistic"):
        grid.send_and_receive([message])
    for ask in (grid.push_messages, grid.pull_messages):
        with pytest.raises(DoorError, match="never a site's own reply"):
            ask([])
    two = RecordDict({"a": ArrayRecord(), "b": ArrayRecord(), "metrics": MetricRecord()})
    with pytest.raises(DoorError, match="holds 2 array records"):
        grid.send_and_receive([Message(two, dst_node_id=1000, message_type=MessageType.TRAIN)])
    assert grid.send_and_receive([]) == []
