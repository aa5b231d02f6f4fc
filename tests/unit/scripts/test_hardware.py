"""configs/hardware: each fits the machines that it names, passes a dry run, and stands in docs/hardware.md."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import stub_model

from maskdpo_ray import plan, run
from maskdpo_ray.config import cli
from maskdpo_ray.models import shape

ROOT = Path(__file__).parents[3]
NAMES = sorted(file.stem for file in (ROOT / "configs" / "hardware").glob("*.yaml"))
MOST_LINES = 8
"""Lines of a preset that give values."""


@pytest.fixture(scope="module")
def hardware() -> Iterator[ModuleType]:
    """The script as a module, in the repository's folder."""
    found = importlib.util.spec_from_file_location("hardware", ROOT / "scripts" / "hardware.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setitem(sys.modules, "hardware", module)
        found.loader.exec_module(module)
        yield module


def test_docs_have_the_table_that_the_command_makes_and_all_presets_fit(hardware: ModuleType) -> None:
    table = hardware.table()
    rows = table.splitlines()[2:]
    assert len(rows) == len(NAMES) == 6 and all(row.endswith("| fits |") for row in rows)
    text = hardware.DOCS.read_text(encoding="utf-8")
    assert hardware.written(text, table) == text, "run: PYTHONPATH=. python scripts/hardware.py --write"


def test_a_table_replaces_the_one_between_the_marks(hardware: ModuleType) -> None:
    before, after = f"# Title\n{hardware.BEGIN}\n", f"\n{hardware.END}\nmore\n"
    assert hardware.written(f"{before}old{after}", "new") == f"{before}new{after}"
    with pytest.raises(ValueError, match="expected the lines"):
        hardware.written("# Title\n", "new")


def test_a_preset_that_does_not_fit_is_said_to(hardware: ModuleType, tmp_path: Path) -> None:
    text = (hardware.FOLDER / "laptop_135m.yaml").read_text(encoding="utf-8")
    file = tmp_path / "laptop_135m.yaml"
    file.write_text(text.replace("configs/hardware/", f"{tmp_path}/").replace("_gib 16", "_gib 8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "ROOT", tmp_path)
        assert hardware.row(file)[-1] == "**does not fit**"
    file.write_text("# A title\nrun: {}\n")
    with pytest.raises(ValueError, match=r"laptop_135m.yaml:2: expected '# python -m maskdpo_ray.plan"):
        hardware.command(file)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_itself_in_few_lines(hardware: ModuleType, name: str) -> None:
    file = hardware.FOLDER / f"{name}.yaml"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) <= MOST_LINES
    assert hardware.command(file)[:2] == ["--config", f"configs/hardware/{name}.yaml"]
    assert cli.read(file).run.name == name.replace("_", "-")


@pytest.mark.parametrize("document", ["README.md", "docs/hardware.md"])
def test_configs_of_the_docs_fit_the_card_that_they_name(
    hardware: ModuleType, document: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    built = [block for block in blocks if "base: configs/hardware/24gb" in block]
    assert built
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for block in built:
        (tmp_path / "mine.yaml").write_text(block)
        plan.main(["--config", str(tmp_path / "mine.yaml"), "--num_gpus", "1", "--gpu_memory_gib", "24"])
        assert "GPUs: 1 of 1" in capsys.readouterr().out


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by size, made when first asked for."""
    return {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * ("x80gb" in name)) for name in NAMES]
)
def test_dry_run(
    hardware: ModuleType,
    name: str,
    stubs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = hardware.FOLDER / f"{name}.yaml"
    size = shape.published(cli.read(file).model.model_name_or_path)
    assert size is not None
    if size not in stubs:
        stubs[size] = stub_model.write(tmp_path_factory.mktemp(size), size)
    words = hardware.command(file)
    gpus = int(words[words.index("--num_gpus") + 1]) if "--num_gpus" in words else 0
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)  # the machine that the preset is for
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    run.main(["--config", str(file), "--dry_run", "--model.model_name_or_path", str(stubs[size])])
    assert f"run {name.replace('_', '-')} in runs/" in capsys.readouterr().out
