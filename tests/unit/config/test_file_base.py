"""Config files that inherit: whose value holds, what is refused, and the place that each error names."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray.config import cli
from maskdpo_ray.config.file import BASE, read_values, sections
from maskdpo_ray.errors import ConfigError

ROOT = Path(__file__).parents[3]
BOTTOM = """\
model: {model_name_or_path: m}
run:
  name: bottom
  iterations: 5
mask: {policy: {chosen: {no_fact: 1}, rejected: {contradictory: 1}}}
adam: {betas: [0.8, 0.9]}
eval: {evaluator: factscore}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with three files built on one another in two folders."""
    monkeypatch.chdir(tmp_path)
    write("configs/bottom.yaml", BOTTOM)
    write("configs/recipes/middle.yaml", "base: ../bottom.yaml\nrun: {name: mid, seed: 3}\neval: {evaluator: null}\n")
    write("configs/recipes/top.yaml", "rollout:\nadam: {lr: 1e-4}\nrun: {name: top}\nbase: middle.yaml\n")
    return tmp_path


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def refused(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        cli.parse(["--config", name, *overrides])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_base_is_no_section() -> None:
    assert BASE not in sections()


def test_the_nearest_value_holds_option_by_option() -> None:
    config = cli.read(Path("configs/recipes/top.yaml"))
    assert (config.run.name, config.run.seed, config.run.iterations) == ("top", 3, 5)
    assert (config.adam.lr, config.adam.betas) == (1e-4, (0.8, 0.9))
    assert config.eval.evaluator is None  # an explicit none is a value
    assert cli.parse(["--config", "configs/recipes/top.yaml", "--run.seed", "9"]).config.run.seed == 9


def test_a_mapping_is_replaced_whole() -> None:
    policy = {"chosen": {"no_hallucination": 0.5}, "rejected": {"unverifiable": 1.0}}
    write("configs/recipes/top.yaml", f"base: ../bottom.yaml\nmask: {{policy: {policy}}}\n")
    assert cli.read(Path("configs/recipes/top.yaml")).mask.policy == policy


def test_a_file_with_nothing_but_its_base() -> None:
    write("x.yaml", "base: configs/bottom.yaml")
    assert cli.read(Path("x.yaml")) == cli.read(Path("configs/bottom.yaml"))


def test_paths_are_relative_to_the_file_from_any_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cli.read(Path("configs/recipes/top.yaml"))
    monkeypatch.chdir("/")
    assert cli.read(folder / "configs/recipes/top.yaml") == expected
    write(str(folder / "far.yaml"), f"base: {folder}/configs/recipes/top.yaml\n")
    assert cli.read(folder / "far.yaml") == expected


def test_shipped_configs_inherit_from_any_directory(tmp_path: Path) -> None:
    write("x.yaml", f"base: {ROOT}/configs/quickstart.yaml\nrun: {{name: x}}\n")
    assert cli.read(Path("x.yaml")).rollout == cli.read(ROOT / "configs/quickstart.yaml").rollout


def test_the_resolved_config_is_whole() -> None:
    config = cli.read(Path("configs/recipes/top.yaml"))
    write("resolved.yaml", cli.to_yaml(config))
    assert "base:" not in Path("resolved.yaml").read_text()
    assert cli.read(Path("resolved.yaml")) == config


def test_no_output_overwrites_a_base() -> None:
    line = cli.parse(["--config", "configs/recipes/top.yaml"])
    chain = ["configs/recipes/top.yaml", "configs/recipes/middle.yaml", "configs/bottom.yaml"]
    assert [str(file) for file in line.config_files] == chain and str(line.config_path) == chain[0]
    assert set(chain) <= set(line.files_read())


def test_every_value_keeps_its_place() -> None:
    given, _ = read_values(Path("configs/recipes/top.yaml"))
    assert given["run.iterations"].where == "configs/bottom.yaml:4: run.iterations"
    assert given["run.seed"].where == "configs/recipes/middle.yaml:2: run.seed"
    assert given["adam.lr"].where == "configs/recipes/top.yaml:2: adam.lr"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {iterations: many}", "configs/bottom.yaml:1: run.iterations: expected a whole number, got 'many'"),
        ("run:\n  itertions: 3", "configs/bottom.yaml:2: run.itertions: unknown option; did you mean run.iterations?"),
        ("run: {iterations: 0}", "configs/bottom.yaml:1: run.iterations: expected at least 1, got 0"),
        ("run: [", "configs/bottom.yaml:1: expected YAML, got: "),
        ("", "configs/bottom.yaml: expected sections (run, "),
    ],
)
def test_a_fault_of_a_base_names_the_base(text: str, message: str) -> None:
    write("configs/bottom.yaml", text)
    assert refused("configs/recipes/top.yaml").startswith(message)


def test_a_value_of_a_base_that_is_overridden_is_not_checked_with_the_rest() -> None:
    write("configs/bottom.yaml", BOTTOM.replace("iterations: 5", "iterations: 0"))
    assert cli.parse(["--config", "configs/recipes/top.yaml", "--run.iterations", "2"]).config.run.iterations == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: nowhere.yaml",
            "configs/x.yaml:1: base: configs/nowhere.yaml: expected a config file, got: No such file or directory",
        ),
        ("run: {name: x}\nbase: .", "configs/x.yaml:2: base: configs: expected a config file, got: Is a directory"),
        ("base:", "configs/x.yaml:1: base: expected text, got nothing"),
        ("base: [bottom.yaml]", "configs/x.yaml:1: base: expected text, got a list of 1"),
        ("base: bottom.yaml\nbase: bottom.yaml", "configs/x.yaml:2: base: given twice, first in line 1"),
        ("bases: bottom.yaml", "configs/x.yaml:1: bases: unknown section; did you mean base?"),
        ("defaults: bottom.yaml", "configs/x.yaml:1: defaults: unknown section; did you mean base?"),
    ],
)
def test_a_bad_base_is_one_line(text: str, message: str) -> None:
    write("configs/x.yaml", text)
    assert refused("configs/x.yaml") == message


def test_a_circle_names_its_files() -> None:
    write("configs/bottom.yaml", "base: recipes/top.yaml\n")
    assert refused("configs/recipes/top.yaml") == (
        "configs/bottom.yaml:1: base: expected a file that is not built on this one, got configs/recipes/top.yaml > "
        "configs/recipes/middle.yaml > configs/bottom.yaml > configs/recipes/top.yaml"
    )


def test_a_circle_through_a_link(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "configs")
    write("configs/bottom.yaml", f"base: {folder}/link/bottom.yaml\n")
    assert "expected a file that is not built on this one" in refused("configs/bottom.yaml")


def test_the_command_line_has_no_base() -> None:
    assert refused("configs/bottom.yaml", "--base", "x").startswith("--base: unknown option")
