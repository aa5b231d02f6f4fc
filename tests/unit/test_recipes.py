"""The recipes of configs/recipes: what each picks is in docs/recipes.md, and each passes its checks as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from docs.agreement_annotator import AgreementAnnotator
from maskdpo_ray import run
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import questions
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, Rollout

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "recipes"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
NEEDS = {"sepo": {"mask.oracle": "models/smollm2-135m-instruct"}}
"""Policy that another recipe makes first, and the bundled model stands for here."""
MOST_LINES = 14
"""Lines of a recipe that give values."""


@cache
def config_of(name: str) -> Config:
    return cli.read(FOLDER / f"{name}.yaml")


@cache
def rows() -> dict[str, list[str]]:
    """Recipe -> cells of its row in docs/recipes.md, by the row's link."""
    found = {}
    for line in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if link := re.fullmatch(r"\[(\w+)\]\(\.\./configs/recipes/(\w+)\.yaml\)", cells[0]):
            assert link[1] == link[2] and link[1] not in found
            found[link[1]] = cells
    return found


def picks(config: Config) -> list[str]:
    """Words that a row has of a config: source, annotator, score and strategy, mask, objective."""
    pairs, mask, objective, rollout = config.pairs, config.mask, config.objective, config.rollout
    sources = {
        f"{config.data.train.removeprefix('builtin:')}": True,
        "another model's answers": rollout.model is not None,
        f"chosen answers: {rollout.chosen_answers}": rollout.chosen_answers is not None,
        "atoms": config.atoms.n_samples_per_prompt > 0,
    }
    masks = {
        f"`{mask.policy}`": True,
        "times confidence": mask.confidence,
        "each sentence": mask.unit == "sentence",
        f"{mask.oracle_share:.0%} by an oracle": mask.oracle is not None,
    }
    with_options = f"`{objective.name}`" + "".join(f", {k} {v}" for k, v in (objective.options or {}).items())
    return [
        ", ".join(words for words, holds in sources.items() if holds),
        f"`{config.annotation.annotator.rpartition(':')[2]}`",
        f"`{pairs.score}`, `{pairs.strategy}`",
        ", ".join(words for words, holds in masks.items() if holds),
        f"SFT, then {with_options}" if config.sft.iterations else with_options,
    ]


@pytest.fixture(scope="module")
def here(bundled_model: Path) -> Iterator[None]:
    """The repository as working directory, and the bundled model, which is checked once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        checked = model_folder.load(config_of("mask_dpo").model)
        patch.setattr(model_folder, "load", lambda model: checked)
        yield


def test_docs_have_a_row_for_each_recipe() -> None:
    assert NAMES and set(rows()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_what_the_recipe_picks(name: str) -> None:
    _, paper, *cells, option = rows()[name]
    assert paper
    assert cells == picks(config_of(name))
    assert option == f"`--config configs/recipes/{name}.yaml`"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_few_lines_with_a_source(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    given = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert len(given) <= MOST_LINES
    assert given[0].startswith("base: ")
    assert "arXiv" in "".join(line for line in lines if line.startswith("#"))
    assert config_of(name).run.name == name


@pytest.mark.parametrize("name", NAMES)
def test_dry_run(here: None, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = [word for option, value in NEEDS.get(name, {}).items() for word in (f"--{option}", value)]
    run.main(["--config", f"configs/recipes/{name}.yaml", "--dry_run", *needed])
    assert f"run {name} in runs/{name}" in capsys.readouterr().out


def test_the_confidence_of_the_soft_mask_is_the_share_of_clauses_that_agree() -> None:
    annotator = AgreementAnnotator()
    question = next(each for each in questions.load("builtin:countries") if each.topic == "Rwanda")
    text = "Its capital is Kigali. Its capital is Kigali and its currency is the dollar. It is in Asia. Hello!"
    (found,) = annotator.annotate([(question, Rollout(question.id, 0, (1,), text, "stop", 0))])
    confidences = [(each.label, each.confidence) for each in found.sentences]
    assert confidences == [(NO_HALLUCINATION, 1.0), (CONTRADICTORY, 0.5), (CONTRADICTORY, 1.0), (NO_FACT, 1.0)]
