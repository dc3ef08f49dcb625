"""TLS towards RIS and EHR: our certificate and authorities are those of ``dicom.tls``."""

import ssl

from config.errors import ConfigurationError, PeerUnavailableError
from config.settings import TlsSettings
from config.tls import prepare_context


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return a context to call a peer with, from the files as they are now; both sides show a certificate.

    Raises:
        PeerUnavailableError: certificate, key or authorities are not configured or cannot be used: nobody can be
            called until they can.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = tls.check_host
    try:
        prepare_context(context, tls)
    except ConfigurationError as exc:
        raise PeerUnavailableError(f"TLS cannot be used: {exc}") from exc
    return context
