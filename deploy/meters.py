"""What Prometheus reads of a service: counts and times, never inputs."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meters:
    """The meters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "foedus_requests", "Calls by method and gRPC status", ["method", "code"], registry=registry
        )
        self.seconds = Histogram(
            "foedus_infer_seconds",
            "From request to answer",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram("foedus_batch_records", "Records in a batch", buckets=SIZES, registry=registry)
        self.records = Counter("foedus_records", "Records answered", ["model"], registry=registry)
        self.abstained = Counter("foedus_abstained", "Records left to a person", ["model"], registry=registry)
        self.in_flight = Gauge("foedus_in_flight", "Inferences under way", registry=registry)
        self.ready = Gauge(
            "foedus_ready", "1 while the model is verified, approved and not stopped", registry=registry
        )
        self.version = Gauge(
            "foedus_model_info", "The version that is served", ["model", "version"], registry=registry
        )
