"""`gunicorn tests.faults.api:app`: the API with the tests' job types loaded."""

import tests.faults.job_types
import tests.support.job_types  # noqa: F401 - both register theirs
from service.app import create_app

app = create_app()
