"""One name for one thing: classes of both packages have different names, and public names are listed once."""

import ast
import importlib
from collections import defaultdict

import pytest

# A primitive layer, its module in Flax, and the block of the same name are one thing at three levels.
SHARED = {
    "BatchNorm", "Chain", "Classifier", "Conv", "Dropout", "Linear", "LocalResponseNorm", "Pool", "Reparam",
    "SqueezeExcite",
    "MeanStd",  # two protocols that any normalisation meets, so that neither package needs the other
    "_Member",  # private: of an ensemble, and of a population
}  # fmt: skip
PUBLIC = (
    "lcnas.arch", "lcnas.blocks", "lcnas.budgets", "lcnas.cost", "lcnas.latency", "lcnas.latency.table",
    "lcnas.models", "lcnas.onnx_export", "lcnas.spaces", "lcnas.training", "lcnas.training.augment",
    "lcnas.training.data", "lcnas.training.recipes", "lcnas.zoo", "search.searchers",
)  # fmt: skip


def test_a_class_name_is_used_once(checkout):
    places = defaultdict(list)
    for package in ("lcnas", "search"):
        for path in sorted((checkout / package).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(path.relative_to(checkout).as_posix())
    assert len(places) > 200
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert set(twice) == SHARED, {n: w for n, w in twice.items() if n not in SHARED}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_listed_once(name):
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        return
    assert len(listed) == len(set(listed))
    assert all(hasattr(module, item) for item in listed)
    assert not [item for item in listed if item.startswith("_")]
