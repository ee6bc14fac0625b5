"""The shapes of the artifacts endpoints."""

from marshmallow import Schema, fields

from service.jobs.schemas import Moment


class ArtifactLinksSchema(Schema):
    """Where to go from here."""

    self = fields.String()
    content = fields.String()


class ArtifactSchema(Schema):
    """A file that a job reads or made."""

    id = fields.UUID()
    name = fields.String()
    content_type = fields.String()
    size = fields.Integer(metadata={"description": "bytes"})
    sha256 = fields.String()
    job_id = fields.UUID(allow_none=True, metadata={"description": "the job that made it; none for an upload"})
    created_at = Moment()
    links = fields.Nested(ArtifactLinksSchema)


class ArtifactListSchema(Schema):
    """Artifacts of one job."""

    items = fields.List(fields.Nested(ArtifactSchema))
