"""Every site's commitment to its audit counts: through each door, over the very tensors that were summed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.app import app as client_app
from fairness.commitments import REPORTS_FOLDER, Commitments, open_at_site
from foedus import records, simulation
from foedus.approval import verify
from foedus.door import KEPT_FOLDER
from foedus.files import read_arrays
from foedus.runs import RunFolder
from foedus.site import find_sites
from server.app import conduct
from server.local_grid import LocalGrid


def _use(toy: Path, mode: str) -> None:
    path = toy / "study.toml"
    text = re.sub(r'mode = ".*"', f'mode = "{mode}"', path.read_text())
    path.write_text(text.replace('kind = "number"', 'kind = "number"\nrange = [-4.0, 4.0]'))
    for site in find_sites(toy / "sites"):
        file = site / "site.toml"
        file.write_text(re.sub(r"doors = \[.*\]", f'doors = ["{mode}"]', file.read_text()))


def _kept(site: Path, run: str) -> dict[str, np.ndarray]:
    [path] = (site / REPORTS_FOLDER / run).glob("audit-commitment-*.json")
    arrays = json.loads(path.read_text())["arrays"]
    return {k: np.array(a["values"], a["dtype"]).reshape(a["shape"]) for k, a in arrays.items()}


@pytest.mark.parametrize("mode", ["open", "secure-only", "secure+ddp", "local-dp"])
def test_every_site_commits_to_what_it_added(toy: Path, mode: str) -> None:
    _use(toy, mode)
    run, outcome = simulation.simulate(toy / "study.toml", toy / "sites", runs=toy / "runs", reference=False)
    published = Commitments.read(run.path / "commitments.json")
    assert [found.site for found in published.sites] == ["east", "north", "south", "west"]
    assert not published.missing
    masked = mode.startswith("secure")
    assert all(found.signed is masked for found in published.sites)
    assert (published.roster is not None) is masked
    sites = find_sites(toy / "sites")
    for site in sites:
        assert open_at_site(site, published, site=site.name) == []
    tensors = [_kept(site, run.run_id) for site in sites]
    if mode in ("open", "secure-only"):
        assert outcome.audit is not None
        assert sum(int(kept["confusion:sex"].sum()) for kept in tensors) == outcome.audit.n
    else:  # what was kept is what left, noise and all
        for site, kept in zip(sites, tensors, strict=True):
            [released] = (site / KEPT_FOLDER / run.run_id).glob("audit.*.safetensors")
            assert read_arrays(released)["joint"].tobytes() == kept["joint"].tobytes()
    assert verify(run).ok
    texts = [path.read_text() for path in run.path.glob("*.json*")]
    assert not any("salt" in text for text in texts)


def test_a_site_that_commits_to_nothing_is_named(toy: Path) -> None:
    silent = ClientApp()

    @silent.query("enlist")
    def enlist(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @silent.query("report")
    def report(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @silent.train()
    def train(message: Message, context: Context) -> Message:
        return client_app(message, context)

    @silent.query("statistic")
    def statistic(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        words = reply.content.config_records.get(records.CONFIG)
        if words and Path(str(context.node_config["site-folder"])).name == "south":
            words.pop(records.COMMITMENT, None)
        return reply

    policy = (toy / "policy.toml").read_text()
    run = RunFolder.create(
        toy / "runs", toy / "study.toml", policy=policy, engine="local", sites=str(toy / "sites")
    )
    conduct(LocalGrid(silent, find_sites(toy / "sites")), run)
    published = Commitments.read(run.path / "commitments.json")
    assert [found.site for found in published.sites] == ["east", "north", "west"]
    [missing] = published.missing
    assert missing.site == "south"
    assert "malformed" in missing.reason
