"""Only the Ray edge imports engines, and what everybody imports is light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINES = ("ray", "vllm", "deepspeed", "openrlhf")
# Where pure modules end: the Ray edge, the entry points that connect it, and the bridges to other trainers.
EDGE = tuple(f"maskdpo_ray.{name}" for name in "cluster run annotate train evaluate experiment openrlhf trl".split())
# A subclass of OpenRLHF's strategy has to import it; actors/training.py imports the file when it is built.
SUBCLASSES = ("actors.strategy",)

# Imports the named modules one after the other and prints which of the watched packages each one brought in.
PROBE = """
import importlib, json, sys
modules, watched = json.loads(sys.argv[1])
found = {}
for name in modules:
    before = set(sys.modules)
    importlib.import_module(name)
    roots = {loaded.partition(".")[0] for loaded in set(sys.modules) - before}
    found[name] = sorted(roots & set(watched))
print(json.dumps(found))
"""


def modules(package: str) -> list[str]:
    """Return the dotted names of all modules of a package of this repository, itself first."""
    names = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


def brought_in(names: list[str], watched: tuple[str, ...]) -> dict[str, list[str]]:
    """Import modules in a fresh interpreter; return those that loaded a watched package, and which."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([names, watched])], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name: packages for name, packages in json.loads(done.stdout.splitlines()[-1]).items() if packages}


def imported_names(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names.add(str(node.module).partition(".")[0])
    return names


def sources(*folders: str) -> list[Path]:
    """Return the Python files below folders of the repository."""
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def test_importing_a_pure_module_loads_no_engine() -> None:
    pure = [name for name in modules("maskdpo_ray") if name not in EDGE]
    assert len(pure) > 10
    assert brought_in(pure, (*ENGINES, "actors")) == {}


def test_pure_modules_name_no_engine_even_inside_functions() -> None:
    edge = [REPOSITORY / f"{name.replace('.', '/')}.py" for name in EDGE]
    found = {
        path.name: names
        for path in sources("maskdpo_ray")
        if path not in edge
        if (names := imported_names(path) & {*ENGINES, "actors"})
    }
    assert found == {}


def test_importing_an_actor_loads_no_engine() -> None:
    actors = [name for name in modules("actors") if name not in SUBCLASSES]
    assert brought_in(actors, ENGINES) == {}


def test_packages_are_light() -> None:
    assert brought_in(["maskdpo_ray", "actors"], (*ENGINES, "torch", "transformers", "numpy")) == {}


def test_actors_is_this_repositorys() -> None:
    import actors
    import maskdpo_ray

    for package in (actors, maskdpo_ray):
        assert Path(str(package.__file__)).resolve().parents[1] == REPOSITORY


@pytest.mark.parametrize(("name", "limit"), [("loop.py", 200), ("run.py", 80)])
def test_the_two_files_read_first_stay_short(name: str, limit: int) -> None:
    assert len((REPOSITORY / "maskdpo_ray" / name).read_text(encoding="utf-8").splitlines()) < limit
