"""TLS towards servers, whatever is spoken inside it. Source: contract section 3 (``servers[].tls``)."""

from __future__ import annotations

import os
import ssl


def client_tls(
    *, ca_file: str = "", cert_file: str = "", key_file: str = "", verify: str = "true", min_version: str = "1.2"
) -> ssl.SSLContext:
    """TLS towards a server, by the keys of the configuration: the system's authorities unless ``ca_file`` is given, and a
    certificate of ours where the server wants one. Raises OSError (ssl.SSLError) for files that cannot be used."""
    context = ssl.create_default_context(cafile=os.path.expanduser(ca_file) or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    if cert_file:
        context.load_cert_chain(os.path.expanduser(cert_file), os.path.expanduser(key_file) or None)
    if verify == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
