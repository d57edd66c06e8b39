# SPDX-License-Identifier: Apache-2.0
"""
token_server - gives out bearer tokens as registries take them: RS256, x5c.

Who comes without a password may pull, "user" with "secret" may do anything.
Every request is noted, so that tests can count them.
"""

from __future__ import annotations

import base64
import http.server
import json
import secrets
import ssl
import subprocess
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.certificates import Pair
from tests.tools import tool

__all__ = ["PASSWORD", "USER", "TokenServer"]

USER, PASSWORD = "user", "secret"
IDENTITY = "the-identity-token"


class TokenServer:
    """A running server.

    Attributes:
        url: of its tokens, the "realm".
        seconds: for which the next tokens are good.
        lie: what the next tokens say of that, None: the truth.
        requests: (method, query or form, Authorization or "") of each request.
        refusing: whether it answers 401 to everything.
        signer: who signs the next tokens.
    """

    def __init__(self, signer: Pair) -> None:
        """Start it; signer's certificate is in the registry's bundle."""
        self.seconds = 300
        self.lie: int | None = None
        self.refusing = False
        self.requests: list[tuple[str, dict[str, list[str]], str]] = []
        self.signer = signer
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(
            target=self._server.serve_forever, args=[0.02], daemon=True
        ).start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def token(self, service: str, scopes: list[str], user: str) -> str:
        """Return a token for scopes, "repository:NAME:pull,push"."""
        now = int(time.time())
        claims = {
            "iss": "test",
            "sub": user,
            "aud": service,
            "exp": now + self.seconds,
            "nbf": now - 5,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [_access(scope, user) for scope in scopes],
        }
        pem = self.signer.certificate.read_text()
        der = base64.b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode()
        header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = f"{_encoded(header)}.{_encoded(claims)}"
        command = [tool("openssl"), "dgst", "-sha256", "-sign", str(self.signer.key)]
        done = subprocess.run(
            command, input=signed.encode(), capture_output=True, check=True
        )
        return f"{signed}.{_base64(done.stdout)}"


def _access(scope: str, user: str) -> dict[str, Any]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    allowed = [one for one in actions.split(",") if one == "pull" or user]
    return {"type": kind, "name": name, "actions": allowed}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encoded(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: TokenServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        """Give a token to who comes with a password, or with none."""
        query = parse_qs(urlsplit(self.path).query)
        given = self.headers.get("Authorization", "")
        self.owner.requests.append(("GET", query, given))
        user = ""
        if given.startswith("Basic "):
            user, _, password = base64.b64decode(given[6:]).decode().partition(":")
            if (user, password) != (USER, PASSWORD):
                return self._refuse()
        return self._give(query, user)

    def do_POST(self) -> None:
        """Give a token to who comes with a refresh token."""
        size = int(self.headers.get("Content-Length", 0))
        form = parse_qs(self.rfile.read(size).decode())
        self.owner.requests.append(("POST", form, ""))
        if form.get("refresh_token") != [IDENTITY]:
            return self._refuse()
        return self._give(form, USER)

    def _give(self, query: dict[str, list[str]], user: str) -> None:
        owner = self.owner
        if owner.refusing:
            return self._refuse()
        scopes = " ".join(query.get("scope", [])).split()
        found = owner.token(query["service"][0], scopes, user)
        lasts = owner.seconds if owner.lie is None else owner.lie
        answer = {"token": found, "access_token": found, "expires_in": lasts}
        return self._answer(200, json.dumps(answer).encode())

    def _refuse(self) -> None:
        self._answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
