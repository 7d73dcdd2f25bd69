"""Conditional puts: to moto's S3, and to a server that answers as Google's JSON interface does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ophnet_ray.storage.conditional_put import NoConditionalPutError, create_object
from ophnet_ray.storage.files import list_objects, read_bytes
from ophnet_ray.storage.filesystems import StorageError

pytestmark = pytest.mark.unit


def test_an_object_is_created_once(bucket):
    uri = bucket.uri("conditional/one")
    assert create_object(uri, b"first")
    assert not create_object(uri, b"second")
    assert read_bytes(uri) == b"first"


def test_a_missing_bucket_is_an_error_in_one_line(bucket):
    with pytest.raises(StorageError, match=r"s3://absent/one: .*NoSuchBucket[^\n]*$"):
        create_object(bucket.uri("one", bucket="absent"), b"")


def test_a_store_that_refuses_the_condition_has_none_and_is_left_clean(bucket):
    uri = bucket.uri("refused/one")
    bucket.refuse_conditions(True)
    try:
        with pytest.raises(NoConditionalPutError, match="InvalidArgument"):
            create_object(uri, b"")
    finally:
        bucket.refuse_conditions(False)
    assert list_objects(bucket.uri("refused")) == {}


def test_an_expired_token_is_an_error_of_its_own(bucket):
    """Its status is that of a condition that the store does not know."""
    bucket.expire_token(True)
    try:
        with pytest.raises(StorageError, match=r"^s3://surgery/expired/one: .*ExpiredToken[^\n]*$"):
            create_object(bucket.uri("expired/one"), b"")
    finally:
        bucket.expire_token(False)


def test_without_credentials_there_is_no_conditional_put(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    uri = "s3://surgery/one?endpoint_override=http%3A%2F%2F127.0.0.1%3A9&region=eu-west-9"
    with pytest.raises(NoConditionalPutError, match="credentials"):
        create_object(uri, b"")


class Google(BaseHTTPRequestHandler):
    """Tokens for a service account, and uploads that obey ``ifGenerationMatch=0``."""

    objects: ClassVar[dict[str, bytes]] = {}
    busy_answers = 0
    """Uploads that are answered with 503 before one is taken."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/token":
            self.answer(200, {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})
        elif self.headers["Authorization"] != "Bearer t":
            self.answer(401, {})
        elif address.path != "/upload/storage/v1/b/surgery/o" or asked["uploadType"] != "media":
            self.answer(404, {})
        elif Google.busy_answers:
            Google.busy_answers -= 1
            self.answer(503, {})
        elif asked["ifGenerationMatch"] == "0" and asked["name"] in self.objects:
            self.answer(412, {})
        else:
            self.objects[asked["name"]] = body
            self.answer(200, {"name": asked["name"]})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def google(tmp_path, monkeypatch):
    """Address of the server; the credentials of this process are for it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Google)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "project_id": "p",
        "client_email": "tests@p.example",
        "private_key": key.decode(),
        "token_uri": f"http://{address}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    yield address
    server.shutdown()
    server.server_close()


def test_an_object_of_googles_is_created_once(google):
    uri = f"gs://surgery/runs/demo/.lock/1?endpoint_override={google}&scheme=http"
    assert create_object(uri, b"first")
    assert not create_object(uri, b"second")
    assert Google.objects == {"runs/demo/.lock/1": b"first"}


def test_a_moment_in_which_google_is_busy_is_ridden_out(google, monkeypatch):
    monkeypatch.setattr(Google, "busy_answers", 2)
    assert create_object(f"gs://surgery/busy?endpoint_override={google}&scheme=http", b"")
    assert Google.busy_answers == 0


def test_a_refusal_of_googles_is_an_error_in_one_line(google):
    uri = f"gs://absent/one?endpoint_override={google}&scheme=http"
    with pytest.raises(StorageError, match=r"^gs://absent/one: 404 Not Found$"):
        create_object(uri, b"")
