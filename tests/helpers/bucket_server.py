"""An S3 endpoint in a process of its own: moto's server, which counts requests and sent bytes.

``python bucket_server.py [ADDRESS]`` listens on loopback or on ADDRESS and prints its port.
``GET /_test/count`` returns the counts since the last call; ``/_test/fail?puts=3`` makes the next
three uploads fail with 503, or with another ``&status=403``; ``/_test/fail?gets=3`` answers the
next three reads with 403, as for a token that is being renewed; ``/_test/delay?ms=30`` delays every
answer, as a distant bucket does; ``/_test/conditions?ignored=1`` ignores ``If-None-Match``, as
older stores do; ``?refused=1`` answers it with 400. ``/_test/token?expired=1`` answers every upload
with 400, as to an expired token. ``/_test/open?below=runs/one`` answers 403 about everything else,
as to a key that opens one folder; without ``below`` all is open again.
The server ends when its standard input ends.
"""

import json
import logging
import os
import sys
import threading
import time
from urllib.parse import parse_qs

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class CountingApp:
    def __init__(self, app):
        self._app = app
        self._lock = threading.Lock()
        self._counts = {"requests": 0, "sent_bytes": 0, "failed": 0}
        self._puts_to_fail = 0
        self._put_status = "503"
        self._gets_to_fail = 0
        self._delay_s = 0.0
        self._ignores_conditions = False
        self._refuses_conditions = False
        self._is_expired = False
        self._open_folder = ""

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/_test/"):
            return self._control(environ, start_response)
        time.sleep(self._delay_s)
        if self._ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self._lock:
            self._counts["requests"] += 1
            is_upload = environ["REQUEST_METHOD"] == "PUT"
            fails = is_upload and self._puts_to_fail > 0
            self._puts_to_fail -= fails
            is_refused = environ["REQUEST_METHOD"] == "GET" and self._gets_to_fail > 0
            self._gets_to_fail -= is_refused
            self._counts["failed"] += fails + is_refused
        if code := self._error_of(environ):
            body = f"<Error><Code>{code}</Code><Message>the request is wrong</Message></Error>"
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("400 Bad Request", [("Content-Length", str(len(body)))])
            return [body.encode()]
        if is_refused or not _name_of(environ).startswith(self._open_folder):
            start_response("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        if fails:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{self._put_status} Failed", [("Content-Length", "0")])
            return [b""]
        return self._counted(self._app(environ, start_response))

    def _error_of(self, environ):
        """Return the code with which an upload is refused, if it is."""
        if environ["REQUEST_METHOD"] != "PUT":
            return ""
        if self._is_expired:
            return "ExpiredToken"
        is_refused = self._refuses_conditions and "HTTP_IF_NONE_MATCH" in environ
        return "InvalidArgument" if is_refused else ""

    def _counted(self, parts):
        for part in parts:
            with self._lock:
                self._counts["sent_bytes"] += len(part)
            yield part

    def _control(self, environ, start_response):
        with self._lock:
            asked = parse_qs(environ.get("QUERY_STRING", ""))
            if "puts" in asked:
                self._puts_to_fail = int(asked["puts"][0])
                self._put_status = asked.get("status", ["503"])[0]
            if "gets" in asked:
                self._gets_to_fail = int(asked["gets"][0])
            if "ms" in asked:
                self._delay_s = int(asked["ms"][0]) / 1000
            if "ignored" in asked:
                self._ignores_conditions = asked["ignored"][0] == "1"
            if "refused" in asked:
                self._refuses_conditions = asked["refused"][0] == "1"
            if "expired" in asked:
                self._is_expired = asked["expired"][0] == "1"
            if environ["PATH_INFO"].endswith("open"):
                self._open_folder = asked.get("below", [""])[0]
            answer = json.dumps(self._counts).encode()
            if environ["PATH_INFO"].endswith("count"):
                self._counts = dict.fromkeys(self._counts, 0)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [answer]


def _name_of(environ):
    """Return the object, or the beginning of the names, that a request is about."""
    name = environ["PATH_INFO"].lstrip("/").partition("/")[2]
    return name or parse_qs(environ.get("QUERY_STRING", "")).get("prefix", [""])[0]


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = CountingApp(DomainDispatcherApplication(create_backend_app))
    server = make_server(*sys.argv[1:] or ["127.0.0.1"], 0, app, threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
