import re
from pathlib import Path

from deploy.local.roles import Role, workers
from service.queues import Queue
from tests.architecture.tree import ROOT


def test_the_local_stack_consumes_every_queue_and_no_other() -> None:
    consumed = {queue for role in workers(Path("run")) for queue in _queues_of(role)}

    assert consumed == set(Queue)


def test_the_containers_consume_every_queue_and_no_other() -> None:
    consumed = re.findall(r"WORKER_QUEUES: (\S+)", (ROOT / "compose.yaml").read_text())

    assert {queue for queues in consumed for queue in queues.split(",")} == set(Queue)


def _queues_of(role: Role) -> list[str]:
    (queues,) = (word.removeprefix("--queues=") for word in role.command if word.startswith("--queues="))
    return queues.split(",")
