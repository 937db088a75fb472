"""The calls of the Open Inference Protocol on the models that are loaded."""

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from deploy import protocol
from deploy.answering import Answerer, Answers, outputs_of, values_of
from deploy.journal import Journal
from deploy.meters import Meters
from deploy.models import Model, Models
from deploy.tensors import read_inputs, write_output
from foedus import __version__
from foedus.errors import FoedusError, ServiceError
from foedus.histograms import Histograms

log = logging.getLogger("foedus.service")
Code = grpc.StatusCode
DATATYPES = {"label": "BYTES", "probabilities": "FP32", "prediction_set": "BOOL", "abstain": "BOOL"}


@dataclass(frozen=True)
class Limits:
    """What a service takes on.

    Attributes:
        request_bytes: Largest request.
        records: Most records in a request.
        seconds: Longest a request may take, whatever its own deadline.
        in_flight: Most inferences under way or waiting; more are refused at once.
        drain_s: How long running requests may take after the service was told to stop.
    """

    request_bytes: int = 32 * 2**20
    records: int = 256
    seconds: float = 30.0
    in_flight: int = 64
    drain_s: float = 20.0


class RefusedError(Exception):
    """A call that ends with a status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class InferenceService:
    """Answers every call; whatever a request holds, it ends with a status and the service goes on.

    Args:
        models: What is served.
        meters: Counted in.
        limits: Kept.
        journal: Told of every answer of an audited model, for monitoring; None keeps nothing.
    """

    def __init__(self, models: Models, meters: Meters, limits: Limits, journal: Journal | None) -> None:
        self.models, self.meters, self.limits, self.journal = models, meters, limits, journal
        self._slots = BoundedSemaphore(limits.in_flight)
        self._calls: dict[str, Callable[[Any, Any], Any]] = {
            "ServerLive": lambda request, _: protocol.message("ServerLiveResponse")(live=True),
            "ServerReady": lambda request, _: protocol.message("ServerReadyResponse")(
                ready=self.models.ready
            ),
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    def handler(self) -> grpc.GenericRpcHandler:
        """For grpc.Server.add_generic_rpc_handlers."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name), None, lambda response: response.SerializeToString()
            )
            for name in protocol.METHODS
        }
        return grpc.method_handlers_generic_handler(protocol.SERVICE, handlers)

    def _guarded(self, name: str) -> Callable[[bytes, grpc.ServicerContext], Any]:
        kind = protocol.message(f"{name}Request")

        def guarded(content: bytes, context: grpc.ServicerContext) -> Any:
            try:
                return self.answer(name, lambda: kind.FromString(content), context)
            except RefusedError as error:
                return context.abort(error.code, str(error))

        return guarded

    def answer(self, name: str, read: Callable[[], Any], context: Any) -> Any:
        """The response of a call, counted and logged.

        Args:
            name: Of the method.
            read: Gives its request.
            context: Says how long the client waits (`time_remaining`).

        Raises:
            RefusedError: With the status it ends with.
        """
        started, refused = time.perf_counter(), None
        try:
            return self._calls[name](read(), context)
        except RefusedError as error:
            refused = error
        except DecodeError:
            refused = RefusedError(Code.INVALID_ARGUMENT, f"the request is not a {name}Request")
        except FoedusError as error:
            refused = RefusedError(Code.INVALID_ARGUMENT, str(error))
        except Exception as error:
            log.exception("a request ended in %s", type(error).__name__)
            refused = RefusedError(Code.INTERNAL, "the service could not answer; its log says why")
        finally:
            code, said = (Code.OK, "") if refused is None else (refused.code, str(refused))
            self.meters.requests.labels(name, code.name).inc()
            if name == "ModelInfer":
                _log(name, code, time.perf_counter() - started, said)
        raise refused

    def _model(self, name: str, version: str) -> Model:
        try:
            return self.models.get(name, version)
        except KeyError as error:
            raise RefusedError(Code.NOT_FOUND, str(error.args[0])) from None

    def _model_ready(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            ready = self.models.usable(self.models.get(request.name, request.version)) is None
        except KeyError:
            ready = False
        return protocol.message("ModelReadyResponse")(ready=ready)

    def _server_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return protocol.message("ServerMetadataResponse")(name="foedus", version=__version__, extensions=[])

    def _model_metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        model = self._model(request.name, request.version)
        response = protocol.message("ModelMetadataResponse")(
            name=model.name, versions=[model.version], platform="foedus"
        )
        for name, datatype, shape in model.served.inputs:
            response.inputs.add(name=name, datatype=datatype, shape=shape)
        for name, datatype, shape in outputs_of(model.answerer):
            response.outputs.add(name=name, datatype=datatype, shape=shape)
        return response

    def _infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Read the records, run the backbone in a batch, answer by the head, note what went through."""
        model = self._model(request.model_name, request.model_version)
        if (reason := self.models.usable(model)) is not None:
            raise RefusedError(Code.FAILED_PRECONDITION, reason)
        wanted = _wanted(request, model.answerer)
        if not self._slots.acquire(blocking=False):
            raise RefusedError(
                Code.RESOURCE_EXHAUSTED,
                f"{self.limits.in_flight} requests are under way, which is the limit; try again",
            )
        try:
            with self.meters.in_flight.track_inprogress(), self.meters.seconds.labels(model.name).time():
                records = model.served.read(read_inputs(request, max_records=self.limits.records))
                features = self._features(model, records, context)
                answers = model.answerer.answer(features)
        finally:
            self._slots.release()
        self._note(model, request.id, answers)
        return self._response(model, request.id, answers, wanted)

    def _features(self, model: Model, records: Any, context: grpc.ServicerContext) -> Any:
        left = context.time_remaining()
        seconds = self.limits.seconds if left is None else min(left, self.limits.seconds)
        future = model.served.batcher.submit(records)
        try:
            return future.result(timeout=max(0.0, seconds))
        except FutureTimeoutError:
            future.cancel()
            raise RefusedError(
                Code.DEADLINE_EXCEEDED, f"there was no answer within {seconds:.1f} s"
            ) from None

    def _note(self, model: Model, request_id: str, answers: Answers) -> None:
        self.meters.records.labels(model.name).inc(len(answers.labels))
        self.meters.abstained.labels(model.name).inc(int(answers.abstain.sum()))
        if self.journal is not None and model.answerer.audited:
            histograms = Histograms(model.served.head.head)
            self.journal.note(model.name, model.version, request_id, answers, histograms)

    def _response(self, model: Model, request_id: str, answers: Answers, wanted: list[str]) -> Any:
        response = protocol.message("ModelInferResponse")(
            model_name=model.name, model_version=model.version, id=request_id
        )
        response.parameters["audited"].bool_param = model.answerer.audited
        action = self.models.gate["action"]
        if action in ("warn", "shadow"):
            response.parameters["gate"].string_param = action
        if action == "shadow":  # nobody is to act on it: every answer is left to a person
            answers.abstain[:] = True
        values = values_of(answers)
        for name in wanted:
            write_output(response, name, DATATYPES[name], values[name])
        return response


def _wanted(request: Any, answerer: Answerer) -> list[str]:
    known = [name for name, _, _ in outputs_of(answerer)]
    asked = [output.name for output in request.outputs]
    if unknown := [name for name in asked if name not in known]:
        raise ServiceError(f"there is no output '{unknown[0][:40]}'; the model gives {', '.join(known)}")
    return asked or known


def _log(event: str, code: grpc.StatusCode, seconds: float, said: str) -> None:
    """One line of JSON without any input, id or answer."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": event,
        "code": code.name,
        "ms": round(seconds * 1000, 2),
    }
    log.log(
        logging.INFO if code is Code.OK else logging.WARNING,
        json.dumps(line | ({"why": said} if said else {})),
    )
