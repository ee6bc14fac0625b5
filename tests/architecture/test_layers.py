import subprocess
import sys

from importlinter.api import read_configuration

from tests.architecture.tree import PACKAGES, ROOT, files, module_name

CONFIGURATION = str(ROOT / "pyproject.toml")


CHECK = (
    f"import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports({CONFIGURATION!r}, no_cache=True))"
)


def test_imports_follow_the_contracts() -> None:
    # In a process of its own: it silences the loggers of whoever runs it.
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_every_module_stands_in_a_layer() -> None:
    layers = _layered_modules()

    outside = [
        name
        for path in files("*.py")
        if path.name != "__init__.py"
        and (name := module_name(path)).startswith(tuple(f"{package}." for package in PACKAGES))
        and not any(name == layer or name.startswith(f"{layer}.") for layer in layers)
    ]

    assert not outside, f"in no layer of [tool.importlinter] in pyproject.toml: {outside}"


def _layered_modules() -> set[str]:
    contracts = read_configuration(CONFIGURATION)["contracts_options"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "layers")
    return {name.strip(" ()\n") for layer in layers for name in layer.replace("|", ":").split(":")}
