"""Group commit: who waits for whom, and what becomes of errors."""

import threading

import pytest

from service.group_commit import GroupCommit, LeaderEnded, LineStalled
from tests.support.threads import at_once, in_background
from tests.support.waiting import wait_for


def test_whoever_comes_alone_is_committed_at_once() -> None:
    group = GroupCommit[int, int](lambda items: [item * 2 for item in items])

    assert [group.commit(1), group.commit(2)] == [2, 4]


def test_everybody_gets_the_outcome_of_the_own_item_and_never_two_commits_run() -> None:
    running = threading.Semaphore(1)
    groups: list[int] = []

    def commit(items: list[int]) -> list[int]:
        assert running.acquire(blocking=False)
        groups.append(len(items))
        running.release()
        return [item * 2 for item in items]

    group = GroupCommit[int, int](commit, at_most=5)

    outcomes = at_once([lambda number=number: group.commit(number) for number in range(40)])  # type: ignore[misc]

    assert outcomes == [number * 2 for number in range(40)]
    assert sum(groups) == 40
    assert max(groups) <= 5


def test_an_error_is_raised_to_its_group_and_the_next_group_is_committed() -> None:
    may_end, groups = threading.Event(), []

    def commit(items: list[str]) -> list[str]:
        groups.append(items)
        assert may_end.wait(30)
        if "bad" in items:
            raise ValueError("bad")
        return items

    group = GroupCommit[str, str](commit)

    def bad() -> None:
        with pytest.raises(ValueError, match="bad"):
            group.commit("bad")

    with in_background(bad):
        wait_for(lambda: groups)
        with in_background(lambda: group.commit("good")):
            may_end.set()

    assert groups == [["bad"], ["good"]]


def test_a_leader_that_is_ended_leaves_its_group_an_error_and_the_line_a_leader() -> None:
    may_end, groups = threading.Event(), []

    def commit(items: list[str]) -> list[str]:
        groups.append(items)
        assert may_end.wait(30)
        if "ended" in items:
            raise SystemExit
        return items

    group = GroupCommit[str, str](commit)
    outcomes: list[str] = []

    def ended() -> None:
        with pytest.raises(SystemExit):
            group.commit("ended")

    def follower() -> None:
        try:
            outcomes.append(group.commit("follower"))
        except LeaderEnded:
            outcomes.append("nobody knows")

    with in_background(lambda: group.commit("first")):
        wait_for(lambda: groups)
        with in_background(ended):
            wait_for(lambda: len(group._line) == 1)
            with in_background(follower):
                wait_for(lambda: len(group._line) == 2)
                may_end.set()

    assert groups == [["first"], ["ended", "follower"]]
    assert outcomes == ["nobody knows"]
    assert group.commit("afterwards") == "afterwards"


def test_whoever_waits_too_long_for_a_turn_leaves_the_line_and_is_not_committed() -> None:
    may_end, groups = threading.Event(), []

    def commit(items: list[str]) -> list[str]:
        groups.append(items)
        assert may_end.wait(30)
        return items

    group = GroupCommit[str, str](commit, at_most=1, turn_seconds=0.1)

    with in_background(lambda: group.commit("first")):
        wait_for(lambda: groups)
        for _ in range(3):
            with pytest.raises(LineStalled):
                group.commit("impatient")
        may_end.set()

    assert group.commit("afterwards") == "afterwards"
    assert groups == [["first"], ["afterwards"]]


def test_whose_turn_has_come_waits_for_the_outcome_however_long_it_takes() -> None:
    may_end, groups = [threading.Event(), threading.Event()], list[list[str]]()
    outcomes: list[str] = []

    def commit(items: list[str]) -> list[str]:
        groups.append(items)
        assert may_end[len(groups) > 1].wait(30)
        return items

    group = GroupCommit[str, str](commit, turn_seconds=0.5)

    with in_background(lambda: group.commit("first")):
        wait_for(lambda: groups)
        with (
            in_background(lambda: outcomes.append(group.commit("leader"))),
            in_background(lambda: outcomes.append(group.commit("follower"))),
        ):
            wait_for(lambda: len(group._line) == 2)
            may_end[0].set()
            wait_for(lambda: len(groups) == 2)
            threading.Event().wait(0.7)  # longer than anybody waits for a turn
            may_end[1].set()

    assert sorted(outcomes) == ["follower", "leader"]
