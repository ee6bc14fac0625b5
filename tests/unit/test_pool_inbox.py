"""A pool process' inbox: what it reads ahead comes in order, and it reads no more than it will run."""

import os
import pickle
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from worker.pool import Inbox


class Pipe:
    """The parent's end, and the child's two ways to read."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def put(self, message: Any) -> None:
        content = pickle.dumps(message)
        os.write(self.writer, len(content).to_bytes(4, "big") + content)

    def job(self, task: str = "test.echo", task_id: str | None = None) -> UUID:
        """A job as billiard frames it: its kind; its number, position, function, arguments and keywords."""
        task_id = task_id or str(uuid4())
        self.put((1, (7, None, "run", (task, task_id, {}, b""), {})))
        return UUID(task_id) if len(task_id) == 36 else UUID(int=0)

    def read(self, _timeout: float) -> tuple[bool, Any]:
        size = int.from_bytes(os.read(self.reader, 4), "big")
        return True, pickle.loads(os.read(self.reader, size))  # noqa: S301 - our own

    def wait(self) -> Any:
        return self.read(1.0)[1]

    def inbox(self, most: int | None = None) -> Inbox:
        return Inbox(self.reader, self.read, self.wait, most)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    os.close(pipe.writer)


def id_of(request: Any) -> str:
    return str(request[1][3][1])


def test_jobs_come_in_their_order_whether_they_were_read_ahead_or_not(pipe: Pipe) -> None:
    inbox = pipe.inbox()
    sent = [pipe.job() for _ in range(3)]

    assert id_of(inbox.next()) == str(sent[0])
    assert inbox.waiting("test.echo") == sent[1:]
    sent.append(pipe.job())
    assert [id_of(inbox.next()) for _ in range(3)] == [str(job_id) for job_id in sent[1:]]
    assert not inbox.has_more()


def test_it_has_more_while_anything_is_left_in_the_pipe_or_beside_it(pipe: Pipe) -> None:
    inbox = pipe.inbox()
    assert not inbox.has_more()

    pipe.job()
    assert inbox.has_more()
    inbox.waiting("test.echo")
    assert inbox.has_more()
    inbox.next()
    assert not inbox.has_more()


def test_only_jobs_of_the_type_are_told_and_nothing_forged(pipe: Pipe) -> None:
    inbox = pipe.inbox()
    pipe.job("test.sleep")
    ours = pipe.job()
    pipe.job(task_id="not-an-id")

    assert inbox.waiting("test.echo") == [ours]
    assert [id_of(inbox.next()) for _ in range(3)][1:] == [str(ours), "not-an-id"]


def test_no_more_is_read_ahead_than_the_process_will_run(pipe: Pipe) -> None:
    inbox = pipe.inbox(most=3)
    sent = [pipe.job() for _ in range(5)]
    inbox.next()

    assert inbox.waiting("test.echo") == sent[1:3]


def test_the_end_comes_after_what_was_read_before_it(pipe: Pipe) -> None:
    inbox = pipe.inbox()
    job_id = pipe.job()
    pipe.put(None)

    assert inbox.waiting("test.echo") == [job_id]
    assert id_of(inbox.next()) == str(job_id)
    with pytest.raises(SystemExit):
        inbox.next()
