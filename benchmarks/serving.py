"""Latency and throughput of `foedus serve`, with and without batches, beside the bare torch forward in the same run.

Images go through the bundled EfficientNet-Lite0; rows of a table through the head alone. The service is a process
of its own; clients are tritonclient, each with its own connection. Usage: python benchmarks/serving.py [--seconds 10]
"""

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image

from fairness.signing import create_key, load_signer
from foedus import files
from foedus.approval import approve
from foedus.assembled import assemble
from foedus.releasing import release
from foedus.runs import RunFolder
from foedus.simulation import simulate

OUT = Path(__file__).parent / "results" / "serving.json"
STUDY = """
[study]
name = "{name}"
classes = ["no", "yes"]
[backbone]
{backbone}
[federation]
rounds = 1
[door]
mode = "open"
[fairness]
policy = "policy.toml"
"""
COLUMNS = "".join(f'[[table.columns]]\nname = "x{i}"\nkind = "number"\n' for i in range(13))
POLICY = """
[policy]
name = "bench"
[attributes]
sex = ["f", "m"]
[[gate]]
metric = "tpr"
compare = "max_difference"
tolerance = 0.9
[evidence]
min_n = 1
min_positives = 1
min_sites = 1
[disclosure]
k = 1
min_sites = 1
"""
SITE = """
[site]
name = "{name}"
[data]
{kind}
path = "data.csv"
label = "y"
[policy]
doors = ["open"]
[groups.sex]
column = "sex"
values = {{ f = "f", m = "m" }}
"""
SLICES = 5
SITES = ("east", "north", "west")


def picture(seed: int) -> bytes:
    """A PNG of 64 by 64 pixels; every second is bright."""
    noise = np.random.default_rng(seed).integers(0, 100, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise + np.uint8(150 * (seed % 2))).save(buffer, "PNG")
    return buffer.getvalue()


def build(folder: Path, *, images: bool) -> tuple[RunFolder, Path]:
    """An approved run on three sites of generated data, and its release."""
    name = "images" if images else "rows"
    backbone = 'source = "bundled:efficientnet-lite0"' if images else 'source = "tabular"'
    folder.mkdir()
    (folder / "study.toml").write_text(
        STUDY.format(name=name, backbone=backbone) + ("" if images else COLUMNS)
    )
    (folder / "policy.toml").write_text(POLICY)
    for place, site in enumerate(SITES):
        write_site(folder / "sites" / site, site, place, images=images)
    run, _ = simulate(folder / "study.toml", folder / "sites", runs=folder / "runs", reference=False)
    for who, role in (("hub", "coordinator"), ("jane", "auditor")):
        create_key(folder / "keys", name=who, role=role, passphrase=None)
    hub, jane = (load_signer(folder / f"keys/{who}.key", passphrase=lambda: "") for who in ("hub", "jane"))
    approve(run, jane)
    return run, release(run, hub, keys=[jane.public], to=folder / "releases").path


def write_site(folder: Path, name: str, place: int, *, images: bool) -> None:
    """site.toml, data.csv and, for images, the files."""
    folder.mkdir(parents=True)
    kind = 'kind = "images"\nimage = "path"' if images else 'kind = "table"'
    (folder / "site.toml").write_text(SITE.format(name=name, kind=kind))
    rng, rows = np.random.default_rng(place), []
    for i in range(60):
        row: dict[str, Any] = {"y": ["no", "yes"][i % 2], "sex": "fm"[i // 2 % 2]}
        if images:
            (folder / f"{i}.png").write_bytes(picture(100 * place + i))
            row["path"] = f"{i}.png"
        else:
            row |= {f"x{j}": round(float(rng.normal() + (i % 2) * (j == 0)), 4) for j in range(13)}
        rows.append(row)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def served(bundle: Path, keys: Path, *, max_batch: int) -> Iterator[str]:
    """The address of a service."""
    command = [str(Path(sys.executable).with_name("foedus")), "serve", str(bundle), "--trust", str(keys)]
    command += ["--address", "127.0.0.1:0", "--max-batch", str(max_batch), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.wait()


def load(address: str, model: str, inputs: list[Any], *, clients: int, seconds: float) -> list[float]:
    """Seconds from request to answer, of clients that ask without pause."""
    took: list[float] = []
    begin, end = threading.Event(), [0.0]

    def ask() -> None:
        client = triton.InferenceServerClient(address)
        client.infer(model, inputs)
        begin.wait()
        while (at := time.perf_counter()) < end[0]:
            client.infer(model, inputs)
            took.append(time.perf_counter() - at)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    end[0] = time.perf_counter() + seconds
    begin.set()
    for thread in threads:
        thread.join()
    return took


def figures(took: list[float], *, seconds: float) -> dict[str, float]:
    """Requests a second and milliseconds from request to answer."""
    return {"requests_per_s": round(len(took) / seconds, 1), **quantiles(took)}


def quantiles(took: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {f"p{q}_ms": round(float(np.percentile(took, q)) * 1000, 3) for q in (50, 99)}


def bare(call: Callable[[], Any], *, seconds: float) -> dict[str, float]:
    """The same of a call in this process."""
    for _ in range(5):
        call()
    took, end = [], time.perf_counter() + seconds
    while (at := time.perf_counter()) < end:
        call()
        took.append(time.perf_counter() - at)
    return figures(took, seconds=seconds)


def measure_images(folder: Path, seconds: float) -> dict[str, Any]:
    """One image a request."""
    import torch

    run, bundle = build(folder, images=True)
    whole = assemble(run)
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture(7)], object))
    feeds = whole.front.feeds([np.asarray(Image.open(io.BytesIO(picture(7))))])
    pixels = torch.from_numpy(feeds["pixels"])
    found: dict[str, Any] = {}
    with torch.inference_mode():
        found["bare forward"] = bare(lambda: whole.module(pixels), seconds=seconds / 2)
    took: dict[str, list[float]] = {}
    keys = folder / "keys"
    with served(bundle, keys, max_batch=32) as batched, served(bundle, keys, max_batch=1) as single:
        for _ in range(SLICES):  # in turns, so that busy neighbours slow both
            for name, address in (("batched", batched), ("one by one", single)):
                for clients in (1, 16):
                    asked = load(address, "images", [tensor], clients=clients, seconds=seconds / SLICES)
                    took.setdefault(f"{name}, {clients} client{'s' * (clients > 1)}", []).extend(asked)
    found |= {name: figures(times, seconds=seconds) for name, times in took.items()}
    ratio = found["batched, 16 clients"]["requests_per_s"] / found["one by one, 16 clients"]["requests_per_s"]
    return {**found, "batching_gain": round(ratio, 2)}


def measure_rows(folder: Path, seconds: float) -> dict[str, Any]:
    """One row a request: the head alone."""
    import torch

    run, bundle = build(folder, images=False)
    whole = assemble(run)
    inputs = []
    for i in range(13):
        tensor = triton.InferInput(f"x{i}", [1], "FP64")
        tensor.set_data_from_numpy(np.array([0.5]))
        inputs.append(tensor)
    columns = torch.zeros(1, whole.embedder.spec.dim)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        found["bare forward"] = bare(lambda: whole.module(columns), seconds=seconds / 2)
    with served(bundle, folder / "keys", max_batch=32) as address:
        for clients, name in ((1, "1 client"), (16, "16 clients")):
            took = load(address, "rows", inputs, clients=clients, seconds=seconds)
            found[name] = figures(took, seconds=seconds)
    overhead = found["1 client"]["p50_ms"] - found["bare forward"]["p50_ms"]
    return {**found, "overhead_p50_ms": round(overhead, 3)}


def main() -> None:
    """Measure both, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure_rows(Path(scratch) / "rows", seconds)
        print(json.dumps(rows, indent=1))
        images = measure_images(Path(scratch) / "images", seconds)
        print(json.dumps(images, indent=1))
    files.write_json(OUT, {"seconds": seconds, "images": images, "rows": rows})


if __name__ == "__main__":
    main()
