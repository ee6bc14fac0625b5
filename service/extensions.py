"""The Flask extensions, unbound: `create_app()` binds them, and every module may import them without an app."""

from datetime import datetime

import orjson
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, MetaData
from sqlalchemy.orm import DeclarativeBase, registry

_metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Base(DeclarativeBase):
    """The models' base: every constraint has a name that migrations can use, every timestamp has a time zone."""

    registry = registry(metadata=_metadata, type_annotation_map={datetime: DateTime(timezone=True)})


# orjson reads a number beyond 64 bits as a double, which is what it was: PostgreSQL writes 1e20 out in full.
db = SQLAlchemy(model_class=Base, disable_autonaming=True, engine_options={"json_deserializer": orjson.loads})
migrate = Migrate()
