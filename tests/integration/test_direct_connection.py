import os
from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError

from service.direct_connection import DirectConnection
from service.extensions import db
from service.ids import uuid7
from service.statements import Statement
from service.transaction import CommitUnsure, transaction

ASK = Statement("SELECT CAST(:number AS bigint) AS number, CAST(:text AS text) AS text, CAST(:id AS uuid) AS id")
BACKEND = Statement("SELECT pg_backend_pid() AS pid")


@pytest.fixture(params=[True, False], ids=["prepared", "not prepared"])
def connection(app: Flask, request: pytest.FixtureRequest) -> Iterator[DirectConnection]:
    with app.app_context():
        connection = DirectConnection(db.engine, prepare=request.param)
        yield connection
        connection.close()


def test_rows_come_by_name_and_with_their_types(connection: DirectConnection) -> None:
    job_id = uuid7()

    for number in (1, 2**40, None):
        rows = connection.execute(ASK, {"number": number, "text": "é", "id": job_id})

        assert rows == [{"number": number, "text": "é", "id": job_id}]


def test_an_error_is_sqlalchemys_and_the_connection_goes_on(connection: DirectConnection) -> None:
    before = connection.execute(BACKEND, {})

    with pytest.raises(DataError):
        connection.execute(Statement("SELECT 1 / CAST(:number AS int)"), {"number": 0})

    assert connection.execute(BACKEND, {}) == before


def test_a_connection_that_was_cut_is_reported_once_and_replaced(connection: DirectConnection) -> None:
    (before,) = connection.execute(BACKEND, {})
    with transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": before["pid"]})

    with pytest.raises(OperationalError):
        connection.execute(BACKEND, {})

    (after,) = connection.execute(BACKEND, {})
    assert after["pid"] != before["pid"]


def test_a_connection_that_died_while_nobody_used_it_is_replaced_unseen(connection: DirectConnection) -> None:
    (before,) = connection.execute(BACKEND, {})
    with transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": before["pid"]})
    connection._used_at -= 2  # two seconds of idleness

    (after,) = connection.execute(BACKEND, {})

    assert after["pid"] != before["pid"]


def test_a_statement_that_is_not_prepared_any_more_is_prepared_again(connection: DirectConnection) -> None:
    parameters = {"number": 1, "text": "", "id": None}
    before = connection.execute(ASK, parameters)

    connection.execute(Statement("DEALLOCATE ALL"), {})

    assert connection.execute(ASK, parameters) == before


def test_a_warning_at_the_commit_makes_it_unsure(connection: DirectConnection) -> None:
    with pytest.raises(CommitUnsure, match="perhaps"):
        connection.execute(Statement("DO $$ BEGIN RAISE WARNING 'perhaps'; END $$"), {})

    assert connection.execute(BACKEND, {})


def test_a_forked_process_leaves_the_parents_connection_alone(connection: DirectConnection) -> None:
    before = connection.execute(BACKEND, {})

    child = os.fork()
    if child == 0:
        try:
            own = connection.execute(BACKEND, {})
            os._exit(0 if own != before else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert connection.execute(BACKEND, {}) == before
