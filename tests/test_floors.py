"""The house has floors, and imports only ever go down."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

HOUSE = ("lcnas", "search")

# From the ground up. A module may import those of lower floors and itself, not its neighbours.
FLOORS = (
    ("environment", "files", "home", "paths", "renamed", "terminal"),
    ("errors",),
    ("images", "layers", "outputs"),
    ("blocks",),
    ("arch",),
    ("cost", "onnx_export", "spaces", "zoo"),
    ("commandline", "budgets"),
    ("_image_files", "latency", "models"),
    ("measure", "profile_blocks", "show", "training"),
    ("classify", "evaluate", "train"),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}

SEARCH_FLOORS = (
    ("console", "errors", "evaluation", "packed"),
    ("comparison", "outcome", "recipes", "registry", "tables", "trials"),
    ("distributed", "pareto", "settings"),
    ("data_sets", "problem", "resolution", "run_dir", "searchers"),
    ("context", "predictor", "reporting"),
    ("evaluator_report", "finals", "report"),
    ("evaluators",),
    ("preflight", "proposing"),
    ("pipeline",),
    ("run",),
    ("command",),
)
SEARCH_FLOOR_OF = {
    module: floor for floor, modules in enumerate(SEARCH_FLOORS) for module in modules
}
RAY = ("search.distributed.", "search.searchers.tune")  # modules that may import Ray

# So that describing, counting and sampling networks needs nothing heavy.
ONLY_NUMPY = {"layers", "blocks", "arch", "spaces", "zoo", "cost", "budgets"}
ONLY_STANDARD_LIBRARY = {
    "environment", "errors", "files", "home", "paths", "renamed", "terminal",
}  # fmt: skip


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


def _module_of(dotted: str, package: str = "lcnas") -> str | None:
    """The module of a package that a dotted name lies in: `spaces` for `lcnas.spaces.load`."""
    first, _, rest = dotted.partition(".")
    return rest.partition(".")[0] if first == package and rest else None


def _broken_rules(path: Path, source: str) -> list[str]:
    """What a file, given relative to the root of the checkout, imports against the rules."""
    imports = list(_imports(source, path.parts[:-1]))
    rules = _broken_in_search if path.parts[0] == "search" else _broken_in_lcnas
    return [*rules(path, imports), *_private(path, imports)]


def _broken_in_lcnas(path: Path, imports: Sequence[tuple[int, str]]) -> Iterator[str]:
    module = path.parts[1].removesuffix(".py")
    if module == "__init__":
        yield from (f"{path}:{line}: imports {n}" for line, n in imports if _module_of(n))
        return
    if module not in FLOOR_OF:
        yield f"{path}: has no floor: add {module!r} to FLOORS in {Path(__file__).name}"
        return
    for line, name in imports:
        top, target = name.partition(".")[0], _module_of(name)
        if top in ("search", "ray"):
            yield f"{path}:{line}: imports {name}: lcnas knows nothing of the search or Ray"
        elif target in FLOOR_OF and target != module and FLOOR_OF[target] >= FLOOR_OF[module]:
            yield f"{path}:{line}: imports {name}, which is not on a lower floor than {module}"
        elif top not in ("lcnas", *sys.stdlib_module_names, *_allowed(module, top)):
            yield f"{path}:{line}: imports {name}, a library that {module} has to do without"


def _broken_in_search(path: Path, imports: Sequence[tuple[int, str]]) -> Iterator[str]:
    module = path.parts[1].removesuffix(".py")
    if module != "__init__" and module not in SEARCH_FLOOR_OF:
        yield f"{path}: has no floor: add {module!r} to SEARCH_FLOORS in {Path(__file__).name}"
        return
    dotted = ".".join(path.with_suffix("").parts)
    floor = SEARCH_FLOOR_OF.get(module, 0)
    for line, name in imports:
        target = _module_of(name, "search")
        if target in SEARCH_FLOOR_OF and target != module and SEARCH_FLOOR_OF[target] >= floor:
            yield f"{path}:{line}: imports {name}, which is not on a lower floor than {module}"
        elif name.partition(".")[0] == "ray" and not dotted.startswith(RAY):
            yield f"{path}:{line}: imports {name}: Ray is imported in search.distributed only"


def _private(path: Path, imports: Sequence[tuple[int, str]]) -> Iterator[str]:
    """What a file imports from a private module of a package that it is not part of."""
    own = ".".join(path.parts[:-1])
    for line, name in imports:
        parts = name.split(".")
        for i, part in enumerate(parts):
            owner = ".".join(parts[:i])
            private = part.startswith("_") and not part.startswith("__") and parts[0] in HOUSE
            if private and own != owner and not own.startswith(f"{owner}."):
                yield f"{path}:{line}: imports {name}, private to {owner}"


def _graph(checkout: Path) -> dict[str, set[str]]:
    """The modules of both packages, and which of them each one imports, anywhere in its file."""
    files = {}
    for package in HOUSE:
        for path in (checkout / package).rglob("*.py"):
            parts = path.relative_to(checkout).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    def target(name: str) -> str:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {
            target(name)
            for _, name in _imports(path.read_text(), path.relative_to(checkout).parts[:-1])
        }
        - {"", module}
        for module, path in files.items()
    }


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; [] if there is none."""
    order: list[str] = []  # modules all of whose imports come earlier
    left = dict(graph)
    while ready := [m for m, targets in left.items() if targets <= set(order)]:
        order += ready
        for module in ready:
            del left[module]
    return sorted(m for m in left if any(m in targets for targets in left.values()))


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


def test_no_modules_import_each_other_in_a_circle(checkout):
    graph = _graph(checkout)
    assert len(graph) > 150
    assert "lcnas.budgets.bands" in graph["search.finals.selection"]
    assert not _circle(graph)


def test_a_circle_is_found():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c"]
    assert _circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


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
        ("lcnas/training/loop.py", "from lcnas.spaces import _space", "private to lcnas.spaces"),
        (
            "search/run.py",
            "from lcnas.training.data._cache import arrays",
            "private to lcnas.training.data",
        ),
        ("search/pareto.py", "def f():\n    import search.pipeline", "not on a lower floor"),
        (
            "search/problem.py",
            "if TYPE_CHECKING:\n    from search.run import main",
            "not on a lower floor",
        ),
        ("search/finals/training.py", "import ray", "in search.distributed only"),
        ("search/novelty.py", "import json", "add 'novelty' to SEARCH_FLOORS"),
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
        (
            "search/run.py",
            "import rich\nfrom lcnas import spaces, training\nfrom . import settings",
        ),
        ("search/distributed/tasks.py", "import ray\nfrom search.distributed import cluster"),
    ],
)
def test_what_is_allowed_is_not_complained_about(path, source):
    assert _broken_rules(Path(path), source) == []


def test_a_search_imports_ray_only_when_its_variables_are_set(checkout):
    """Ray reads some on import, such as the one that keeps it from listening beyond this machine."""
    code = "import sys; from search import run, preflight, pipeline; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


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
