"""foedus serve: answer requests for a released model over gRPC."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foedus.cli.output import JsonOption, console
from foedus.cli.release import Trust, public_keys

if TYPE_CHECKING:
    from deploy.serve import Service


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a folder of releases: then what is current.")],
    trust: Trust = None,
    address: Annotated[str, typer.Option("--address", help="HOST:PORT; port 0 takes a free one.")] = (
        "127.0.0.1:8001"
    ),
    http_port: Annotated[
        int | None,
        typer.Option("--http-port", help="The same protocol over HTTP and JSON; 0 takes a free port."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", help="Prometheus metrics on loopback; 0 takes a free port."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Private key (PEM).")] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate chain (PEM).")] = None,
    client_ca: Annotated[
        Path | None, typer.Option("--client-ca", help="Only clients with a certificate of this authority.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", help="File of bearer tokens, one a line (chmod 600).")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let others reach it without TLS or tokens.")
    ] = False,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Folder of this site's own few-shot heads.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="Folder that foedus monitor reads.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="1 turns batching off.")] = 32,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1024, help="Of a request.")] = 32 * 2**20,
    max_records: Annotated[int, typer.Option("--max-records", min=1, help="Of a request.")] = 256,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.01, help="Of a request, seconds.")] = 30.0,
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", min=1, help="Requests at once; more are refused.")
    ] = 64,
    drain_s: Annotated[
        float, typer.Option("--drain", min=0.0, help="Seconds to finish after SIGTERM.")
    ] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Verify a bundle and serve it over gRPC (Open Inference Protocol). Exit code 1 if it does not hold.

    Example: foedus serve releases/heart --trust keys/hub.pub --trust auditor/jane.pub
    """
    import logging

    from deploy.serve import Settings
    from deploy.serve import serve as run
    from deploy.service import Limits
    from foedus.errors import ConfigError

    if (tls_key is None) != (tls_cert is None):
        raise ConfigError("foedus serve", ["--tls-key and --tls-cert go together"])
    logging.getLogger("foedus.service").setLevel(logging.INFO)
    settings = Settings(
        bundle,
        public_keys(trust),
        address=address,
        http_port=http_port,
        metrics_port=metrics_port,
        tls=None if tls_key is None or tls_cert is None else (tls_key, tls_cert),
        client_ca=client_ca,
        tokens=tokens,
        insecure=insecure,
        heads=heads,
        journal=journal,
        device=device,
        max_batch=max_batch,
        limits=Limits(max_bytes, max_records, timeout_s, max_in_flight, drain_s),
    )
    run(settings, ready=lambda service: _tell(service, as_json=as_json))


def _tell(service: "Service", *, as_json: bool) -> None:
    host = service.settings.address.rpartition(":")[0]
    address, names = f"{host}:{service.port}", service.models.names()
    http = None if service.rest is None else f"{host}:{service.rest.port}"
    if as_json:
        found = {"address": address, "models": names, "http": http, "metrics_port": service.metrics_port}
        print(json.dumps(found), flush=True)
        return
    over = "" if http is None else f", and over HTTP on {http}"
    console.print(f"serving {', '.join(names)} on {address}{over}", markup=False)
