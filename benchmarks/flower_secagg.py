"""Flower's own SecAgg+ for comparison: its client mod, untouched, driven leg by leg in one process.

It runs on the legacy API only, and its masks can be searched (tests/foedus/attacks), so
it is here to compare cost, not protection. The coordinator's part is what the workflow of the
same package does when nobody drops.
"""

import logging
import time
from collections import defaultdict
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import RECORD_KEY_CONFIGS, secaggplus_mod
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from numpy.typing import NDArray

EXAMPLES, MAX_WEIGHT, CLIPPING, TARGET, MODULUS = 100, 1000.0, 8.0, 2**22, 2**32


class Flower:
    """Clients with equal weight, each the neighbour of `shares` (itself among them, an odd number or all)."""

    def __init__(self, values: list[NDArray[np.float32]], *, shares: int) -> None:
        self.ids = list(range(1, len(values) + 1))
        self.shares, self.threshold = shares, max(2, round(0.6 * shares))
        self.contexts = {nid: Context(1, nid, {}, RecordDict(), {}) for nid in self.ids}
        self.results = {
            nid: FitRes(Status(Code.OK, ""), ndarrays_to_parameters([value]), EXAMPLES, {})
            for nid, value in zip(self.ids, values, strict=True)
        }
        self.client_s: dict[int, float] = defaultdict(float)
        self.up_bytes: dict[int, int] = defaultdict(int)

    def neighbours(self, nid: int) -> list[int]:
        """A ring, as the workflow has it but for the shuffle; with itself."""
        if self.shares >= len(self.ids):
            return self.ids
        half, place = self.shares // 2, nid - 1
        return sorted(self.ids[(place + offset) % len(self.ids)] for offset in range(-half, half + 1))

    def ask(self, nid: int, stage: str, **configs: Any) -> dict[str, Any]:
        """One leg of one client, charged to it."""

        def train(message: Message, context: Context) -> Message:
            return Message(fitres_to_recorddict(self.results[nid], keep_input=True), reply_to=message)

        content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord({"stage": stage, **configs})})
        message = Message(content, metadata=Metadata(1, "", 0, nid, "", "", time.time(), 60.0, "train"))
        begun = time.process_time()
        reply = secaggplus_mod(message, self.contexts[nid], train)
        self.client_s[nid] += time.process_time() - begun
        self.up_bytes[nid] += sum(
            _size(value) for record in reply.content.config_records.values() for value in record.values()
        )
        return dict(reply.content.config_records[RECORD_KEY_CONFIGS])

    def mean(self) -> NDArray[np.float64]:
        """All four legs, and the mean that comes of them."""
        setup = {"sample_num": len(self.ids), "share_num": self.shares, "threshold": self.threshold}
        setup |= {"target_range": TARGET, "mod_range": MODULUS}
        real = {"clipping_range": CLIPPING, "max_weight": MAX_WEIGHT}
        keys = {nid: self.ask(nid, "setup", **setup, **real) for nid in self.ids}
        sent = {}
        for nid in self.ids:
            public = {str(n): [keys[n]["pk1"], keys[n]["pk2"]] for n in self.neighbours(nid)}
            sent[nid] = self.ask(nid, "share_keys", **public)
        total: list[NDArray[Any]] = []
        for nid in self.ids:
            inbox = [
                (source, text)
                for source, found in sent.items()
                for target, text in zip(found["dsts"], found["ctxts"], strict=True)
                if target == nid
            ]
            sources, texts = zip(*inbox, strict=True)
            found = self.ask(nid, "collect_masked_vectors", ctxts=list(texts), srcs=list(sources))
            part = [bytes_to_ndarray(text) for text in found["masked_params"]]
            total = parameters_addition(total, part) if total else part
        return self._unmask(parameters_mod(total, MODULUS))

    def _unmask(self, total: list[NDArray[Any]]) -> NDArray[np.float64]:
        shares: dict[int, list[bytes]] = defaultdict(list)
        for nid in self.ids:
            reply = self.ask(nid, "unmask", active_nids=self.neighbours(nid), dead_nids=[])
            for owner, share in zip(reply["nids"], reply["shares"], strict=True):
                shares[owner].append(share)
        shapes = [part.shape for part in total]
        for found in shares.values():
            total = parameters_subtraction(total, pseudo_rand_gen(combine_shares(found), MODULUS, shapes))
        ratio, rest = factor_extract(parameters_mod(total, MODULUS))
        [mean] = dequantize(rest, CLIPPING, TARGET)
        return np.asarray((mean - (len(self.ids) - 1) * CLIPPING) * (TARGET / ratio), np.float64)


def _size(value: Any) -> int:
    """Bytes of a configuration value, without framing."""
    if isinstance(value, bytes | str):
        return len(value)
    return sum(map(_size, value)) if isinstance(value, list) else 8


def measure(n_sites: int, n_params: int) -> dict[str, object]:
    """Cost and error of Flower's SecAgg+, with shares to all and (its cheaper ring) to 5."""
    logging.getLogger("flwr").setLevel(logging.WARNING)  # a line for every leg is no part of the protocol
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 0.5, n_params).astype(np.float32) for _ in range(n_sites)]
    plain = np.mean([value.astype(np.float64) for value in values], axis=0)
    found: dict[str, object] = {}
    for shares in sorted({n_sites, 5}):
        flower = Flower(values, shares=shares)
        mean = flower.mean()
        up = max(flower.up_bytes.values())
        found[f"shares_{shares}_of_{n_sites}"] = {
            "up_bytes": up,
            "over_float32": round(up / (4 * n_params), 4),
            "client_cpu_s": round(float(np.mean(list(flower.client_s.values()))), 4),
            "max_error_of_mean": float(f"{np.abs(mean - plain).max():.3g}"),
        }
    return found
