"""`GET /jobs` over many jobs: the deepest page beside the first one."""

from contextlib import ExitStack
from uuid import UUID

from service.paging import encode_cursor
from tests.performance.load import Plan, Report, run_load
from tests.performance.measurement import Comparison, Discarded, Scale, in_turns
from tests.performance.servers import Servers
from tests.performance.shipped import Millrace

PAGE = 50


def list_jobs(servers: Servers, scale: Scale) -> list[Comparison]:
    """Median latency over one connection."""
    with ExitStack() as stack:
        millrace = Millrace.install(servers)
        ids = sorted(millrace.insert_finished(scale.listed_jobs))
        processes = stack.enter_context(millrace.running("api"))
        pages = {
            "deepest": (f"/api/v1/jobs?limit={PAGE}&cursor={encode_cursor(ids[PAGE])}", ids[:PAGE]),
            "first": (f"/api/v1/jobs?limit={PAGE}", ids[-PAGE:]),
        }
        plans = {
            name: Plan(
                port=processes.port,
                method="GET",
                paths=[path],
                headers={"Authorization": f"Bearer {millrace.key}"},
                connections=1,
                seconds=scale.load_seconds / 2,
                keep_items=True,
            )
            for name, (path, _) in pages.items()
        }
        reports: dict[str, list[Report]] = {name: [] for name in plans}
        for name in in_turns(list(plans), scale.rounds):
            report = run_load(plans[name])
            _check(report, pages[name][1])
            reports[name].append(report)
    medians = {name: [report.latencies_ms["p50"] for report in of] for name, of in reports.items()}
    checked = f"every answer held exactly the {PAGE} jobs that belong on its page, of {scale.listed_jobs:,}"
    return [Comparison("list", "ms", "less", medians["deepest"], medians["first"], checked)]


def _check(report: Report, expected: list[UUID]) -> None:
    wanted = ",".join(map(str, sorted(expected, reverse=True)))
    if set(report.ids) != {wanted}:
        raise Discarded("a page held other jobs than it should")
