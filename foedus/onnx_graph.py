"""A whole model as an ONNX graph: written by torch, made smaller by ONNX Runtime. Imports neither by itself."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from foedus import __version__
from foedus.assembled import Assembled
from foedus.errors import RunError

OUTPUTS = ["probabilities", "scores"]
LARGEST_BYTES = 2**31 - 2**20
"""An ONNX file in one part stays below 2 GiB."""

Graph = Any
"""onnx.ModelProto"""


def to_graph(whole: Assembled) -> Graph:
    """The whole model as an ONNX graph; any number of inputs at once.

    Raises:
        RunError: If it is too large for one file, or torch cannot express it in ONNX.
    """
    import torch

    weights = [*whole.module.parameters(), *whole.module.buffers()]
    if (size := sum(tensor.nbytes for tensor in weights)) > LARGEST_BYTES:
        raise RunError(
            f"the model's weights are {size / 2**30:.1f} GiB, but one ONNX file holds less than 2 GiB; choose a "
            "smaller backbone."
        )
    feeds = whole.front.feeds(whole.front.samples(2, np.random.default_rng(0)))
    axes = whole.front.axes
    free = tuple(dict(enumerate(names)) for names in axes.values())
    example = tuple(torch.from_numpy(feeds[name]) for name in axes)
    named: dict[str, Any] = {"input_names": list(axes), "output_names": OUTPUTS, "dynamic_shapes": (free,)}
    try:
        with _quiet():
            program = torch.onnx.export(whole.module, example, **named, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise RunError(
            f"'{whole.embedder.spec.source}' cannot be written as ONNX: torch cannot express it "
            f"({type(error.__cause__ or error).__name__}); use another backbone, or the head with torch "
            "(docs/runs.md)."
        ) from error
    graph: Graph = program.model_proto  # type: ignore[union-attr]
    del graph.graph.value_info[:]  # shapes in between, which every runtime finds out by itself
    for part in (*graph.graph.node, *graph.graph.initializer):
        del part.metadata_props[:]  # torch notes the lines of code it came from, with their paths
    return graph


def quantised(graph: Graph) -> Graph:
    """The same graph with 8-bit weights, activations measured as they come (ONNX Runtime's dynamic kind).

    The first convolution, the depthwise ones and the head stay as they are: few weights, most of the loss.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    depthwise = [node for node in convolutions if any(a.name == "group" and a.i > 1 for a in node.attribute)]
    products = [node for node in graph.graph.node if node.op_type in ("Gemm", "MatMul")]
    kept = [node.name for node in (*convolutions[:1], *depthwise, *products[-1:])]
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        target = Path(scratch) / "model.onnx"
        copy = onnx.load_from_string(graph.SerializeToString())
        quantize_dynamic(copy, target, per_channel=True, weight_type=QuantType.QUInt8, nodes_to_exclude=kept)
        return onnx.load(str(target))


def sealed(graph: Graph, about: dict[str, str]) -> bytes:
    """The file: the graph with its metadata."""
    import onnx

    graph.producer_name, graph.producer_version = "foedus", __version__
    onnx.helper.set_model_props(graph, about)
    return bytes(graph.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's and the quantiser's remarks on how they work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
