"""TLS of ours to or from a peer, in either direction (BCP 195, PS3.15 B.12): both sides show a certificate."""

import ssl

from config.errors import ConfigurationError
from config.node_settings import TlsSettings

# RFC 9325 section 4.2, for TLS 1.2 (those of TLS 1.3 are all of this kind); keys and signatures of 112 bits or more,
# so RSA from 2048 bits on and no SHA-1 (section 4.5)
CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM"


def prepare_context(context: ssl.SSLContext, tls: TlsSettings) -> None:
    """Give a context of either side our certificate, our authorities and the limits of the profile.

    Raises:
        ConfigurationError: a file is not configured, or cannot be used.
    """
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    if not (tls.certificate and tls.key and tls.authorities):
        raise ConfigurationError("dicom.tls needs certificate, key and authorities together")
    try:
        # with a password of our own OpenSSL does not ask at the terminal for one
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"{tls.key} is not the readable, unencrypted private key of {tls.certificate}"
        ) from exc
    try:
        context.load_verify_locations(tls.authorities)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{tls.authorities} holds no certificates that can be read") from exc
