"""`GET /jobs/{id}` beside the same server's own no-op route."""

from contextlib import ExitStack

from tests.performance.load import Plan, Report, run_load
from tests.performance.measurement import Comparison, Scale, in_turns
from tests.performance.meter import Meter
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace

JOBS = 500
CONNECTIONS = 32


def look(servers: Servers, scale: Scale) -> list[Comparison]:
    """Requests per second of both routes."""
    with ExitStack() as stack:
        millrace = Millrace.install(servers)
        ids = millrace.insert_finished(JOBS)
        processes = stack.enter_context(millrace.running("api", "beat"))
        pids = {**processes.pids, "postgres": servers.postgres.pid}
        paths = {"job": [f"/api/v1/jobs/{job_id}" for job_id in ids], "livez": ["/livez"]}
        plans = {
            name: Plan(
                port=processes.port,
                method="GET",
                paths=chosen,
                headers={"Authorization": f"Bearer {millrace.key}"},
                connections=CONNECTIONS,
                seconds=scale.load_seconds,
                keep_ids=name == "job",
            )
            for name, chosen in paths.items()
        }
        reports: dict[str, list[Report]] = {name: [] for name in plans}
        meters = {name: Meter(pids) for name in plans}
        wanted = set(map(str, ids))
        for name in in_turns(list(plans), scale.rounds):
            with meters[name].round() as done:
                report = run_load(plans[name])
                done["work"] = report.requests
            if name == "job" and set(report.ids) - wanted:
                raise AssertionError("an answer was about another job")
            reports[name].append(report)
    rates = {name: [report.rate for report in of] for name, of in reports.items()}
    details = {"ours": meters["job"].as_mapping(), "theirs": meters["livez"].as_mapping()}
    checked = "every answer was 200 and about one of the jobs that were asked for"
    return [Comparison("look", "req/s", "more", rates["job"], rates["livez"], checked, details)]
