import re

from tests.architecture.tree import files, name_of

# A lock or a lock file that names a host installs from nowhere else: not from a mirror, not behind a company's wall.
# The brackets keep this file from finding itself.
REGISTRY = re.compile(
    rb"py[p]i\.org|pyth[o]nhosted|registry\.np[m]js|registry\.ya[r]npkg|(deb|security)\.deb[i]an|arch[i]ve\.ubuntu"
)


def test_no_file_names_the_host_of_a_package_registry() -> None:
    naming = {name_of(path): found.group() for path in files() if (found := REGISTRY.search(path.read_bytes()))}

    assert not naming
