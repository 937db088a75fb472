"""Images and texts through the bundled backbones, asked by a Triton client; and a bundle read without Foedus."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from deploy.serve import Service, Settings
from foedus.assembled import assemble
from foedus.releasing import release

Made = Any
STUDY = """
[study]
name = "{name}"
classes = ["no", "yes"]
[backbone]
source = "{source}"
{more}
[federation]
rounds = 1
min_sites = 2
[door]
mode = "open"
[fairness]
policy = "policy.toml"
"""
SITES = ("east", "north", "west")


def picture(seed: int, *, bright: bool) -> Image.Image:
    """Noise, dark or bright."""
    noise = np.random.default_rng(seed).integers(0, 100, (40, 48, 3), dtype=np.uint8)
    return Image.fromarray(noise + np.uint8(150 * bright))


def started(made: Made) -> tuple[Service, Any]:
    found = release(made.run, made.hub, keys=[made.jane.public], to=made.folder / "releases")
    service = Service(Settings(found.path, made.keys, address="127.0.0.1:0"))
    service.start()
    return service, triton.InferenceServerClient(f"127.0.0.1:{service.port}")


def encoded(values: list[bytes], name: str) -> Any:
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, object))
    return tensor


@pytest.mark.slow
def test_images_as_files_and_as_tensors(make_approved: Callable[..., Made], tmp_path: Path) -> None:
    sites = {}
    for place, name in enumerate(SITES):
        (tmp_path / "sites" / name).mkdir(parents=True)
        rows = []
        for i in range(40):
            picture(100 * place + i, bright=i % 2 == 1).save(tmp_path / "sites" / name / f"{i}.png")
            rows.append({"path": f"{i}.png", "y": ["no", "yes"][i % 2], "sex": "fm"[i // 2 % 2]})
        sites[name] = rows
    study = STUDY.format(name="scans", source="bundled:efficientnet-lite0", more="image_size = 64")
    made = make_approved(tmp_path, study, sites, kind='kind = "images"\nimage = "path"')
    service, client = started(made)
    try:
        pictures = [picture(999, bright=bright) for bright in (True, False)]
        files = []
        for one in pictures:
            buffer = io.BytesIO()
            one.save(buffer, "PNG")
            files.append(buffer.getvalue())
        found = client.infer("scans", [encoded(files, "image")])
        assert found.as_numpy("label").tolist() == [b"yes", b"no"]
        expected = assemble(made.run).scores([np.asarray(one) for one in pictures])
        odds = np.log(found.as_numpy("probabilities"))
        temperature = service.models.get("scans", "").served.head.serving.temperature
        assert odds[:, 1] - odds[:, 0] == pytest.approx(
            temperature * (expected[:, 1] - expected[:, 0]), abs=1e-2
        )
        tensor = triton.InferInput("image", [2, 40, 48, 3], "UINT8")
        tensor.set_data_from_numpy(np.stack([np.asarray(one) for one in pictures]))
        again = client.infer("scans", [tensor])
        assert again.as_numpy("probabilities") == pytest.approx(found.as_numpy("probabilities"), abs=1e-5)
        for spoilt in (b"no image", files[0][:60]):
            with pytest.raises(triton.InferenceServerException, match="image 0"):
                client.infer("scans", [encoded([spoilt], "image")])
        assert client.is_server_ready()
    finally:
        service.stop()


@pytest.mark.slow
def test_texts_and_the_example_that_needs_no_foedus(
    make_approved: Callable[..., Made], tmp_path: Path
) -> None:
    words = {
        "no": ["the weather is sunny", "rain fell all day"],
        "yes": ["shares rose", "the bank paid interest"],
    }
    sites = {
        name: [
            {
                "t": f"{words[label][i // 2 % 2]}, note {place} {i}",
                "y": label,
                "sex": "fm"[i // 2 % 2],
            }
            for i in range(40)
            for label in [["no", "yes"][i % 2]]
        ]
        for place, name in enumerate(SITES)
    }
    study = STUDY.format(name="news", source="bundled:minilm-l6", more="")
    made = make_approved(tmp_path, study, sites, kind='kind = "text"\ntext = "t"')
    service, client = started(made)
    try:
        texts = ["the bank paid interest today", "it was a sunny day"]
        found = client.infer("news", [encoded([text.encode() for text in texts], "text")])
        assert found.as_numpy("label").tolist() == [b"yes", b"no"]
        with pytest.raises(triton.InferenceServerException, match="not UTF-8"):
            client.infer("news", [encoded([b"\xff"], "text")])
        probabilities = found.as_numpy("probabilities")
    finally:
        service.stop()
    docs = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    [code] = re.findall(r"```python\n(# Without Foedus.*?)```", docs, flags=re.S)
    blocked = "import sys\nfor name in ('foedus', 'deploy', 'fairness'): sys.modules[name] = None\n"
    ran = subprocess.run(
        [sys.executable, "-c", blocked + code, str(made.folder / "releases/news/0001"), *texts],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    alone = np.array([[float(x) for x in line.split()] for line in ran.stdout.splitlines()])
    assert alone == pytest.approx(probabilities, abs=5e-3)
