"""Check of a dashboard's lock; 0.0.0.0 stands for an address in the network."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from ophnet_ray.distributed import cluster_check
from ophnet_ray.distributed.cluster_check import check_dashboard
from ophnet_ray.distributed.doors import GCS_QUESTION, check_grpc_doors
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit


@pytest.fixture
def dashboard():
    """Start an HTTP server that answers all requests with its ``status``."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("0.0.0.0", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("status", "is_open"), [(200, True), (500, True), (401, False)])
def test_only_a_refusal_says_that_a_dashboard_is_locked(dashboard, status, is_open):
    dashboard.status = status
    address = f"0.0.0.0:{dashboard.server_port}"
    if is_open:
        with pytest.raises(UserError, match=f"http://{address} answers without a token"):
            check_dashboard(address)
    else:
        check_dashboard(address)
    check_dashboard(f"127.0.0.1:{dashboard.server_port}")  # reached from its own machine alone


def test_a_dashboard_out_of_reach_is_no_door():
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))  # taken, and nothing listens
        check_dashboard(f"0.0.0.0:{free.getsockname()[1]}")


def test_a_dashboard_that_says_nothing_is_not_taken_for_a_locked_one(monkeypatch):
    monkeypatch.setattr(cluster_check, "ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        address = f"0.0.0.0:{silent.getsockname()[1]}"
        with pytest.raises(
            UserError, match=f"http://{address} accepts a connection but does not answer"
        ):
            check_dashboard(address)


def test_a_dashboard_is_named_by_its_host_too(dashboard):
    """KubeRay and people give names; a name of the loopback address is no door."""
    dashboard.status = 200
    check_dashboard(f"localhost:{dashboard.server_port}")
    check_dashboard("no-such-host.invalid:8265")


@pytest.mark.parametrize("is_open", [True, False])
def test_a_service_that_answers_strangers_is_refused(is_open):
    """The head of ``ray start --head`` without a token; its dashboard is on loopback."""

    class Service(grpc.GenericRpcHandler):
        def service(self, call):
            assert call.method == GCS_QUESTION
            return grpc.unary_unary_rpc_method_handler(answer)

    def answer(_request, context):
        if not is_open:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return b""

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Service()])
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        check_grpc_doors([f"127.0.0.1:{port}", "0.0.0.0:1"], GCS_QUESTION, "the Ray cluster")
        address = f"0.0.0.0:{port}"
        if is_open:
            with pytest.raises(UserError, match=f"the Ray cluster {address} answers without a"):
                check_grpc_doors([address], GCS_QUESTION, "the Ray cluster")
        else:
            check_grpc_doors([address], GCS_QUESTION, "the Ray cluster")
    finally:
        server.stop(None)
