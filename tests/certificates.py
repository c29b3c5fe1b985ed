"""An authority of one's own and certificates of it, by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from required import require_tool


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate; a certificate of it for 127.0.0.1 and localhost, and its key."""

    authority: Path
    certificate: Path
    key: Path

    def server(self, *, clients: bool = False) -> ssl.SSLContext:
        """What a server needs; ``clients`` have to have certificates of the same authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context


def make_certificates(folder: Path) -> Certificates:
    """Make them; the authority lacks extensions, as home-made ones do."""
    openssl = require_tool("openssl")

    def run(*arguments: str | Path) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=folder)

    def new_key(name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")

    (folder / "empty.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
    (folder / "names").write_text("subjectAltName = IP:127.0.0.1, DNS:localhost\n")
    options = ("-config", "empty.cnf", "-subj")
    (folder / "ca.cnf").write_text(
        "[req]\ndistinguished_name = name\nx509_extensions = ca\n[name]\n[ca]\nbasicConstraints = CA:TRUE\n"
    )
    run(
        "req",
        "-x509",
        "-config",
        "ca.cnf",
        "-subj",
        "/CN=our authority",
        "-days",
        "2",
        *new_key("ca"),
        "-out",
        "ca.pem",
    )
    run("req", "-new", *options, "/CN=localhost", *new_key("server"), "-out", "server.csr")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    run("x509", "-req", "-in", "server.csr", *signing, "-out", "server.pem")
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
