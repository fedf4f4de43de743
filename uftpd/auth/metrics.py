"""What an auth server counts, for Prometheus. Labels are from small fixed sets: nothing a stranger sends is one.

One object a process; it outlives changes of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from uftp._version import __version__
from uftpd.auth.nodes.registry import NodeRegistry
from uftpd.auth.store.engine import Store

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_STORE_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1, 5)


class Metrics:
    """Counters, by name.

    Attributes:
        requests: answered, by resource, method and status.
        request_seconds: until the reply was sent, by resource.
        logins: by method (of those refused: the scheme of the header) and result.
        security_sessions: given, used, unknown.
        sessions: asked of data nodes, by logical server and result.
        transfers: managed ones that ended, by state.
        open_transfers: managed ones that have not ended, by state, at all servers on the store.
        reloads: of the configuration, by result.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "uftpd_auth_requests", "Requests answered.", ["resource", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "uftpd_auth_request_seconds",
            "Until the reply was sent.",
            ["resource"],
            registry=self.registry,
            buckets=_REQUEST_BUCKETS,
        )
        self.in_flight = Gauge("uftpd_auth_requests_in_flight", "Requests being served.", registry=self.registry)
        self.logins = Counter(
            "uftpd_auth_logins", "Credentials looked at.", ["method", "result"], registry=self.registry
        )
        self.security_sessions = Counter(
            "uftpd_auth_security_sessions", "Security session ids, by what became of them.", ["event"],
            registry=self.registry,
        )  # fmt: skip
        self.sessions = Counter(
            "uftpd_auth_sessions", "Sessions asked of data nodes.", ["server", "result"], registry=self.registry
        )
        self.transfers = Counter(
            "uftpd_auth_transfers_ended", "Managed transfers that ended.", ["state"], registry=self.registry
        )
        self.open_transfers = Gauge(
            "uftpd_auth_transfers", "Managed transfers that have not ended.", ["state"], registry=self.registry
        )
        self.reloads = Counter("uftpd_auth_reloads", "Configurations read again.", ["result"], registry=self.registry)
        self._store_seconds = Histogram(
            "uftpd_auth_store_seconds", "Work on the store.", ["kind"], registry=self.registry, buckets=_STORE_BUCKETS
        )
        self._store_failures = Counter(
            "uftpd_auth_store_failures", "Work on the store that failed.", ["kind"], registry=self.registry
        )
        Gauge("uftpd_auth_info", "The version.", ["version"], registry=self.registry).labels(__version__).set(1)

    def observe_store(self, kind: str, seconds: float, fine: bool) -> None:
        """Count one piece of work on the store."""
        self._store_seconds.labels(kind).observe(seconds)
        if not fine:
            self._store_failures.labels(kind).inc()

    def watch(
        self, nodes: Callable[[], NodeRegistry], store: Store, certificate_ends: Callable[[], float | None]
    ) -> None:
        """Show the state of nodes, store and certificate as well, as of the moment somebody looks."""
        self.registry.register(_State(nodes, store, certificate_ends))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(
        self, nodes: Callable[[], NodeRegistry], store: Store, certificate_ends: Callable[[], float | None]
    ) -> None:
        self._nodes = nodes
        self._store = store
        self._certificate_ends = certificate_ends

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "uftpd_auth_node_up", "Whether a data node answered when last asked.", labels=["server", "instance"]
        )
        for name, server in self._nodes().servers.items():
            for instance in server.instances:
                up.add_metric([name, str(instance.number)], float(instance.up))
        yield up
        used, waiting = self._store.statistics()
        yield GaugeMetricFamily("uftpd_auth_store_connections_in_use", "Connections to the store in use.", value=used)
        yield GaugeMetricFamily("uftpd_auth_store_waiting", "Requests waiting for a connection.", value=waiting)
        if (ends := self._certificate_ends()) is not None:
            yield GaugeMetricFamily(
                "uftpd_auth_certificate_expires_timestamp_seconds", "When the certificate for HTTPS ends.", value=ends
            )
