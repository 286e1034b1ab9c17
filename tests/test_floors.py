"""The house has floors, and imports only ever go down."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the ground up. A module may import those of lower floors and itself, not its neighbours.
FLOORS = (
    ("_home", "_renamed", "_terminal", "paths"),
    ("errors",),
    ("images", "layers"),
    ("blocks",),
    ("arch",),
    ("cost", "onnx_export", "spaces", "zoo"),
    ("_cli", "budgets"),  # _cli: what the command lines share
    ("_image_files", "latency", "models"),
    ("measure", "profile_blocks", "show", "training"),
    ("classify", "evaluate", "train"),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}

# So that describing, counting and sampling networks needs nothing heavy.
ONLY_NUMPY = {"layers", "blocks", "arch", "spaces", "zoo", "cost", "budgets"}
ONLY_STANDARD_LIBRARY = {"_home", "_renamed", "_terminal", "errors", "paths"}


def _imports(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that a module of `package` imports, anywhere in the file.

    `from a import b` counts as `a.b`, since b may be a module. What only a type checker reads
    counts too.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _module_of(dotted: str) -> str | None:
    """The module of lcnas that a dotted name lies in: `spaces` for `lcnas.spaces.load`."""
    package, _, rest = dotted.partition(".")
    return rest.partition(".")[0] if package == "lcnas" and rest else None


def _broken_rules(path: Path, source: str) -> list[str]:
    """What a file, given relative to the root of the checkout, imports against the rules."""
    package = path.parts[:-1]
    imports = list(_imports(source, package))
    if path.parts[0] == "search":
        return []
    module = path.parts[1].removesuffix(".py")
    if module == "__init__":
        return [f"{path}:{line}: imports {n}" for line, n in imports if _module_of(n)]
    if module not in FLOOR_OF:
        return [f"{path}: has no floor: add {module!r} to FLOORS in {Path(__file__).name}"]
    broken = []
    for line, name in imports:
        top, target = name.partition(".")[0], _module_of(name)
        if top in ("search", "ray"):
            broken.append(
                f"{path}:{line}: imports {name}: lcnas knows nothing of the search or Ray"
            )
        elif target in FLOOR_OF and target != module and FLOOR_OF[target] >= FLOOR_OF[module]:
            broken.append(
                f"{path}:{line}: imports {name}, which is not on a lower floor than {module}"
            )
        elif top not in ("lcnas", *sys.stdlib_module_names, *_allowed(module, top)):
            broken.append(
                f"{path}:{line}: imports {name}, a library that {module} has to do without"
            )
    return broken


def _allowed(module: str, library: str) -> tuple[str, ...]:
    if module in ONLY_STANDARD_LIBRARY:
        return ()
    return ("numpy",) if module in ONLY_NUMPY else (library,)


def test_imports_go_down(checkout):
    files = [
        p for package in ("lcnas", "search") for p in sorted((checkout / package).rglob("*.py"))
    ]
    assert len(files) > 3
    broken = [
        rule
        for path in files
        for rule in _broken_rules(path.relative_to(checkout), path.read_text())
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("lcnas/cost.py", "import lcnas.latency", "not on a lower floor"),
        ("lcnas/cost.py", "from lcnas import spaces", "not on a lower floor"),
        ("lcnas/blocks/conv.py", "from ..arch import Arch", "not on a lower floor"),
        (
            "lcnas/blocks/conv.py",
            "def f():\n    from lcnas.cost import macs",
            "not on a lower floor",
        ),
        (
            "lcnas/arch.py",
            "if TYPE_CHECKING:\n    from lcnas import spaces",
            "not on a lower floor",
        ),
        ("lcnas/spaces/load.py", "import scipy.stats", "has to do without"),
        ("lcnas/errors.py", "import numpy", "has to do without"),
        ("lcnas/training/loop.py", "from ray import tune", "nothing of the search"),
        ("lcnas/training/loop.py", "import search.run", "nothing of the search"),
        ("lcnas/novelty.py", "import json", "add 'novelty' to FLOORS"),
        ("lcnas/__init__.py", "from lcnas import spaces", "imports lcnas.spaces"),
    ],
)
def test_a_broken_rule_is_found(path, source, complaint):
    (broken,) = _broken_rules(Path(path), source)
    assert complaint in broken


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "lcnas/cost.py",
            "import numpy as np\nfrom lcnas import __version__\nfrom .arch import walk",
        ),
        (
            "lcnas/blocks/conv.py",
            "from . import _base\nfrom ..layers import Conv\nimport lcnas.errors",
        ),
        ("lcnas/show.py", "import rich\nfrom lcnas import budgets, cost, latency, spaces, zoo"),
        ("search/run.py", "import ray\nfrom lcnas import spaces, training\nfrom . import report"),
    ],
)
def test_what_is_allowed_is_not_complained_about(path, source):
    assert _broken_rules(Path(path), source) == []


def test_describing_networks_loads_nothing_heavy(checkout):
    heavy = ("jax", "flax", "ray", "onnx", "onnxruntime", "scipy", "matplotlib", "optuna")
    code = (
        "import sys; from lcnas import arch, blocks, cost, spaces, zoo;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
