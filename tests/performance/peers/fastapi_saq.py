"""P2, what they would pick for speed: FastAPI on uvicorn, a row by psycopg, then SAQ. No auth, no idempotency."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from saq import Queue

POOL_SIZE = int(os.environ["PEER_POOL_SIZE"])
# A statement of its own is a transaction of its own: one round trip instead of three.
pool = AsyncConnectionPool(
    os.environ["PEER_DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE, open=False, kwargs={"autocommit": True}
)
queue = Queue.from_url(os.environ["PEER_REDIS_URL"])


class Submission(BaseModel):
    """What a client sends."""

    type: str
    args: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The pool and the queue, for as long as the process serves."""
    await pool.open(wait=True)
    await queue.connect()
    yield
    await queue.disconnect()
    await pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def submit(submission: Submission) -> dict[str, str]:
    """Store, then enqueue."""
    job_id = uuid.uuid4()
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO jobs (id, type, state, args) VALUES (%s, %s, 'queued', %s)",
            (job_id, submission.type, Jsonb(submission.args)),
        )
    await queue.enqueue("noop", job_id=str(job_id))
    return {"id": str(job_id), "state": "queued"}
