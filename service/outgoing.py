"""HTTP calls to addresses that customers name: vetted first, then bounded in time and size.

A customer's URL must not reach what only this machine can reach (server-side request forgery). `vet` decides on the
addresses that the name resolves to, and `send` connects to those very addresses: a name that resolves to something
else a moment later (DNS rebinding) gains nothing. Redirects are not followed and proxies of the environment not used:
either would choose an address that nobody vetted. Nothing in here is logged, as URLs, headers and bodies hold secrets.
"""

import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, quote, urlsplit

import idna
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

Resolver = Callable[[str, int], Sequence[str]]
"""From a name and a port to the addresses to connect to. Raises OSError where there are none."""

SETTING = "OUTGOING_ALLOW_PRIVATE"
DEFAULT_PORTS = {"http": 80, "https": 443}
FIRST_UNPRIVILEGED_PORT = 1024
GLOBAL_IPV6 = IPv6Network("2000::/3")
"""All that is assigned for use on the Internet so far (RFC 4291)."""
READ_SIZE = 1 << 16

REFUSED_NETWORKS: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(network), name)
    for network, name in (
        ("0.0.0.0/8", "unspecified or this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by carriers (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local, where clouds serve their metadata"),
        ("168.63.129.16/32", "where a cloud (Azure) serves its machines' secrets"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "an IPv4 address in IPv6 form"),
        ("::/96", "an IPv4 address in IPv6 form"),
        ("64:ff9b::/96", "translated to IPv4 (NAT64)"),
        ("64:ff9b:1::/48", "translated to IPv4 (NAT64)"),
        ("100::/64", "a black hole"),
        ("2001::/32", "a tunnel to IPv4 (Teredo)"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "a tunnel to IPv4 (6to4)"),
        ("3fff::/20", "for documentation"),
        ("fc00::/7", "private (ULA)"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
"""IANA's special-purpose registries (RFC 6890), IPv6 ranges that carry an IPv4 address past the rules for IPv4, and the
one address of a cloud's own that looks public."""


class AddressRefused(Exception):
    """The call is not allowed. The message says which rule refused it and never repeats path, query or userinfo."""


class CallFailed(Exception):
    """There was no whole answer: name not resolved, connection refused or reset, TLS failed, deadline over."""

    kind = "call_failed"


@dataclass(frozen=True)
class Target:
    """A vetted URL: what to ask for, of whom, and the addresses to connect to."""

    scheme: str
    host: str
    """As it is sent in `Host` and SNI: ASCII, lower case, without brackets or the root's dot."""
    port: int
    path: str
    """Path and query, percent-encoded."""
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What came back; `body` is decoded (gzip and the like) and cut at the limit if `truncated`."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name; repeated ones are joined with a comma."""
    body: bytes
    truncated: bool


def resolve_by_system(host: str, port: int) -> list[str]:
    """The addresses that the operating system knows for the name, each once, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def call(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    timeout_seconds: float,
    max_bytes: int,
    allow_private: bool,
    resolve: Resolver = resolve_by_system,
) -> Answer:
    """Vet the URL and send one request there; name, connection, request and answer share `timeout_seconds`.

    Raises AddressRefused or CallFailed; whatever status is answered is an Answer.
    """
    deadline = time.monotonic() + timeout_seconds
    target = vet(url, allow_private=allow_private, resolve=_bounded(resolve, deadline))
    return send(target, method, headers=headers, body=body, deadline=deadline, max_bytes=max_bytes)


def vet(url: str, *, allow_private: bool, resolve: Resolver = resolve_by_system) -> Target:
    """Decide whether the URL may be called. Raises AddressRefused, or CallFailed where the name does not resolve.

    `allow_private` allows every address and port; the form of the URL is checked all the same. Without it each
    address of the name must be public: with one that is not, the name is refused as a whole, because which of
    them a connection takes is up to chance.
    """
    parts = _split(url)
    host, literal = _host(parts)
    port = _port(parts)
    if not allow_private:
        _vet_port(port)
    if literal is not None:
        addresses = [str(literal)]
    else:
        try:
            addresses = list(resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise CallFailed(f"The name {host} could not be resolved: {error}") from error
    if not addresses:
        raise CallFailed(f"The name {host} has no address.")
    if not allow_private:
        for address in addresses:
            _vet_address(host, address)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~[]") if parts.query else ""
    )
    return Target(parts.scheme, host, port, path, tuple(addresses))


def send(
    target: Target,
    method: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    deadline: float,
    max_bytes: int,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request to a vetted target and read the answer until `deadline` (as `time.monotonic()` counts).

    The certificate is verified against the name, by the system's authorities unless `tls` says otherwise. An answer
    of more than `max_bytes` after decoding is cut there. Raises CallFailed.
    """
    connection = _connection(target, deadline, tls)
    with closing(connection):
        try:
            connection.connect()
            with _cut_off_at(deadline, connection) as was_cut_off:
                try:
                    connection.request(method, target.path, body=body, headers=headers, preload_content=False)
                    answer = _read_answer(connection, max_bytes)
                finally:
                    # A connection that was cut off can look like an answer that ended, or like any other error.
                    if was_cut_off():
                        raise TimeoutError
        except TimeoutError:
            raise CallFailed("There was no whole answer in time.") from None
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            if time.monotonic() >= deadline:
                raise CallFailed("There was no whole answer in time.") from None
            raise CallFailed(f"The call failed: {_reason(error)}") from error
    return answer


def _split(url: str) -> SplitResult:
    """The parts of a URL that every parser reads alike: what parsers disagree about is refused."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise AddressRefused("The URL holds a space, a control character or a backslash.")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise AddressRefused("The URL is not well-formed.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise AddressRefused("Only http and https URLs are called.")
    if "@" in parts.netloc:
        raise AddressRefused("A URL with a user name or password is not called; send an Authorization header.")
    return parts


def _host(parts: SplitResult) -> tuple[str, IPv4Address | IPv6Address | None]:
    """The host in its one plain form, and the address that it is if it is one."""
    host = (parts.hostname or "").removesuffix(".")
    if parts.netloc.startswith("["):
        if not re.fullmatch(r"\[[^\[\]]*\](:[0-9]*)?", parts.netloc):
            raise AddressRefused("The host in brackets is not a plain IPv6 address.")
        try:
            literal = IPv6Address(host)
        except ValueError:
            raise AddressRefused("The host in brackets is not a plain IPv6 address.") from None
        if literal.scope_id is not None:
            raise AddressRefused("An IPv6 address with a zone is not called.")
        return str(literal), literal
    if not host.isascii():
        try:
            # The mapping first: it turns, for one, full-width digits into digits, which the checks below must see.
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise AddressRefused("The host is not a valid international name.") from None
    labels = host.split(".")
    if len(host) > 253 or not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in labels):  # noqa: PLR2004 - RFC 1035
        raise AddressRefused("The host is not a valid name.")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        # Whatever ends in a number is read as an IPv4 address by some (0x7f.1, 2130706433, 0177.0.0.1).
        try:
            literal_v4 = IPv4Address(host)
        except ValueError:
            raise AddressRefused("A numeric host must be four decimal numbers without leading zeros.") from None
        return host, literal_v4
    return host, None


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        raise AddressRefused("The port is not a number from 1 to 65535.") from None
    if port == 0:
        raise AddressRefused("The port is not a number from 1 to 65535.")
    return port or DEFAULT_PORTS[parts.scheme]


def _vet_port(port: int) -> None:
    # Below 1024 live mail, shells, directories and the like, which could be made to act on the lines of a request
    # (cross-protocol attacks). From 1024 on people run HTTP wherever they like.
    if port < FIRST_UNPRIVILEGED_PORT and port not in DEFAULT_PORTS.values():
        raise AddressRefused(
            f"Port {port} is not called: only 80, 443 and those from {FIRST_UNPRIVILEGED_PORT} on, "
            f"unless MILLRACE_{SETTING} is set to true."
        )


def _vet_address(host: str, address: str) -> None:
    try:
        parsed = ip_address(address)
    except ValueError:
        raise AddressRefused(f"{host} resolves to something that is not an address.") from None
    rule = next((name for network, name in REFUSED_NETWORKS if parsed in network), None)
    if rule is None and parsed.version == GLOBAL_IPV6.version and parsed not in GLOBAL_IPV6:
        rule = "not public"
    if rule is not None:
        raise AddressRefused(f"{host} is refused: its address {parsed} is {rule}. MILLRACE_{SETTING} allows it.")


def _bounded(resolve: Resolver, deadline: float) -> Resolver:
    """The same resolver, given up at the deadline: getaddrinfo has no timeout of its own."""

    def resolve_in_time(host: str, port: int) -> Sequence[str]:
        outcome: list[Sequence[str] | OSError | UnicodeError] = []

        def run() -> None:
            try:
                outcome.append(resolve(host, port))
            except (OSError, UnicodeError) as error:
                outcome.append(error)

        thread = threading.Thread(target=run, name="resolve", daemon=True)
        thread.start()
        thread.join(max(deadline - time.monotonic(), 0))
        if not outcome:
            raise TimeoutError("no answer in time")
        found = outcome[0]
        if isinstance(found, OSError | UnicodeError):
            raise found
        return found

    return resolve_in_time


class _PinnedConnection(HTTPConnection):
    """Connects to the vetted addresses, one after the other, whatever the name means by now."""

    target: Target
    deadline: float

    def _new_conn(self) -> socket.socket:
        refusal: OSError = TimeoutError()
        for number, address in enumerate(self.target.addresses):
            # An address that swallows packets leaves time for those behind it.
            share = (self.deadline - time.monotonic()) / (len(self.target.addresses) - number)
            if share <= 0:
                break
            try:
                connected = socket.create_connection((address, self.target.port), timeout=share)
            except OSError as error:
                refusal = error
                continue
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.settimeout(max(self.deadline - time.monotonic(), 0.001))
            return connected
        raise refusal


class _PinnedTLSConnection(_PinnedConnection, HTTPSConnection):
    """The same under TLS; name and certificate are the host's, not the address's."""


def _connection(target: Target, deadline: float, tls: ssl.SSLContext | None) -> _PinnedConnection:
    seconds_left = max(deadline - time.monotonic(), 0.001)
    connection: _PinnedConnection
    if target.scheme == "https":
        connection = _PinnedTLSConnection(
            target.host, target.port, timeout=seconds_left, ssl_context=tls or ssl.create_default_context()
        )
    else:
        connection = _PinnedConnection(target.host, target.port, timeout=seconds_left)
    connection.target, connection.deadline = target, deadline
    return connection


@contextmanager
def _cut_off_at(deadline: float, connection: HTTPConnection) -> Iterator[Callable[[], bool]]:
    """Shut the connection down at the deadline, and tell whether that happened.

    A socket's timeout bounds each wait, not their sum: one byte a second, in body or headers, would pass for ever.
    """
    cut_off = threading.Event()
    # By its file descriptor's twin: urllib3 lets go of its socket as soon as an answer says that it is the last.
    assert connection.sock is not None  # noqa: S101 - for the type checker: it has just connected
    twin = socket.socket(fileno=os.dup(connection.sock.fileno()))

    def cut() -> None:
        cut_off.set()
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it ended by itself in the same moment

    timer = threading.Timer(max(deadline - time.monotonic(), 0), cut)
    timer.daemon = True
    timer.start()
    try:
        yield cut_off.is_set
    finally:
        timer.cancel()
        timer.join()
        twin.close()


def _read_answer(connection: HTTPConnection, max_bytes: int) -> Answer:
    response = connection.getresponse()
    body = bytearray()
    while len(body) <= max_bytes:
        # Read in steps of what may still be kept: urllib3 (from 2.6) decodes no more than is asked for.
        try:
            chunk = response.read(min(READ_SIZE, max_bytes + 1 - len(body)), decode_content=True)
        except ValueError as error:  # what urllib3 2.8.0 makes of a negative chunk size
            raise CallFailed("The call failed: the answer is not well-formed HTTP (a bad chunk size).") from error
        if not chunk:
            break
        body += chunk
    headers: dict[str, str] = {}
    for name, value in response.headers.iteritems():
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    response.close()
    return Answer(response.status, headers, bytes(body[:max_bytes]), truncated=len(body) > max_bytes)


def _reason(error: BaseException) -> str:
    """What went wrong in few words, without the URL that some of these messages repeat."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted ({error.verify_message})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, urllib3.exceptions.DecodeError):
        return "the answer's body is not what its Content-Encoding says"
    if isinstance(error, http.client.HTTPException | urllib3.exceptions.HTTPError):
        return f"the answer is not whole, or not well-formed HTTP ({type(error).__name__})"
    return type(error).__name__
