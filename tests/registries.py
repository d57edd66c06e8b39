# SPDX-License-Identifier: Apache-2.0
"""
registries - Debian's docker-registry, and nginx before it, for tests and the demo.

    with registries.Registry(folder) as registry:
        ... f"docker://{registry.host}/repository:tag"

Each listens on a free port of loopback, keeps all it has in its folder, and is
ended by its pid.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.certificates import Pair
from tests.running import PATIENCE
from tests.token_server import PASSWORD, USER, TokenServer
from tests.tools import environment, tool

__all__ = ["Nginx", "Registry", "Server", "free_port"]


def free_port() -> int:
    """Return a port of loopback that nobody listens on.

    It is none of those that the kernel gives to clients: it stays free until
    its server comes, and while that is away.
    """
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    while True:
        port = random.randrange(10_000, int(ports.split()[0]))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """A program that listens on a port of loopback.

    Attributes:
        folder: where it keeps everything.
        port: where it listens.
        process: the program, None while it is stopped.
    """

    def __init__(self, folder: Path) -> None:
        """Choose a port; start() starts it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return how the program is started."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                # It ends with the thread that starts it: none is ever left behind.
                [tool("setpriv"), "--pdeathsig", "TERM", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(OTEL_TRACES_EXPORTER="none"),
                start_new_session=True,
            )
        ended = os.pidfd_open(self.process.pid)
        try:
            self._wait(ended)
        finally:
            os.close(ended)

    def _wait(self, ended: int) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            # Neither program tells when it is ready; one that ended does.
            if select.select([ended], [], [], 0.02)[0]:
                break
        self.kill()
        raise AssertionError(f"{self.command()}: does not start: {self.log()}")

    def log(self) -> str:
        """Return what it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        """End it if it runs."""
        if self.process:
            self.process.terminate()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End it, and those that it has started, as a crash would."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def __enter__(self) -> Server:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()


class Registry(Server):
    """A docker-registry.

    Attributes:
        host: "127.0.0.1:PORT".
        url: with the scheme.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tls: Pair | None = None,
        password: bool = False,
        tokens: tuple[TokenServer, Pair] | None = None,
        delete: bool = True,
    ) -> None:
        """Keep blobs in folder.

        tls: its certificate. password: only USER with PASSWORD gets in.
        tokens: a token server, and who signs its tokens.
        """
        super().__init__(folder)
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        lines = [
            "version: 0.1",
            "log: {level: warn, accesslog: {disabled: true}}",
            "storage:",
            f"  filesystem: {{rootdirectory: {folder / 'blobs'}, maxthreads: 100}}",
            f"  delete: {{enabled: {str(delete).lower()}}}",
            "http:",
            f"  addr: {self.host}",
            "  secret: one-for-all-tests",
        ]
        if tls:
            lines.append(f"  tls: {{certificate: {tls.certificate}, key: {tls.key}}}")
        lines += self._auth(password, tokens)
        (folder / "config.yml").write_text("\n".join(lines) + "\n")

    def _auth(
        self, password: bool, tokens: tuple[TokenServer, Pair] | None
    ) -> list[str]:
        if password:
            path = self.folder / "htpasswd"
            command = [tool("htpasswd"), "-Bbn", "-C", "4", USER, PASSWORD]
            done = subprocess.run(command, capture_output=True, check=True)
            path.write_bytes(done.stdout)
            return [f"auth: {{htpasswd: {{realm: test, path: {path}}}}}"]
        if tokens:
            server, signer = tokens
            return [
                f'auth: {{token: {{realm: "{server.url}", service: registry, '
                f"issuer: test, rootcertbundle: {signer.certificate}}}}}"
            ]
        return []

    def command(self) -> list[str]:
        """Return how it is started."""
        return [tool("docker-registry"), "serve", str(self.folder / "config.yml")]

    def __enter__(self) -> Registry:
        """Start it."""
        self.start()
        return self


_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log info;
{user}
events {{ worker_connections 512; }}
http {{
  log_format asked '$request_method $request_uri $http_range $status';
  access_log {folder}/access.log asked;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi; client_max_body_size 0;
  {outside}
  server {{ listen 127.0.0.1:{port}{ssl}; {tls} {body} }}
}}
"""


class Nginx(Server):
    """An nginx with one server.

    Attributes:
        host: "127.0.0.1:PORT".
        url: with the scheme.
    """

    def __init__(
        self,
        folder: Path,
        body: str,
        *,
        tls: Pair | None = None,
        clients: Path | None = None,
        outside: str = "",
    ) -> None:
        """Let body be what stands in nginx's server { }, outside what is before it.

        tls: its certificate. clients: who signs those of the only clients
        that get in.
        """
        super().__init__(folder)
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        words = ""
        if tls:
            words = f"ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key};"
        if clients:
            words += f" ssl_client_certificate {clients}; ssl_verify_client on;"
        text = _NGINX.format(
            folder=folder,
            user="user root;" if os.geteuid() == 0 else "",
            port=self.port,
            ssl=" ssl" if tls else "",
            tls=words,
            outside=outside,
            body=body,
        )
        (folder / "nginx.conf").write_text(text)

    def command(self) -> list[str]:
        """Return how it is started."""
        config = str(self.folder / "nginx.conf")
        return [tool("nginx"), "-c", config, "-p", str(self.folder), "-e", "stderr"]

    def asked(self) -> list[str]:
        """Return "METHOD URI RANGE STATUS" of each request that was answered."""
        return (self.folder / "access.log").read_text().splitlines()

    def __enter__(self) -> Nginx:
        """Start it."""
        self.start()
        return self
