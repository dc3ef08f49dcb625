"""TLS towards RIS and EHR: our certificate and authorities are those of ``dicom.tls``; TLS 1.2 or 1.3 (BCP 195)."""

import ssl

from config.errors import PeerUnavailableError
from config.settings import TlsSettings

_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM"  # RFC 9325 section 4.2, for TLS 1.2


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a context to call a peer with, from the files as they are now; both sides show a certificate.

    Raises:
        PeerUnavailableError: certificate, key or authorities are not configured or cannot be used: nobody can be
            called until they can.
    """
    if not (tls.certificate and tls.key and tls.authorities):
        raise PeerUnavailableError("TLS cannot be used: dicom.tls needs certificate, key and authorities")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = tls.check_host
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        # with a password of our own OpenSSL does not ask at the terminal for one
        context.load_cert_chain(tls.certificate, tls.key, password="")
        context.load_verify_locations(tls.authorities)
    except (OSError, ValueError) as exc:
        raise PeerUnavailableError("TLS cannot be used: certificate, key or authorities of dicom.tls") from exc
    return context
