"""Probe of open ports: their answers to a client without a valid token."""

import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc

# one harmless request of each of Ray's services
QUESTIONS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
SILENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
CLOSED = {"UNAUTHENTICATED", 401, 403}


def knock(address: str, token: str | None) -> set[object]:
    """Return all answers of a port, to HTTP and to each of ``QUESTIONS``, as status codes."""
    return {_ask_http(address, token), *_ask_grpc(address, token)} - {None}


def find_open(addresses: Iterable[str]) -> dict[str, list[str]]:
    """Return the ports that a client without a token, or with a wrong one, can use."""
    addresses = list(addresses)
    with ThreadPoolExecutor(16) as pool:
        without = pool.map(lambda address: knock(address, None), addresses)
        wrong = pool.map(lambda address: knock(address, "wrong"), addresses)
        answers_of = dict(zip(addresses, zip(without, wrong, strict=True), strict=True))
    return {
        address: sorted(map(str, set().union(*answers)))
        for address, answers in answers_of.items()
        if not all(map(is_closed, answers))
    }


def is_closed(answers: set[object]) -> bool:
    """Return True if something answers and refuses: no permission, or no such service."""
    return bool(answers & CLOSED) and not answers & {"OK", 200}


def _ask_http(address: str, token: str | None) -> int | None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://{address}/api/jobs/", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=3) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None  # nothing listens, or another protocol is spoken


def _ask_grpc(address: str, token: str | None) -> list[str]:
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    answers = []
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        for question in QUESTIONS:
            call = channel.unary_unary(question)
            try:
                call(b"", timeout=2, metadata=metadata)
                answers.append("OK")
            except grpc.RpcError as error:
                answers.append(error.code().name)
                if error.code() in SILENT:
                    break
    return answers


if __name__ == "__main__":
    # on a node: python doors.py ADDRESS...; prints the open ports
    print(json.dumps(find_open(sys.argv[1:])))
