"""`unshare --net python -m tests.faults.half_open`: how long until a vanished database is noticed, in seconds.

A PostgreSQL on this network's own loopback, a connection with the service's settings that has a statement under way,
and from then on every packet between the two is dropped: no reset, no refusal, nothing.
"""

import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from deploy.local.servers import PostgresServer
from service.app import create_app
from service.transaction import reading
from tests.support.folders import server_folder
from tests.support.servers import settings


def which(command: str) -> str:
    """The command's path."""
    return shutil.which(command) or command


def main() -> None:
    """Prints the seconds between the cut and the error."""
    subprocess.run([which("ip"), "link", "set", "lo", "up"], check=True)
    with server_folder() as folder, tempfile.TemporaryDirectory() as artifacts:
        postgres = PostgresServer.start(folder, durable=False)
        app = create_app(settings(postgres.url, "redis://127.0.0.1:1/0", Path(artifacts)))
        noticed = threading.Event()
        cut_at = 0.0

        def ask() -> None:
            with app.app_context():
                try:
                    with reading() as session:
                        session.execute(text("SELECT 1"))
                        asked.set()
                        cut.wait(10)
                        session.execute(text("SELECT 2"))
                except OperationalError:
                    noticed.set()

        asked, cut = threading.Event(), threading.Event()
        thread = threading.Thread(target=ask)
        thread.start()
        asked.wait(20)
        for end in ("--sport", "--dport"):
            subprocess.run(
                [which("iptables"), "-I", "INPUT", "-p", "tcp", end, str(postgres.port), "-j", "DROP"], check=True
            )
        cut_at = time.monotonic()
        cut.set()
        found = noticed.wait(120)
        print(round(time.monotonic() - cut_at, 1) if found else 1e9)  # noqa: T201 - its answer
        postgres.kill()


if __name__ == "__main__":
    main()
