"""Who listens where, and what a stranger is told there."""

import http.client
import json
import sys
import urllib.error
import urllib.request

import grpc

# one harmless question of each of Ray's services
QUESTIONS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/FreeObjects",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
CLOSED = {"UNAUTHENTICATED", 401, 403}


def knock(address: str, token: str | None) -> set[object]:
    """All answers of a port, to HTTP and to each of the questions, as status codes."""
    return {_ask_http(address, token), *_ask_grpc(address, token)} - {None}


def is_closed(answers: set[object]) -> bool:
    """Somebody is there, and tells nothing: refused, or no such service at this port."""
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
        return None  # nobody, or somebody who speaks another protocol


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
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    break
    return answers


if __name__ == "__main__":
    # on a node: python doors.py ADDRESS...; prints the doors that are not closed to a stranger
    told = {address: knock(address, None) | knock(address, "wrong") for address in sys.argv[1:]}
    print(
        json.dumps(
            {address: sorted(map(str, a)) for address, a in told.items() if not is_closed(a)}
        )
    )
