"""`python -m deploy.docker.health heartbeat|http …`: whether this container's process is well; exits with 0 or 1.

Needs nothing but Python: it runs every few seconds in every container, and slim images have no curl.
"""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

OLDEST_SECONDS = 20.0
"""Four heartbeats of a worker (every 5 s), many rounds of the clock."""
ANSWER_SECONDS = 4.0


def main() -> None:
    """`heartbeat` looks at the file of MILLRACE_HEARTBEAT_FILE, `http URL` asks."""
    kind, *rest = sys.argv[1:]
    complaint = heartbeat_complaint() if kind == "heartbeat" else http_complaint(*rest)
    sys.exit(complaint or 0)


def heartbeat_complaint() -> str | None:
    """What is wrong with the heartbeat: worker and beat touch the file as long as they do their work."""
    path = Path(os.environ["MILLRACE_HEARTBEAT_FILE"])
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return "no heartbeat yet"
    return f"the last heartbeat was {age:.0f} s ago" if age > OLDEST_SECONDS else None


def http_complaint(url: str) -> str | None:
    """What is wrong with the answer: anything but 200."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - an address of compose.yaml
            return None if answer.status == 200 else f"answered {answer.status}"  # noqa: PLR2004 - HTTP's OK
    except urllib.error.HTTPError as error:
        return f"answered {error.code}: {error.read(300).decode(errors='replace')}"
    except OSError as error:
        return f"did not answer: {error}"


if __name__ == "__main__":
    main()
