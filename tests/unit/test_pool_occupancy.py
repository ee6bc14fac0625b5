from worker.pool import Occupancy


def test_a_process_with_a_job_is_busy() -> None:
    occupancy = Occupancy({3, 5})

    occupancy.add(3)

    assert 3 in occupancy
    assert 5 not in occupancy
    assert len(occupancy) == 1


def test_a_process_that_has_ended_its_job_is_free() -> None:
    occupancy = Occupancy({3})
    occupancy.add(3)

    occupancy.one_done(3)

    assert 3 not in occupancy
    assert len(occupancy) == 0


def test_jobs_written_ahead_are_spread_evenly() -> None:
    occupancy = Occupancy({3, 5})
    occupancy.allowed = 2

    occupancy.add(3)
    assert 3 in occupancy  # the other one has none yet
    assert 5 not in occupancy
    occupancy.add(5)
    assert 3 not in occupancy
    occupancy.add(3)
    occupancy.add(5)

    assert 3 in occupancy
    assert 5 in occupancy
    assert len(occupancy) == 2


def test_writing_ahead_no_more_takes_effect_with_the_next_job() -> None:
    occupancy = Occupancy({3})
    occupancy.allowed = 2
    occupancy.add(3)
    occupancy.add(3)

    occupancy.allowed = 1
    occupancy.one_done(3)

    assert 3 in occupancy


def test_a_new_process_on_the_pipe_of_a_dead_one_is_free() -> None:
    occupancy = Occupancy({3})
    occupancy.add(3)

    occupancy.discard(3)

    assert 3 not in occupancy


def test_after_a_lost_connection_only_running_jobs_count() -> None:
    occupancy = Occupancy({3, 5})
    occupancy.add(3)
    occupancy.add(5)

    occupancy.intersection_update({5})

    assert 3 not in occupancy
    assert 5 in occupancy


def test_a_result_nobody_waits_for_any_more_makes_no_room() -> None:
    occupancy = Occupancy({3})

    occupancy.one_done(3)
    occupancy.add(3)

    assert 3 in occupancy
