"""Certificate authorities and certificates for the tests, made anew with the ``cryptography`` package."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID


@dataclass(frozen=True)
class Issued:
    """A PEM certificate and its key."""

    certificate: Path
    key: Path
    subject: str


class Authority:
    """A certificate authority in a folder; ``file`` is its own certificate."""

    def __init__(self, folder: Path, name: str = "Hospital CA") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string(f"CN={name},O=Hospital")
        now = datetime.now(UTC)
        builder = _builder(self._name, self._name, self._key.public_key(), now - timedelta(days=30), 3650)
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            self._key, hashes.SHA256()
        )
        self.file = folder / "authority.pem"
        self.file.write_bytes(made.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        subject: str = "",
        host: str = "localhost",
        days: float = 30,
        since_days: float = 1,
        rsa_bits: int = 0,
    ) -> Issued:
        """Write ``name.pem`` and ``name.key``; negative ``days``: expired. Elliptic curve unless RSA is asked."""
        key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
        named = x509.Name.from_rfc4514_string(subject or f"CN={name},O=Hospital")
        start = datetime.now(UTC) - timedelta(days=since_days) + (timedelta(days=days) if days < 0 else timedelta())
        builder = _builder(named, self._name, key.public_key(), start, since_days + days if days > 0 else since_days)
        addresses = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            builder.add_extension(x509.SubjectAlternativeName(addresses[: 1 if host != "localhost" else 2]), False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False
            )
            .sign(self._key, hashes.SHA256())
        )
        issued = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key", named.rfc4514_string())
        # the key first: whoever watches the certificate finds both
        issued.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        issued.certificate.write_bytes(made.public_bytes(Encoding.PEM))
        return issued

    def settings(self, issued: Issued, **changes: object) -> dict[str, object]:
        """``dicom.tls`` for a node with this certificate, trusting this authority, on a free port of this machine."""
        files = {"certificate": issued.certificate, "key": issued.key, "authorities": self.file}
        return {**files, "host": "127.0.0.1", "port": 0, **changes}


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    start: datetime,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )
