"""The moves of a job, held against their drawing, their table and the statements that write them."""

import importlib
import pkgutil
import re
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import TextClause

import service.jobs
from service.jobs.states import CELERY_STATE, FINAL, IDLE, MOVES, NEW, UNFINISHED, State, is_legal
from service.statements import Statement

HEART = service.jobs.__path__
PAGE = (Path(__file__).parents[2] / "docs" / "job-lifecycle.md").read_text()
ENDS = "[*]"
"""How the diagram writes both what comes before a job and what comes after it."""

Move = tuple[State | None, State]


def _drawn() -> list[tuple[str, str]]:
    (diagram,) = re.findall(r"^```mermaid\nstateDiagram-v2\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ +(\S+) --> (\S+)", diagram, re.MULTILINE)


def _tabled() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| (\(new\)|`[a-z]+`) \| `([a-z]+)` \|", PAGE, re.MULTILINE)
    return [(before.strip("`"), after) for before, after in rows]


DRAWN: set[Move] = {
    (NEW if before == ENDS else State(before), State(after)) for before, after in _drawn() if after != ENDS
}
"""The page was written by hand, so it is a second witness for what the code allows."""


@pytest.mark.parametrize(("before", "after"), [*product([NEW, *State], State)])
def test_a_move_is_legal_exactly_if_it_is_drawn(before: State | None, after: State) -> None:
    assert is_legal(before, after) == ((before, after) in DRAWN)


def test_the_page_draws_and_lists_no_move_twice() -> None:
    assert len(_drawn()) == len(set(_drawn()))
    assert len(_tabled()) == len(set(_tabled()))


def test_the_table_lists_what_is_drawn() -> None:
    tabled = {(NEW if before == "(new)" else State(before), State(after)) for before, after in _tabled()}

    assert tabled == DRAWN


def test_the_drawing_ends_at_the_final_states_and_nowhere_else() -> None:
    assert {State(before) for before, after in _drawn() if after == ENDS} == FINAL


def test_final_states_have_no_moves() -> None:
    assert {state for state in State if not MOVES[state]} == FINAL
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED} == FINAL


def test_every_state_is_final_or_unfinished_and_idle_ones_do_not_run() -> None:
    assert set(State) == FINAL | UNFINISHED
    assert not FINAL & UNFINISHED
    assert {State.RUNNING} == UNFINISHED - IDLE


def test_every_state_can_be_reached_by_a_new_job() -> None:
    reached: set[State] = set()
    following = set(MOVES[NEW])
    while following:
        reached |= following
        following = {after for before in following for after in MOVES[before]} - reached

    assert reached == set(State)


def test_every_unfinished_state_leads_to_each_end_that_a_job_can_have() -> None:
    for state in UNFINISHED:
        reached = {state}
        while following := {after for before in reached for after in MOVES[before]} - reached:
            reached |= following
        assert reached >= FINAL, state


def test_the_page_says_what_celery_calls_each_state() -> None:
    rows = re.findall(r"^\| ((?:`[a-z]+`(?:, )?)+) \| `([A-Z]+)` \|", PAGE, re.MULTILINE)

    assert {State(state): name for states, name in rows for state in re.findall(r"\w+", states)} == CELERY_STATE


def _statements() -> dict[str, str]:
    """Every statement of the heart that writes a job's state, by where it stands."""
    modules = [importlib.import_module(f"service.jobs.{found.name}") for found in pkgutil.iter_modules(HEART)]
    named = {
        f"{module.__name__}.{name}": value.text if isinstance(value, Statement) else value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, TextClause | Statement)
    }
    return {name: clause.text for name, clause in named.items() if re.search(r"\bstate = ", _what_it_sets(clause.text))}


def _what_it_sets(sql: str) -> str:
    """What stands between `UPDATE jobs` and its condition."""
    return re.split(r"\bWHERE\b|\bFROM ended\b", sql.partition("UPDATE jobs")[2])[0]


def _moves_of(sql: str) -> set[Move]:
    """The moves that a statement can make: from each state that its guard names to each that it sets."""
    choice = re.search(r"SELECT id AS \w+, (.*?) AS new_state FROM jobs WHERE (.*?) FOR UPDATE\s+\),", sql, re.DOTALL)
    plain = re.search(r"UPDATE jobs\s+SET state = ('\w+').*?\bWHERE (.*?)\s+RETURNING", sql, re.DOTALL)
    found = choice or plain
    assert found, "write it as `UPDATE jobs SET state = '…' … WHERE … RETURNING`, or teach this test the other form"
    new_state, guard = found[1], _without_queries_inside(found[2])
    set_to = re.findall(r"(?:^|THEN |ELSE )'(\w+)'", new_state)
    expected = re.findall(r"\bstate = '(\w+)'", guard)
    for listed in re.findall(r"\bstate IN \(([^()]*)\)", guard):
        expected += re.findall(r"'(\w+)'", listed)
    assert set_to
    assert expected, "the guard names no state"
    return {(State(before), State(after)) for before in expected for after in set_to}


def _without_queries_inside(condition: str) -> str:
    """The condition on the row itself: a query in it speaks of other rows, or of this one before it was locked."""
    before, query, rest = condition.partition("(SELECT ")
    if not query:
        return condition
    depth, end = 1, 0
    while depth:
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    return before + _without_queries_inside(rest[end:])


STATEMENTS = _statements()


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_statement_that_writes_a_state_makes_legal_moves_only(name: str) -> None:
    illegal = {move for move in _moves_of(STATEMENTS[name]) if not is_legal(*move)}

    assert not illegal


def test_the_statements_make_every_move_of_a_job_that_exists() -> None:
    made = set().union(*map(_moves_of, STATEMENTS.values()))

    # Nothing makes a job wait for another one yet, so nothing ends its waiting either.
    unmade = {(State.WAITING, State.QUEUED)}
    assert {move for move in DRAWN if move[0] is not NEW} - made == unmade
