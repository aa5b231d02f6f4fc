"""The public names: light to import, typed as what they are, documented with examples that run."""

from __future__ import annotations

import ast
import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import maskdpo_ray

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/api.md"


def test_the_examples_of_the_page(bundled_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = doctest.testfile(str(PAGE), module_relative=False)
    assert (done.failed, done.attempted > 30) == (0, True)


def test_every_public_name_has_a_section() -> None:
    documented = re.findall(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(documented) == sorted(maskdpo_ray.__all__)


def test_type_checkers_and_python_see_the_same_objects() -> None:
    tree = ast.parse(Path(maskdpo_ray.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    for_checkers = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            for_checkers[alias.asname] = getattr(import_module(str(node.module)), alias.name)
    assert for_checkers == {name: getattr(maskdpo_ray, name) for name in maskdpo_ray.__all__}
    assert set(maskdpo_ray.__all__) <= set(dir(maskdpo_ray))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'maskdpo_ray' has no attribute 'mask_dpo_loss'"):
        _ = maskdpo_ray.mask_dpo_loss


@pytest.mark.parametrize("name", ["", "split_sentences"])
def test_a_name_brings_no_more_than_it_needs(name: str) -> None:
    """Imports are counted and not timed: a busy machine changes the time."""
    code = f"import sys, maskdpo_ray; {name and f'maskdpo_ray.{name};'} print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "maskdpo_ray" in loaded and not loaded & {"torch", "transformers", "ray", "yaml", "pyarrow"}
    assert name or not [module for module in loaded if module.startswith("maskdpo_ray.")]
