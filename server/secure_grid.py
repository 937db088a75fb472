"""SecureGrid: Flower's strategies run on it as they are, and get one reply a round, the mean of all sites.

    federation = Federation.enlist(grid, study, run_id)
    training = begin(federation)  # or begin_private
    FedAdam().start(SecureGrid(federation), records.to_named_record(training.model.arrays()), num_rounds=10)

A train message goes to the sites with everything they need to know of the study; their contributions
come back through the study's door (under masks as a secure sum, `server.masked`) and are read as a
total. A message to evaluate is answered with the counts of all validation examples together. Strategies
that compare single updates (krum, median) get nothing to compare here: see `server.rounds`.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from foedus import gradient, records, updates
from foedus.budget import round_name
from foedus.errors import DoorError, RoundError
from foedus.evaluation import Evaluation
from foedus.model import Model
from foedus.updates import Update
from server.exchange import Gathered
from server.federation import Federation

LOSS, ACCURACY = "log-loss", "accuracy"


class SecureGrid(Grid):
    """Wraps the grid of a federation whose standardiser is known.

    Args:
        federation: Who takes part, under which study and door.

    Attributes:
        gathered: How the last exchange of training messages went.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._grid = federation.grid
        self.gathered: Gathered | None = None

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> list[int]:
        """The sites that train, in an order that does not depend on the engine."""
        cohort = self._federation.cohort
        return sorted(cohort, key=cohort.__getitem__)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise DoorError("a SecureGrid hands out sums, never a site's own reply; use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise DoorError("a SecureGrid hands out sums, never a site's own reply; use send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """One reply to all `messages`, which ask for the same; none to an evaluation of a private study.

        Args:
            messages: A strategy's, all to train or all to evaluate.
            timeout: Not used: the study's round_timeout_s holds for every leg.

        Raises:
            RoundError: If fewer sites answer than the study or the secure sum needs.
            DoorError: If it is another kind of message.
        """
        asked = list(messages)
        kinds = {message.metadata.message_type for message in asked}
        if not asked:
            return []
        if kinds == {MessageType.TRAIN}:
            return [self._train(asked)]
        if kinds == {MessageType.EVALUATE}:
            return [] if self._federation.study.door.private else [self._evaluate(asked[0])]
        raise DoorError(
            f"a SecureGrid knows messages to train or to evaluate, not {', '.join(sorted(kinds))}"
        )

    def _train(self, asked: list[Message]) -> Message:
        """The reply that carries the model after one round, and the examples behind it."""
        key, arrays = _arrays(asked[0])
        shared = Model.from_arrays(records.from_record(arrays))
        cohort = self._federation.cohort
        packed = records.to_record(shared.arrays())
        messages = [self._request(message, packed) for message in asked]
        messages.sort(key=lambda message: cohort[message.metadata.dst_node_id])
        update = self._sum(shared, messages)
        if not update.model.finite():
            raise RoundError("the mean of the sites' models is not finite; lower lr.")
        numbers = {records.NUM_EXAMPLES: update.n, records.TRAIN_LOSS: update.loss}
        content = RecordDict({key: records.to_named_record(update.model.arrays())})
        content[records.METRICS] = MetricRecord(dict(numbers))
        return Message(content, reply_to=asked[0])

    def _request(self, message: Message, model: records.Packed) -> Message:
        """What the strategy asks, with what a site must know of the study."""
        federation = self._federation
        config = ConfigRecord()
        for found in (*message.content.config_records.values(), federation.config({})):
            config.update(found)
        config[records.N_TRAIN], config[records.N_SITES] = federation.n_train, len(federation.cohort)
        content = RecordDict({records.ARRAYS: model, records.CONFIG: config})
        federation.attach_standardiser(content)
        return Message(content, dst_node_id=message.metadata.dst_node_id, message_type=MessageType.TRAIN)

    def _sum(self, shared: Model, messages: list[Message]) -> Update:
        """The mean update of all sites or, in a private study, one step down their noisy gradient."""
        federation, study = self._federation, self._federation.study
        config = messages[0].content.config_records[records.CONFIG]
        what = round_name(int(config[records.SERVER_ROUND]))  # type: ignore[arg-type]
        if not study.door.private:
            declared = updates.quantities(shared, n_sites=len(federation.cohort), n_total=federation.n_train)
            total, self.gathered = federation.total(messages, declared, what=what)
            return updates.read(shared, total, n_total=federation.n_train)
        declared = federation.noised(gradient.quantities(shared, clip_norm=study.door.clip_norm), what)
        total, self.gathered = federation.total(messages, declared, what=what)
        n = max(1.0, federation.n_train * study.door.sampling_rate)
        lr, tuning_lr = study.federation.lr, study.tuning.lr
        return gradient.read(shared, total, lr=lr, n=n, tuning_lr=tuning_lr)

    def _evaluate(self, asked: Message) -> Message:
        """The reply that carries what all validation examples together say of the model."""
        model = Model.from_arrays(records.from_record(_arrays(asked)[1]))
        head = self._federation.use(model)
        evaluation = Evaluation([head], multilabel=self._federation.study.multilabel)
        [[candidate]] = self._federation.ask(evaluation, split="validation", what="evaluating")
        found = {LOSS: candidate.metrics["log_loss"], ACCURACY: candidate.metrics["accuracy"]}
        numbers = {name: value for name, value in found.items() if value is not None}
        metrics = MetricRecord({records.NUM_EXAMPLES: candidate.metrics["n"], **numbers})
        return Message(RecordDict({records.METRICS: metrics}), reply_to=asked)


def _arrays(message: Message) -> tuple[str, ArrayRecord]:
    """The one array record of a strategy's message, and the key it has there."""
    found = list(message.content.array_records.items())
    if len(found) != 1:
        raise DoorError(f"a strategy's message holds {len(found)} array records; one, the model, is expected")
    return found[0]
