"""A real time-stamping authority (RFC 3161): OpenSSL's, behind a small HTTP server of a test's own."""

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

_CONFIG = """
[ tsa ]
default_tsa = here
[ here ]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
ess_cert_id_alg = sha256
[ req ]
distinguished_name = dn
[ dn ]
[ authority ]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[ stamping ]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
"""


class TimeStamping:
    """The authority: its address, and its root certificate."""

    def __init__(self, folder: Path) -> None:
        """Make the certificates in ``folder``."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "serial").write_text("01\n", encoding="ascii")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder), encoding="ascii")
        for name, subject, section in (("root", "/CN=Time root", "authority"), ("tsa", "/CN=Time", "stamping")):
            under = ["-CA", "root.pem", "-CAkey", "root.key"] if name == "tsa" else []
            self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                          "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "30", "-subj", subject,
                          "-config", "tsa.cnf", "-extensions", section, *under)  # fmt: skip
        self.root = folder / "root.pem"
        self.broken = False
        self._server = HTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/tsa"

    def __enter__(self) -> "TimeStamping":
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def says(self, token: bytes, data: bytes, root: Path) -> bool:
        """Return whether OpenSSL finds that a token is a stamp of ``data`` by an authority under ``root``."""
        (self.folder / "token").write_bytes(token)
        (self.folder / "data").write_bytes(data)
        done = subprocess.run(
            ["openssl", "ts", "-verify", "-in", "token", "-data", "data", "-CAfile", str(root)],
            cwd=self.folder, capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def _answer(self, query: bytes) -> bytes:
        (self.folder / "query").write_bytes(query)
        self._openssl("ts", "-reply", "-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key",
                      "-config", "tsa.cnf", "-out", "reply")  # fmt: skip
        return (self.folder / "reply").read_bytes()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                if authority.broken or self.headers["Content-Type"] != "application/timestamp-query":
                    self.send_error(503)
                    return
                answer = authority._answer(query)
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
