"""`GET /admin/integrity`: whether everything is as it must be."""

from typing import Any

from flask import current_app
from flask.views import MethodView
from marshmallow import Schema, fields, validate

from service.accounts.scopes import Scope
from service.http.body import StrictBlueprint
from service.http.identity import requires
from service.jobs.integrity import check_integrity, is_sound

blp = StrictBlueprint("integrity", __name__, url_prefix="/api/v1", description="For operators")


class IntegrityLineSchema(Schema):
    """One line of the report."""

    name = fields.String()
    verdict = fields.String(validate=validate.OneOf(["ok", "warning", "broken", "unknown"]))
    found = fields.String()
    meaning = fields.String()
    to_do = fields.String()


class IntegritySchema(Schema):
    """The report."""

    sound = fields.Boolean(metadata={"description": "whether nothing is broken"})
    lines = fields.List(fields.Nested(IntegrityLineSchema))


@blp.route("/admin/integrity")
class Integrity(MethodView):
    """The integrity report."""

    @requires(Scope.OPERATOR)
    @blp.response(200, IntegritySchema)
    def get(self) -> Any:
        """Report counts that must be zero, what was repaired in the last day, and warnings about the set-up."""
        lines = check_integrity(current_app.extensions["celery"])
        return {"sound": is_sound(lines), "lines": [line.as_dict() for line in lines]}
