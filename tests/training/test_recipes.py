"""Recipes: presets, fields by name, JSON, and what is refused."""

from __future__ import annotations

import importlib
import json

import pytest

from lcnas.errors import RecipeError
from lcnas.training import recipes
from lcnas.training.augment import Augment
from lcnas.training.recipes import Recipe

PRESETS = ("cifar10", "imagenette", "proxy", "pplcnet_imagenet", "pplcnet_ssld", "modern")


def test_the_presets_are_there():
    assert set(PRESETS) <= set(recipes.names())
    for name in recipes.names():
        assert recipes.load(name).name == name


@pytest.mark.parametrize("name", PRESETS)
def test_each_file_opens_with_its_command_its_cost_and_its_outcome(name):
    head = importlib.import_module(f"lcnas.training.recipes.{name}").__doc__ or ""
    assert f"--recipe {name}" in head
    assert "\nCost: " in head
    assert "Not run here." in " ".join(head.split()) or "docs/reference/recipes.md" in head
    assert "\nSource: " in head


def test_the_papers_recipe():
    """PP-LCNet, section 4.1, and PaddleClas's configs."""
    for name, decay, policy in (("", 3e-5, 0), ("_large", 4e-5, 0), ("_2.5x", 4e-5, 2)):
        r = recipes.load(f"pplcnet_imagenet{name}")
        assert (r.batch, r.epochs, r.learning_rate, r.warmup_epochs) == (2048, 360, 0.8, 5)
        assert (r.optimizer, r.momentum, r.nesterov) == ("sgd", 0.9, False)
        assert (r.weight_decay, r.augment.rand_augment) == (decay, policy)
        assert (r.label_smoothing, r.resolution, r.dropout) == (0.1, 224, None)
        assert (r.augment.crop, r.augment.flip, r.augment.evaluate_crop) == (
            "resized",
            0.5,
            224 / 256,
        )
    ssld = recipes.load("pplcnet_ssld")
    assert (ssld.epochs, ssld.batch, ssld.learning_rate) == (200, 1024, 0.4)
    assert ssld.needs_teacher
    assert ssld.distill_weight == 1.0


def test_json_and_back(tmp_path):
    for name in recipes.names():
        recipe = recipes.load(name)
        assert Recipe.from_data(json.loads(recipe.to_json())) == recipe
    path = tmp_path / "mine.json"
    path.write_text(recipes.load("modern", epochs=7).to_json())
    assert recipes.load(path).epochs == 7
    assert recipes.load(str(path), epochs=9).epochs == 9


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("epochs", "7", 7),
        ("learning_rate", "3e-3", 0.003),
        ("nesterov", "no", False),
        ("optimizer", "adamw", "adamw"),
        ("resolution", "80x160", (80, 160)),
        ("resolution", "96", 96),
        ("train_resolution", "64x64", 64),
        ("dropout", "none", None),
        ("dropout", "0.3", 0.3),
        ("augment.scale", "0.2,0.9", (0.2, 0.9)),
        ("augment.crop", "shift", "shift"),
        ("augment.rand_augment", "2", 2),
    ],
)
def test_every_kind_of_field_is_read_from_a_word(field, text, value):
    read = recipes.values(recipes.load("imagenette", **{field: text}))[field]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 5}, r"'epoch' is not among .*; did you mean 'epochs'\?"),
        ({"augment.mixp": 1}, r"'augment.mixp' is not among .*; did you mean 'augment.mixup'\?"),
        ({"epochs": "ten"}, "epochs: 'ten' is not a whole number"),
        ({"epochs": 0}, "epochs: 0 is less than 1"),
        ({"epochs": True}, "epochs: True is not a whole number"),
        ({"optimizer": "adam"}, r"'adam' is not among sgd, adamw; did you mean 'adamw'\?"),
        ({"momentum": 1.5}, "momentum: 1.5 is more than 1"),
        ({"learning_rate": "nan"}, "learning_rate: 'nan' is not a number"),
        ({"nesterov": "maybe"}, "nesterov: 'maybe' is not true or false"),
        (
            {"resolution": "80x"},
            "resolution: '80x' is not a whole number or 2 whole numbers or none",
        ),
        ({"resolution": 0}, "resolution: 0 is outside 1"),
        ({"batch": 100, "accumulate": 3}, "batch 100 cannot be divided into 3"),
        ({"warmup_epochs": 100}, "warmup_epochs 100.0 is more than epochs 40"),
        ({"augment": 3}, "augment: 3 is not a mapping"),
        ({"augment.scale": "0.9,0.2"}, "scale"),
        ({"augment.flip": 2}, "flip"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message) as caught:
        recipes.load("imagenette", **changes)
    assert "\n" not in str(caught.value)


def test_names_and_files_that_are_none(tmp_path):
    with pytest.raises(RecipeError, match=r"'cifar' is not among .*did you mean 'cifar10'"):
        recipes.load("cifar")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipes.load("nowhere.json")
    path = tmp_path / "bad.json"
    for text, message in (
        ("{", "not JSON"),
        ("[]", "not a recipe"),
        ('{"format": "lcnas-recipe", "version": 2}', "version: 2 is not 1"),
        ('{"format": "lcnas-recipe", "version": 1, "epoch": 3}', "did you mean 'epochs'"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            recipes.load(path)


def test_differences_are_named_but_for_the_label():
    a = recipes.load("cifar10")
    b = recipes.load("cifar10", name="other", epochs=31, **{"augment.pad": 2})
    assert a.differences(b) == [
        "epochs is 31 there and 30 here",
        "augment.pad is 2 there and 4 here",
    ]
    assert a.differences(a) == []


def test_every_field_can_be_set_and_has_a_help_text():
    settings = {s.name: s for s in recipes.settings()}
    assert {"epochs", "ema", "augment.mixup"} <= settings.keys()
    values = recipes.values(Recipe())
    assert settings.keys() == values.keys()
    for name, setting in settings.items():
        assert setting.about.help
        assert setting.kind_in_words
        same = recipes.values(Recipe().override({name: values[name]}))
        assert same == values
    assert Recipe().override({"augment": Augment(flip=0.0)}).augment.flip == 0
