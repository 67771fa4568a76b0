"""Calls that the transport sheds are counted as ended, and apart."""

from prometheus_client import CollectorRegistry

from sidecars.observability.call_metrics import CallMetrics
from sidecars.transport.api.service import Call, Service, Unary


def answer(message: bytes, _call: Call) -> bytes:
    return message


def test_a_shed_call_is_counted_and_has_no_duration() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry, lambda: 0.0)
    service = metrics.measured(Service("s", {"M": Unary(answer, urgent=lambda body: body == b"urgent")}))
    method = service.methods["M"]
    assert isinstance(method, Unary)
    assert method.shed is not None
    assert method.urgent is not None
    assert [method.urgent(b"urgent"), method.urgent(b"usual")] == [True, False]
    method.shed()
    method.shed()
    labels = {"grpc_type": "unary", "grpc_service": "s", "grpc_method": "M"}
    assert registry.get_sample_value("grpc_server_shed_total", labels) == 2
    exhausted = labels | {"grpc_code": "ResourceExhausted"}
    assert registry.get_sample_value("grpc_server_handled_total", exhausted) == 2
    assert registry.get_sample_value("grpc_server_started_total", labels) == 2
    assert registry.get_sample_value("grpc_server_handling_seconds_count", labels) == 0
