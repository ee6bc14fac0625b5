"""Plain HTTP to the stack on this machine, without proxies and with short timeouts."""

import urllib3

TIMEOUT = urllib3.Timeout(connect=1.0, read=10.0)
OK = 200


def client() -> urllib3.PoolManager:
    """A client that tries once: whoever waits for something to come up asks again itself."""
    return urllib3.PoolManager(timeout=TIMEOUT, retries=False)


def answers(url: str, *, headers: dict[str, str] | None = None) -> bool:
    """Whether a GET is answered with 200 within a second."""
    with client() as http:
        try:
            return http.request("GET", url, headers=headers, timeout=1.0).status == OK
        except urllib3.exceptions.HTTPError:
            return False
