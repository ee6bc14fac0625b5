import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.outgoing import AddressRefused, Answer, CallFailed, Resolver, call, send, vet

PUBLIC = "93.184.215.14"
CERTIFICATE = Path(__file__).with_name("name_invalid.pem")
"""Key and self-signed certificate of the host `name.invalid`, which nobody can have; it opens nothing."""

ADDRESSES = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104 - nothing is bound to it
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.254"],
    "a cloud": ["168.63.129.16"],
    "link-local": ["169.254.169.254", "169.254.0.1", "fe80::1", "febf::1"],
    "CGNAT": ["100.64.0.1", "100.127.255.254"],
    "ULA": ["fc00::1", "fd00:ec2::254"],
    "IPv4 address in IPv6 form": ["::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", f"::ffff:{PUBLIC}"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "192.88.99.1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1"],
    "reserved": ["240.0.0.1", "192.0.0.1", "2001:2::1"],
    "broadcast": ["255.255.255.255"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255"],
    "site-local": ["fec0::1"],
    "black hole": ["100::1"],
    "not public": ["5f00::1", "4000::1"],
}
REFUSED_ADDRESSES = [(rule, address) for rule, addresses in ADDRESSES.items() for address in addresses]

REFUSED_FORMS = [
    # other spellings of an IPv4 address
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://010.0.0.1/",
    "http://93.184.215.014/",
    "http://93.184.215.14.5/",
    "http://name.0x10/",
    "http://1/",
    "http://999.999.999.999/",
    "http://\uff12\uff11\uff13\uff10\uff17\uff10\uff16\uff14\uff13\uff13/",
    "http://127\u3002\uff11/",
    # other spellings of a name
    "http://127.0.0.1%2f@public.example/",
    "http://%6c%6f%63%61lhost/",
    "http://public.example..private.example/",
    "http://-public.example/",
    "http:///etc/passwd",
    "http://",
    "http://?",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 127 + "example/",
    "http://xn--\u00e4.example/",
    # IPv6
    "http://[fe80::1%25eth0]/",
    "http://[::1",
    "http://[::1].public.example/",
    "http://[v1.fe80::a+en1]/",
    "http://[public.example]/",
    "http://[127.0.0.1]/",
    # who is who
    "http://user@public.example/",
    "http://user:password@public.example/",
    "http://public.example@127.0.0.1/",
    "http://@public.example/",
    "http://public.example:80@127.0.0.1/",
    "http://127.0.0.1\\@public.example/",
    # schemes
    "ftp://public.example/",
    "file:///etc/passwd",
    "gopher://public.example:70/_GET",
    "dict://public.example:11211/stats",
    "ldap://public.example/",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "data:text/plain,x",
    "//public.example/",
    "public.example",
    "",
    # characters
    "http://public.example/\r\nHost: other",
    "http://public.example/a b",
    "http://public.example\t/",
    " http://public.example/",
    "http://public.example/\x00",
    "http://public\x7f.example/",
    "http://public.example\\private/",
    # ports that are none
    "http://public.example:0/",
    "http://public.example:65536/",
    "http://public.example:-1/",
    "http://public.example:http/",
    "http://public.example:80:80/",
]


def resolves_to(*addresses: str) -> "Resolving":
    return Resolving(addresses)


class Resolving:
    """A resolver that knows one answer for each time that it is asked, and keeps the last."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(("rule", "address"), REFUSED_ADDRESSES)
def test_a_name_with_an_address_that_is_not_public_is_refused(rule: str, address: str) -> None:
    with pytest.raises(AddressRefused, match=rule) as refusal:
        vet("http://inside.example/", allow_private=False, resolve=resolves_to(address))

    assert "OUTGOING_ALLOW_PRIVATE" in str(refusal.value)


@pytest.mark.parametrize(("rule", "address"), REFUSED_ADDRESSES)
def test_an_address_that_is_not_public_is_refused_in_the_url_as_well(rule: str, address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    with pytest.raises(AddressRefused, match=rule):
        vet(f"https://{host}/", allow_private=False, resolve=resolves_to(PUBLIC))


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("url", REFUSED_FORMS)
def test_a_url_that_can_be_read_in_two_ways_is_refused_whatever_the_setting(url: str, *, allow_private: bool) -> None:
    with pytest.raises(AddressRefused):
        vet(url, allow_private=allow_private, resolve=resolves_to(PUBLIC))


@pytest.mark.parametrize("port", [22, 25, 53, 110, 389, 445, 1023])
def test_a_port_of_another_kind_of_service_is_refused_unless_the_setting_allows_it(port: int) -> None:
    url = f"http://public.example:{port}/"

    with pytest.raises(AddressRefused, match=str(port)):
        vet(url, allow_private=False, resolve=resolves_to(PUBLIC))

    assert vet(url, allow_private=True, resolve=resolves_to(PUBLIC)).port == port


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("http://public.example", "http", "public.example", 80, "/"),
        ("https://PUBLIC.example./a/b?c=d&e=%20#fragment", "https", "public.example", 443, "/a/b?c=d&e=%20"),
        ("HTTP://public.example:8080/", "http", "public.example", 8080, "/"),
        ("http://public.example:/", "http", "public.example", 80, "/"),
        ("http://b\u00fccher.example/\u00fc?\u00fc", "http", "xn--bcher-kva.example", 80, "/%C3%BC?%C3%BC"),
        ("http://fa\u00df.example/", "http", "xn--fa-hia.example", 80, "/"),
        ("http://under_score.example/", "http", "under_score.example", 80, "/"),
        (f"http://{PUBLIC}:1024/", "http", PUBLIC, 1024, "/"),
        ("http://[2606:4700:4700::1111]/", "http", "2606:4700:4700::1111", 80, "/"),
    ],
)
def test_a_public_url_is_allowed_in_its_plain_form(url: str, scheme: str, host: str, port: int, path: str) -> None:
    target = vet(url, allow_private=False, resolve=resolves_to(PUBLIC))

    assert (target.scheme, target.host, target.port, target.path) == (scheme, host, port, path)


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    with pytest.raises(AddressRefused, match="loopback"):
        vet("http://mixed.example/", allow_private=False, resolve=resolves_to(PUBLIC, "::1"))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "fd00::1"])
def test_the_setting_allows_private_addresses(address: str) -> None:
    target = vet("http://inside.example:22/", allow_private=True, resolve=resolves_to(address))

    assert target.addresses == (address,)


def test_a_refusal_repeats_neither_password_nor_query() -> None:
    for url in ("http://user:canary@public.example/", "http://127.0.0.1/?token=canary", "http://canary canary/"):
        with pytest.raises(AddressRefused) as refusal:
            vet(url, allow_private=False)
        assert "canary" not in str(refusal.value)


def test_a_name_that_does_not_resolve_is_a_failure_that_may_mend() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, f"no {host}:{port}")

    with pytest.raises(CallFailed, match=r"nowhere\.example"):
        vet("http://nowhere.example/", allow_private=False, resolve=unknown)


def test_the_connection_goes_to_the_vetted_address_whatever_the_name_means_later() -> None:
    rebinding = Resolving([PUBLIC], ["127.0.0.1"])

    target = vet("http://rebinding.example/", allow_private=False, resolve=rebinding)

    assert target.addresses == (PUBLIC,)
    assert rebinding.asked == ["rebinding.example"]
    assert rebinding("rebinding.example", 80) == ["127.0.0.1"]  # and nobody asks for it: `send` takes no resolver


def test_the_server_at_the_vetted_address_sees_the_name_that_was_asked_for() -> None:
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as server:
        rebinding = Resolving(["127.0.0.1"], ["127.0.0.2"])

        answer = local_call(server, url=f"http://name.invalid:{server.port}/path?query", resolve=rebinding)

    assert answer.body == b"ok"
    assert rebinding.asked == ["name.invalid"]
    request = server.received.decode()
    assert request.startswith("GET /path?query HTTP/1.1\r\n")
    assert f"\r\nHost: name.invalid:{server.port}\r\n" in request


def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        answer = local_call(server, resolve=resolves_to("::1", "127.0.0.1"))

    assert answer.status == 204


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        assert local_call(server).status == 204


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with serving(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n") as server:
        answer = local_call(server)

    assert answer.status == 302
    assert answer.headers["location"] == "http://169.254.169.254/"


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"],
    ids=["status line", "headers", "endless body", "announced body"],
)
def test_a_server_that_drips_is_cut_off_at_the_deadline(start: bytes) -> None:
    started = time.monotonic()

    with serving(start, drip=True) as server, pytest.raises(CallFailed, match="in time"):
        local_call(server, timeout_seconds=0.5)

    assert time.monotonic() - started < 5


def test_a_server_that_never_answers_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CallFailed, match="in time"):
        local_call(silent.getsockname()[1], timeout_seconds=0.3)


def test_a_resolver_that_never_answers_is_given_up_at_the_deadline() -> None:
    done = threading.Event()

    def stuck(host: str, port: int) -> list[str]:
        done.wait(30)
        return [f"{host}:{port}"]

    started = time.monotonic()
    with pytest.raises(CallFailed):
        local_call(80, url="http://slow.invalid/", resolve=stuck, timeout_seconds=0.2)
    done.set()

    assert time.monotonic() - started < 10


def test_a_refused_connection_is_a_failure_that_may_mend() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(CallFailed, match="refused"):
        local_call(port)


BROKEN_ANSWERS = {
    "closed": (b"", "RemoteDisconnected"),
    "cut short": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "not whole"),
    "negative chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n", "chunk size"),
    "not HTTP": (b"nonsense\r\n\r\n", "not well-formed"),
    "no gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnotgzip", "Content-Encoding"),
}


@pytest.mark.parametrize(("answer", "reason"), BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS)
def test_a_broken_answer_is_a_failure_that_may_mend_and_says_what_is_broken(answer: bytes, reason: str) -> None:
    with serving(answer) as server, pytest.raises(CallFailed, match=reason):
        local_call(server)


def test_an_answer_is_cut_at_the_limit() -> None:
    with serving(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000) as server:
        answer = local_call(server, max_bytes=100_000)

    assert (len(answer.body), answer.truncated) == (100_000, True)


def test_an_answer_of_just_the_limit_is_whole() -> None:
    with serving(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000) as server:
        answer = local_call(server, max_bytes=1000)

    assert (len(answer.body), answer.truncated) == (1000, False)


@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
def test_a_gzip_bomb_is_cut_at_the_limit_before_it_fills_the_memory(framing: str) -> None:
    bomb = gzip.compress(bytes(50 << 20), compresslevel=9)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
    if framing == "chunked":
        message = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(bomb), bomb)
    else:
        message = head + b"Content-Length: %d\r\n\r\n%b" % (len(bomb), bomb)

    tracemalloc.start()
    try:
        with serving(message) as server:
            answer = local_call(server, max_bytes=100_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (len(answer.body), answer.truncated) == (100_000, True)
    assert peak_bytes < 5 << 20


def test_under_tls_the_certificate_and_the_name_asked_for_are_those_of_the_host() -> None:
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", tls=True) as server:
        answer = tls_call(server, host="name.invalid", trusting=True)

    assert answer.body == b"ok"
    assert server.asked_for == "name.invalid"


@pytest.mark.parametrize(
    ("host", "trusting"), [("name.invalid", False), ("other.invalid", True)], ids=["unknown issuer", "another name"]
)
def test_a_certificate_that_does_not_prove_the_name_is_a_failure(host: str, *, trusting: bool) -> None:
    with (
        serving(b"HTTP/1.1 204 No Content\r\n\r\n", tls=True) as server,
        pytest.raises(CallFailed, match="certificate"),
    ):
        tls_call(server, host=host, trusting=trusting)

    assert server.received == b""


def test_a_server_that_drips_under_tls_is_cut_off_at_the_deadline() -> None:
    with serving(b"HTTP/1.1 200 OK\r\n\r\n", drip=True, tls=True) as server, pytest.raises(CallFailed, match="in time"):
        tls_call(server, host="name.invalid", trusting=True, timeout_seconds=0.7)


def test_a_server_that_never_finishes_its_handshake_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CallFailed, match="in time"):
        local_call(
            silent.getsockname()[1], url=f"https://silent.invalid:{silent.getsockname()[1]}/", timeout_seconds=0.3
        )


class LocalServer:
    """Says its piece to the first client, whatever that asks, and keeps what it was sent."""

    def __init__(self, says: bytes, *, drip: bool, tls: bool) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.says, self.drip, self.stopped = says, drip, threading.Event()
        self.received = b""
        self.asked_for: str | None = None
        self.tls: ssl.SSLContext | None = None
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(CERTIFICATE)
            self.tls.sni_callback = self.note_name
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def note_name(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.asked_for = name

    def serve(self) -> None:
        try:
            client, _ = self.listener.accept()
            with self.tls.wrap_socket(client, server_side=True) if self.tls else client as client:
                while b"\r\n\r\n" not in self.received:
                    self.received += client.recv(65536) or b"\r\n\r\n"
                client.sendall(self.says)
                while self.drip and not self.stopped.wait(0.05):
                    client.sendall(b"x")
        except OSError:
            return  # the client had enough: that is what some of these tests are for


@contextmanager
def serving(says: bytes, *, drip: bool = False, tls: bool = False) -> Iterator[LocalServer]:
    server = LocalServer(says, drip=drip, tls=tls)
    try:
        yield server
    finally:
        server.stopped.set()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        server.thread.join(timeout=10)


def local_call(
    server: LocalServer | int,
    *,
    url: str | None = None,
    resolve: Resolver | None = None,
    timeout_seconds: float = 10,
    max_bytes: int = 1 << 20,
) -> Answer:
    port = server if isinstance(server, int) else server.port
    return call(
        "GET",
        url or f"http://local.invalid:{port}/",
        headers={},
        body=None,
        timeout_seconds=timeout_seconds,
        max_bytes=max_bytes,
        allow_private=True,
        resolve=resolve or resolves_to("127.0.0.1"),
    )


def tls_call(server: LocalServer, *, host: str, trusting: bool, timeout_seconds: float = 10) -> Answer:
    tls = ssl.create_default_context(cafile=str(CERTIFICATE) if trusting else None)
    target = vet(f"https://{host}:{server.port}/", allow_private=True, resolve=resolves_to("127.0.0.1"))
    deadline = time.monotonic() + timeout_seconds
    return send(target, "GET", headers={}, body=None, deadline=deadline, max_bytes=1000, tls=tls)
