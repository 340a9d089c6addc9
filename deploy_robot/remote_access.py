"""Who may speak to a policy server: tokens, certificates, and where it may be reached from.

A server that other machines can reach needs a token; on a network one does not trust it needs a
certificate as well (`wss://`), since a token in clear can be read on the way. Tokens come from a
file or the environment: what stands on a command line, everyone on the machine can read.
"""

import hmac
import ipaddress
import os
import ssl
from pathlib import Path

TOKEN_VARIABLE = "ULNA_TOKEN"
LEAST_TOKEN = 16
"""Characters. `python -c "import secrets; print(secrets.token_urlsafe(32))"` makes a good one."""


def read_token(path: Path | None) -> str:
    """The token in the file `path`, or in the environment; empty if there is neither."""
    if path is not None:
        token = path.read_text().strip()
        if not token:
            raise ValueError(f"{path} is empty; it should hold the token")
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
    return check_token(token)


def check_token(token: str) -> str:
    """`token`, if it is empty or may stand in a header and is long enough to be no guess."""
    if token and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ValueError(
            f"the token has {len(token)} characters or characters that a header cannot hold; use "
            f"at least {LEAST_TOKEN} letters, digits, - and _, such as secrets.token_urlsafe(32)"
        )
    return token


def admits(token: str, authorization: str) -> bool:
    """Whether a request with this Authorization header may pass; takes the same time for every
    wrong token. Ours say `Bearer TOKEN`, openpi's clients `Api-Key TOKEN`."""
    if not token:
        return True
    scheme, _, given = authorization.partition(" ")
    sent = given.strip().encode(errors="surrogateescape")  # headers may hold any byte
    same = hmac.compare_digest(sent, token.encode())
    return same and scheme.lower() in ("bearer", "api-key")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, token: str) -> None:
    """ValueError for a server that anyone in the network could use."""
    if not token and not is_loopback(host):
        raise ValueError(
            f"host {host} can be reached from other machines, so a token is needed: put one into "
            f"a file (--token-file) or into {TOKEN_VARIABLE}, or serve on 127.0.0.1"
        )


def server_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS of a server; None without a certificate."""
    if certificate is None:
        if key is not None:
            raise ValueError("a key without its certificate; give --certificate too")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise ValueError(
            f"{certificate} and {key or certificate} are not a certificate and its key in PEM "
            f"form: {error}"
        ) from error
    return context


def client_tls(url: str, authority: Path | None) -> ssl.SSLContext | None:
    """TLS of a client, which always verifies the server's name and certificate. `authority`: the
    certificate to trust, for one that a lab has signed itself; None: those of the system."""
    if not url.startswith("wss://"):
        if authority is not None:
            raise ValueError(f"{url} is not encrypted; with a certificate authority use wss://")
        return None
    try:
        return ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise ValueError(f"{authority} holds no certificate in PEM form: {error}") from error
