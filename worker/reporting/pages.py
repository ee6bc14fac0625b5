"""Jinja templates with everything escaped, for pages that load nothing from anywhere."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from worker.reporting import text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("worker.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "count": text.count,
        "share": text.share,
        "size": text.size,
        "number": text.number,
        "duration": text.duration,
        "visible": text.visible,
    }
    return environment


def render(template: str, **values: object) -> str:
    """The page as one self-contained document."""
    environment = _environment()
    css, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    return environment.get_template(template).render(css=Markup(css), **values)  # noqa: S704 - our own stylesheet
