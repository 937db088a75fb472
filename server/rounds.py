"""Gradient rounds: Flower's strategy says what to send and how to combine, this loop does the rest.

After each round the model, the best model so far and the strategy's memory are on disk; a run
killed at any moment goes on from there and ends with the same bytes.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run

from foedus import gradient, records, updates
from foedus.budget import plan
from foedus.errors import RoundError
from foedus.evaluation import Evaluation
from foedus.metrics import Metrics
from foedus.model import Model, part
from foedus.runs import RunFolder
from foedus.statistic import Arrays, Quantity
from foedus.study import SINGLE_UPDATES
from foedus.sums import check_steps, from_steps
from foedus.updates import Update
from server.exchange import Gathered
from server.federation import Federation
from server.strategies import make_strategy, restore_strategy, strategy_state
from server.summing import decode

log = logging.getLogger(__name__)

Observer = Callable[[dict[str, Any]], None]
"""Called with each round's line."""


@dataclass
class Training:
    """Where training stands after a round.

    Attributes:
        start: The model before the first round.
        model: The shared model.
        best: The model with the lowest federated validation loss so far.
        best_loss: That loss.
        best_round: The round it came from; 0 is the start.
        lines: One dictionary per finished round.
        memory: The strategy's own state.
    """

    start: Model
    model: Model
    best: Model
    best_loss: float
    best_round: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)
    memory: Arrays = field(default_factory=dict)

    @property
    def round(self) -> int:
        """Number of finished rounds."""
        return len(self.lines)


def run_rounds(federation: Federation, training: Training, run: RunFolder, observe: Observer) -> Training:
    """All rounds the study still owes, or fewer if the validation loss stops falling.

    Raises:
        RoundError: If a round does not reach its quorum.
        RunError: If a checkpoint cannot be written.
    """
    strategy = make_strategy(federation.study.federation)
    restore_strategy(strategy, training.memory)
    while training.round < federation.study.federation.rounds and not _patience_is_over(federation, training):
        training = _one_round(federation, strategy, training)
        save(run, training, federation)
        observe(training.lines[-1])
    return training


def _patience_is_over(federation: Federation, training: Training) -> bool:
    patience = federation.study.federation.patience
    return patience is not None and training.round - training.best_round >= patience


def _one_round(federation: Federation, strategy: FedAvg, training: Training) -> Training:
    number = training.round + 1
    model, loss, gathered = train_once(federation, strategy, training.model, number)
    found = _validate(federation, model, number)
    validation_loss = found["log_loss"] if found else None
    # Without any validation the last model is the best known.
    better = validation_loss is None or validation_loss < training.best_loss
    line = {
        "round": number,
        "asked": len(gathered.asked),
        "answered": len(gathered.answered),
        "rejected": [{"site": s, "reason": r} for s, r in sorted(gathered.rejected.items())],
        "train_loss": None if federation.study.door.private else loss,
        "validation_loss": validation_loss,
        "validation_accuracy": found["accuracy"] if found else None,
        "epsilon": plan(federation.study).spent_after(number) if federation.study.door.private else None,
        "bytes_up": gathered.bytes_up,
        "bytes_down": gathered.bytes_down,
        "seconds": round(gathered.seconds, 4),
    }
    log.info("round %s: %s sites, loss %.4f, %.2f s", number, line["answered"], loss, gathered.seconds)
    return Training(
        start=training.start,
        model=model,
        best=model if better else training.best,
        best_loss=validation_loss if better and validation_loss is not None else training.best_loss,
        best_round=number if better else training.best_round,
        lines=[*training.lines, line],
        memory=strategy_state(strategy),
    )


def _validate(federation: Federation, model: Model, number: int) -> Metrics | None:
    """The model on all validation examples.

    None in a private study, which spends nothing on it, where the shared head stays behind while each
    site trains its own, and where it is a start that sites adapt: how good it is as it is, is no matter.
    """
    if not federation.study.validates:
        return None
    head = federation.use(model)
    evaluation = Evaluation([head], multilabel=federation.study.multilabel)
    [[candidate]] = federation.ask(evaluation, split="validation", what=f"validating round {number}")
    return candidate.metrics


def train_once(
    federation: Federation, strategy: FedAvg, model: Model, number: int
) -> tuple[Model, float, Gathered]:
    """One round of training: the next model, the cohort's mean training loss, how the exchange went.

    Raises:
        RoundError: If the quorum is not reached or the strategy cannot combine the answers.
    """
    messages = _train_messages(federation, strategy, model, number)
    received, gathered = _updates(federation, messages, model, what=f"round {number}")
    try:
        replies = [_as_reply(update, messages[0]) for update in received]
        arrays, metrics = strategy.aggregate_train(number, replies)
    except (AggregationError, InconsistentMessageReplies, ValueError, IndexError, ZeroDivisionError) as error:
        raise RoundError(
            f"round {number}: the strategy cannot combine {len(gathered.answered)} answers: {error}"
        ) from error
    if arrays is None or metrics is None:
        raise RoundError(f"round {number}: the strategy found no answer it can use.")
    combined = Model.from_arrays(records.from_record(arrays))
    if not combined.finite():
        raise RoundError(f"round {number}: the combined model is not finite; lower lr or server_lr.")
    return combined, float(metrics[records.TRAIN_LOSS]), gathered  # type: ignore[arg-type]


def _train_messages(federation: Federation, strategy: FedAvg, model: Model, number: int) -> list[Message]:
    grid = CohortGrid(federation.grid, sorted(federation.cohort, key=federation.cohort.__getitem__))
    named, packed = records.to_named_record(model.arrays()), records.to_record(model.arrays())
    messages = list(strategy.configure_train(number, named, _round_config(federation), grid))
    for message in messages:
        message.content[records.ARRAYS] = packed
        federation.attach_standardiser(message.content)
    return sorted(messages, key=lambda message: federation.cohort[message.metadata.dst_node_id])


def _round_config(federation: Federation) -> ConfigRecord:
    config = federation.config({})
    config[records.N_TRAIN], config[records.N_SITES] = federation.n_train, len(federation.cohort)
    return config


def _updates(
    federation: Federation, messages: list[Message], model: Model, *, what: str
) -> tuple[list[Update], Gathered]:
    """What the strategy reads: the mean update alone or, for robust strategies, each site's."""
    if federation.study.door.private:
        return _private_updates(federation, messages, model, what=what)
    declared = updates.quantities(model, n_sites=len(federation.cohort), n_total=federation.n_train)
    if federation.study.federation.strategy not in SINGLE_UPDATES:
        total, gathered = federation.total(messages, declared, what=what)
        return [updates.read(model, total, n_total=federation.n_train)], gathered
    single: dict[str, Update] = {}

    def accept(name: str, reply: Message) -> None:
        arrays = _values(reply, declared)
        single[name] = updates.read(model, arrays, n_total=federation.n_train)

    gathered = federation.gather(messages, accept, what=what)
    return [single[name] for name in sorted(single)], gathered


def _private_updates(
    federation: Federation, messages: list[Message], model: Model, *, what: str
) -> tuple[list[Update], Gathered]:
    """One step down the noisy gradient: of all sites together or, for robust strategies, of each."""
    door, lr = federation.study.door, federation.study.federation.lr
    tuning_lr, n = federation.study.tuning.lr, federation.n_train * federation.study.door.sampling_rate
    declared = federation.noised(gradient.quantities(model, clip_norm=door.clip_norm), what)
    if federation.study.federation.strategy not in SINGLE_UPDATES:
        total, gathered = federation.total(messages, declared, what=what)
        return [gradient.read(model, total, lr=lr, n=max(1.0, n), tuning_lr=tuning_lr)], gathered
    single: dict[str, Update] = {}

    def accept(name: str, reply: Message) -> None:
        arrays = _values(reply, declared)
        share = max(1.0, n / len(federation.cohort))
        single[name] = gradient.read(model, arrays, lr=lr, n=share, tuning_lr=tuning_lr)

    gathered = federation.gather(messages, accept, what=what)
    return [single[name] for name in sorted(single)], gathered


def _values(reply: Message, declared: Mapping[str, Quantity]) -> Arrays:
    """One site's contribution, where the study's strategy has to see each."""
    steps = decode(reply, records.ARRAYS)
    check_steps(steps, declared)
    return from_steps(steps, declared)


def _as_reply(update: Update, request: Message) -> Message:
    numbers = {records.NUM_EXAMPLES: update.n, records.TRAIN_LOSS: update.loss}
    content = RecordDict({records.ARRAYS: records.to_named_record(update.model.arrays())})
    content[records.METRICS] = MetricRecord(dict(numbers))
    return Message(content, reply_to=request)


def save(run: RunFolder, training: Training, federation: Federation) -> None:
    """Make the state of training durable.

    Raises:
        RunError: If the disk is full; the checkpoint before is then intact.
    """
    arrays: Arrays = {f"start/{k}": v for k, v in training.start.arrays().items()}
    arrays |= {f"model/{k}": v for k, v in training.model.arrays().items()}
    if training.best is not training.model:
        arrays |= {f"best/{k}": v for k, v in training.best.arrays().items()}
    arrays |= {f"memory/{k}": v for k, v in training.memory.items()}
    if federation.standardiser is not None:
        arrays |= {f"standardiser/{k}": v for k, v in federation.standardiser.arrays().items()}
    run.checkpoint(
        training.round,
        arrays,
        lines=training.lines,
        best_loss=training.best_loss if math.isfinite(training.best_loss) else None,
        best_round=training.best_round,
        n_train=federation.n_train,
    )


def restore(pointer: dict[str, Any], arrays: Arrays) -> tuple[Training, Arrays]:
    """Training as `save` left it, and the standardiser's arrays."""
    model, best = (part(arrays, prefix) for prefix in ("model/", "best/"))
    shared = Model.from_arrays(model)
    training = Training(
        start=Model.from_arrays(part(arrays, "start/")),
        model=shared,
        best=Model.from_arrays(best) if best else shared,
        best_loss=math.inf if pointer["best_loss"] is None else float(pointer["best_loss"]),
        best_round=int(pointer["best_round"]),
        lines=list(pointer["lines"]),
        memory=part(arrays, "memory/"),
    )
    return training, part(arrays, "standardiser/")


class CohortGrid(Grid):
    """A grid that knows only the training cohort, in an order that does not depend on the engine."""

    def __init__(self, grid: Grid, nodes: list[int]) -> None:
        self._grid = grid
        self._nodes = nodes

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> list[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)
