from pathlib import Path

from deploy.local.roles import Role, workers
from service.queues import Queue


def test_the_local_stack_consumes_every_queue_and_no_other() -> None:
    consumed = {queue for role in workers(Path("run")) for queue in _queues_of(role)}

    assert consumed == set(Queue)


def _queues_of(role: Role) -> list[str]:
    (queues,) = (word.removeprefix("--queues=") for word in role.command if word.startswith("--queues="))
    return queues.split(",")
