"""The guards that `make mutants` takes away are where it looks for them, and the tests that must notice exist."""

import pytest

from tests.architecture.tree import ROOT
from tests.faults.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_every_guard_stands_once_where_the_mutation_takes_it_away(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_every_test_that_must_notice_exists(mutation: Mutation) -> None:
    for test in mutation.noticed_by:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()
