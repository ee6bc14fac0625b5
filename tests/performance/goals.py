"""What Millrace wants to reach beside each peer, as ratios: absolute rates move from machine to machine."""

from dataclasses import dataclass

from tests.performance.measurement import Comparison


@dataclass(frozen=True)
class Goal:
    """A row of the table: our figure over the peer's must be at least (`more`) or at most (`less`) this."""

    name: str
    path: str
    peer: str
    goal: float
    stretch: float | None = None


GOALS = (
    Goal(
        "submit-flask", "submit over HTTP, 32 connections", "P1: Flask, gunicorn gthread, SQLAlchemy, `.delay()`", 4, 6
    ),
    Goal("submit-p99", "… its slowest hundredth", "P1", 0.25),
    Goal(
        "submit-fastapi",
        "submit over HTTP, 32 connections",
        "P2: FastAPI, uvicorn, psycopg, SAQ; no auth, no idempotency",
        1,
        1.5,
    ),
    Goal("batch", "batch submit, 1,000 a call", "P1: `add_all`, commit, `.delay()` each", 15, 25),
    Goal("run-celery", "run no-op jobs, two processes, every state durable", "stock Celery, nothing stored", 1.5, 2.5),
    Goal(
        "run-procrastinate",
        "run no-op jobs, two processes, every state durable",
        "Procrastinate, durable in PostgreSQL",
        2,
        4,
    ),
    Goal("start-p50", "submit → start on an idle system, median", "stock Celery `.delay()`, no row", 1.5, 1),
    Goal("start-p99", "… its slowest hundredth", "stock Celery `.delay()`, no row", 1.5, 1),
    Goal("look", "`GET /jobs/{id}`, 32 connections", "the same server's `/livez`, which touches nothing", 0.6, 0.75),
    Goal("list", "`GET /jobs`, the deepest page", "its first page", 2),
    Goal("backlog", "run no-op jobs with a great backlog", "with 1,000 queued", 0.9),
    Goal("backlog-redis", "… what the backlog takes in Redis", "10 MB", 1),
    Goal("memory-api", "memory of an API process after many jobs", "the same after a fifth of them", 1.05),
    Goal("memory-worker", "memory of a worker's main process after many jobs", "the same after a fifth of them", 1.05),
)

BY_NAME = {goal.name: goal for goal in GOALS}


def verdict(comparison: Comparison) -> str:
    """How the figure stands to its goal, in a few words."""
    goal = BY_NAME[comparison.name]
    if goal.stretch is not None and _reaches(comparison, goal.stretch):
        return "beyond"
    if _reaches(comparison, goal.goal):
        return "met"
    return (
        f"missed: {comparison.ratio / goal.goal:.2f} of it"
        if comparison.better == "more"
        else (f"missed: {comparison.ratio / goal.goal:.1f} times it")
    )


def is_met(comparison: Comparison) -> bool:
    """Whether the goal is reached."""
    return _reaches(comparison, BY_NAME[comparison.name].goal)


def _reaches(comparison: Comparison, wanted: float) -> bool:
    return comparison.ratio >= wanted if comparison.better == "more" else comparison.ratio <= wanted
