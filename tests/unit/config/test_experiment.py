"""The file of an experiment: what it gives each run, and one line for what is wrong in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maskdpo_ray.config import experiment
from maskdpo_ray.config.experiment import Direction, Experiment, PaperRow
from maskdpo_ray.config.schema import Config, ModelConfig
from maskdpo_ray.errors import ConfigError

GOOD = """\
base: base.yaml
options:
  data: {num_eval_topics: 12}
  train.beta: 0.2
seeds: [3, 1]
arms:
  masked:
  unmasked: {mask: {policy: vanilla}}
  both: {mask.policy: vanilla, train: {beta: 0.3}}
baseline: unmasked
paper:
  masked: {table: Mask-DPO table 2, score: 0.7753}
direction: {above: masked, below: unmasked, metric: score}
"""


def read(folder: Path, text: str) -> Experiment:
    (folder / "base.yaml").write_text(
        "model: {model_name_or_path: m}\ndata: {num_eval_topics: 40, num_dev_topics: 4}\n"
    )
    (folder / "mask.yaml").write_text(text)
    return experiment.read(folder / "mask.yaml", Path("experiments"), ("score", "recall", "second_score"))


def test_runs(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert (found.name, found.folder, found.seeds) == ("mask", Path("experiments/mask"), (3, 1))
    names = [run.name for run in found.runs]
    assert names == [f"{arm}-seed{seed}" for seed in (3, 1) for arm in ("masked", "unmasked", "both")]
    config = found.runs[5].config
    assert (config.run.name, config.run.dir, config.run.seed) == ("both-seed1", "experiments/mask/runs", 1)
    assert (config.mask.policy, config.train.beta, config.data.num_eval_topics) == ("vanilla", 0.3, 12)
    assert (found.runs[0].config.train.beta, found.runs[0].config.data.num_dev_topics) == (0.2, 4)
    assert len({run.config.data.split_seed for run in found.runs}) == 1  # the same held-out topics for all
    assert (found.baseline, found.paper) == ("unmasked", {"masked": PaperRow("Mask-DPO table 2", {"score": 0.7753})})
    assert found.directions == (Direction("masked", "unmasked", "score"),)


def test_the_first_arm_is_the_baseline(tmp_path: Path) -> None:
    found = read(tmp_path, "base: base.yaml\nseeds: [1]\narms: {b: {}, a: {train.beta: 0.5}}\n")
    assert (found.baseline, found.arms, found.paper, found.directions) == ("b", ("b", "a"), {}, ())


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("seeds:", "seed:", "mask.yaml:5: seed: unknown key; did you mean seeds?"),
        (
            "base: base.yaml\n",
            "",
            "mask.yaml: base: expected a config file, relative to this one's folder, got nothing",
        ),
        ("base: base.yaml", "base: other.yaml", "mask.yaml:1: base: expected a config file, got '"),
        (
            "[3, 1]",
            "[1, 1]",
            "mask.yaml:5: seeds: expected a list of different whole numbers, as [1, 2, 3], got [1, 1]",
        ),
        ("[3, 1]", "[]", "mask.yaml:5: seeds: expected a list of different whole numbers, as [1, 2, 3], got none"),
        ("[3, 1]", "[1, x]", "mask.yaml:5: seeds[1]: expected a whole number, got 'x'"),
        ("[3, 1]", "[-1]", "mask.yaml:5: seeds: expected a list of different whole numbers, as [1, 2, 3], got [-1]"),
        (
            "mask: {policy: vanilla}",
            "mask: {polcy: vanilla}",
            "mask.yaml:8: mask.polcy: unknown option; did you mean mask",
        ),
        ("{mask: {", "{maks: {", "mask.yaml:8: arms.unmasked: maks: unknown section or option; did you mean mask?"),
        (
            "mask.policy: vanilla",
            "mask.plicy: vanilla",
            "mask.yaml:9: mask.plicy: unknown option; did you mean mask.policy",
        ),
        ("{beta: 0.3}", "{beta: 0}", "mask.yaml:9: train.beta: expected above 0, got 0.0"),
        ("{beta: 0.3}", "{beta: x}", "mask.yaml:9: train.beta: expected a number, got 'x'"),
        ("train: {beta", "train.beta: 1, train: {beta", "mask.yaml:9: train.beta: given twice, first in "),
        (
            "mask.policy: vanilla",
            "run.seed: 5",
            "mask.yaml:9: run.seed: expected no such option, as the experiment gives",
        ),
        ("  masked:\n", "  mask/ed:\n", "mask.yaml:7: arms.mask/ed: expected a name of letters, digits"),
        ("  masked:\n", "  ..:\n", "mask.yaml:7: arms...: expected a name of letters, digits"),
        (
            "  masked:\n",
            "  masked: [1]\n",
            "mask.yaml:7: arms.masked: expected a mapping {section: {option: value}}, got a",
        ),
        ("  both:", "  masked:", "mask.yaml:9: arms.masked: given twice, first in line 7"),
        (
            "baseline: unmasked",
            "baseline: unmaskd",
            "mask.yaml:10: baseline: expected the arm masked or unmasked or both",
        ),
        ("score: 0.7753", "scor: 0.7753", "mask.yaml:12: paper.masked.scor: unknown key; did you mean score?"),
        (", score: 0.7753", "", "mask.yaml:12: paper.masked: expected table, and a figure or more, got table"),
        (
            "masked: {table",
            "unmaskd: {table",
            "mask.yaml:12: paper.unmaskd: expected the arm masked or unmasked or both",
        ),
        (
            "metric: score",
            "metric: f1",
            "mask.yaml:13: direction.metric: expected the metric score or recall or second_score, got 'f1'",
        ),
        (
            ", metric: score",
            "",
            "mask.yaml:13: direction.metric: expected a mapping {above: arm, below: arm, metric: name}",
        ),
        (
            "below: unmasked",
            "below: masked",
            "mask.yaml:13: direction.below: expected another arm than direction.above",
        ),
        ("direction: {", "direction: [", "mask.yaml:"),
        ("[3, 1]", "3", "mask.yaml:5: seeds: expected a list of different whole numbers, as [1, 2, 3], got '3'"),
        ("  masked:\n", "  ../arms.masked:\n", "mask.yaml:7: arms.../arms.masked: expected a name of letters, digits"),
        (
            "score: 0.7753",
            "score: 77.53",
            "mask.yaml:12: paper.masked.score: expected a share from 0 to 1, as ours, got",
        ),
        (
            "metric: score",
            "metric: second_score",
            "mask.yaml:13: direction: second_score: expected eval.evaluator, which",
        ),
        (
            "  masked:\n",
            "  masked: {mask.oracle: 'arm:both'}\n",
            "mask.yaml:7: mask.oracle: expected a model: no arm comes before this one, got 'arm:both'",
        ),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, GOOD.replace(old, new, 1))
    text = str(raised.value)
    assert error in text and "\n" not in text and text.startswith(str(tmp_path)), text


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("eval.temperature: 0.3", "eval.temperature: expected 0.8, as in a-seed1,"),
        ("rollout.temperature: 0.3", "mask.yaml: arms.b: eval.temperature: expected 0.8, as in a-seed1,"),
        ("eval.top_k: 1", "eval.top_k: expected 40, as in a-seed1,"),
        ("annotation.annotator: claims", "annotation.annotator: expected facts, as in a-seed1,"),
        ("eval.evaluator: factscore", "eval.evaluator: expected None, as in a-seed1,"),
        ("eval.perplexity_model: 'arm:a'", "eval.perplexity_model: expected None, as in a-seed1,"),
    ],
)
def test_arms_are_measured_alike(tmp_path: Path, option: str, error: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(error)):
        read(tmp_path, f"base: base.yaml\nseeds: [1]\narms: {{a: , b: {{{option}}}}}\n")


def test_an_arm_differs_from_every_other(tmp_path: Path) -> None:
    arms = "arms: {a: , b: {train.beta: 0.2}, c: {train: {beta: 0.2}}}"
    with pytest.raises(ConfigError, match=r"mask.yaml: arms.c: expected an option in which it differs from b, got non"):
        read(tmp_path, f"base: base.yaml\nseeds: [1, 2]\n{arms}\n")


def test_greedy_answers_have_no_temperature(tmp_path: Path) -> None:
    arms = "arms: {a: {rollout.temperature: 0.3}, b: {rollout.temperature: 0.8}}"
    assert read(tmp_path, f"base: base.yaml\noptions: {{eval.top_k: 1}}\nseeds: [1]\n{arms}\n").arms == ("a", "b")


@pytest.mark.parametrize("text", ["", "[]", "a: 1\n---\nb: 2\n", "arms: &a {x: *a}\n", "\x00", "base: [\n"])
def test_what_is_no_experiment(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path / "mask.yaml"))


def test_no_run_is_uploaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hub.push: expected none in an experiment"):
        read(tmp_path, GOOD.replace("  train.beta: 0.2", "  hub.push: org/name"))


RECIPES = """\
base: base.yaml
options: {train.beta: 0.2}
seeds: [1]
arms:
  dpo: {recipe: recipes/dpo.yaml}
  ipo: {recipe: recipes/ipo.yaml, mask.eos: drop}
  sepo: {recipe: recipes/dpo.yaml, mask.oracle: "arm:dpo"}
direction:
  - {above: dpo, below: ipo, metric: score}
  - {above: ipo, below: dpo, metric: recall}
"""


def with_recipes(folder: Path, text: str) -> Experiment:
    (folder / "recipes").mkdir()
    (folder / "recipes/root.yaml").write_text("model: {model_name_or_path: r}\nmask: {eos: keep}\nadam: {lr: 1e-3}\n")
    dpo = "base: root.yaml\nrun: {name: dpo, iterations: 4}\nmask: {policy: vanilla, eos: chosen}\ntrain: {beta: 5}\n"
    (folder / "recipes/dpo.yaml").write_text(dpo)
    (folder / "recipes/ipo.yaml").write_text("base: dpo.yaml\nobjective: {name: ipo}\nmask: {eos: keep}\n")
    return read(folder, text)


def test_a_recipe_is_what_it_says_over_its_last_base(tmp_path: Path) -> None:
    """The experiment's base stands in that one's place; options of every arm and the arm's own come after it."""
    dpo, ipo, sepo = (run.config for run in with_recipes(tmp_path, RECIPES).runs)
    default = Config(model=ModelConfig("m"))
    assert (dpo.model.model_name_or_path, dpo.adam.lr, dpo.data.num_eval_topics) == ("m", default.adam.lr, 40)
    assert (dpo.mask.policy, dpo.mask.eos, dpo.run.iterations, dpo.run.name) == ("vanilla", "chosen", 4, "dpo-seed1")
    assert (ipo.mask.policy, ipo.mask.eos, ipo.objective.name) == ("vanilla", "drop", "ipo")
    assert {each.train.beta for each in (dpo, ipo, sepo)} == {0.2}


def test_a_recipe_that_says_what_its_base_says_says_it(tmp_path: Path) -> None:
    found = with_recipes(tmp_path, RECIPES.replace(", mask.eos: drop", ""))
    assert found.runs[1].config.mask.eos == "keep"


def test_a_model_of_another_arm(tmp_path: Path) -> None:
    """Until it is made, the initial policy stands for it."""
    dpo, _, sepo = with_recipes(tmp_path, RECIPES).runs
    folder = "experiments/mask/runs/dpo-seed1/policy"
    assert (sepo.config.mask.oracle, sepo.at_start.mask.oracle) == (folder, "m")
    assert sepo.complete(sepo.at_start) == sepo.config
    assert dpo.at_start == dpo.config == dpo.complete(dpo.config)


def test_several_directions(tmp_path: Path) -> None:
    expected = (Direction("dpo", "ipo", "score"), Direction("ipo", "dpo", "recall"))
    assert with_recipes(tmp_path, RECIPES).directions == expected


def test_an_experiment_over_another_base(tmp_path: Path) -> None:
    """Keys that it gives replace the other's; paths are relative to the file in which they stand."""
    read(tmp_path, GOOD)
    (tmp_path / "large").mkdir()
    (tmp_path / "large/base.yaml").write_text("model: {model_name_or_path: l}\n")
    text = "experiment: ../mask.yaml\nbase: base.yaml\noptions: {train.beta: 0.4}\nseeds: [7]\n"
    (tmp_path / "large/mask.yaml").write_text(text)
    found = experiment.read(tmp_path / "large/mask.yaml", Path("x"), ("score", "recall"))
    assert [run.name for run in found.runs] == ["masked-seed7", "unmasked-seed7", "both-seed7"]
    assert [run.config.train.beta for run in found.runs] == [0.4, 0.4, 0.3]
    assert {run.config.model.model_name_or_path for run in found.runs} == {"l"}
    assert (found.baseline, list(found.paper), len(found.directions)) == ("unmasked", ["masked"], 1)
    (tmp_path / "large/mask.yaml").write_text("experiment: ../mask.yaml\n")
    assert experiment.read(tmp_path / "large/mask.yaml", Path("x"), ("score",)).seeds == (3, 1)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("recipes/ipo", "recipes/iop", "mask.yaml:6: arms.ipo.recipe: expected a config file, got '"),
        ("recipes/ipo", "recipes/root", "mask.yaml:6: arms.ipo.recipe: expected a config that is built on another"),
        ("recipe: recipes/ipo.yaml", "recipee: x", "mask.yaml:6: arms.ipo: recipee: unknown section or option"),
        (
            "options: {",
            "options: {recipe: recipes/ipo.yaml, ",
            "mask.yaml:2: options: recipe: unknown section or option",
        ),
        ("arm:dpo", "arm:dop", "mask.yaml:7: mask.oracle: expected arm:NAME of an arm before this one, got 'arm:dop'"),
        ("arm:dpo", "arm:sepo", "mask.yaml:7: mask.oracle: expected arm:NAME of an arm before this one"),
        (
            "mask.oracle: ",
            "model.model_name_or_path: ",
            "mask.yaml:7: model.model_name_or_path: expected a model, and no arm's, got 'arm:dpo'",
        ),
        ("metric: recall", "metric: f1", "mask.yaml:10: direction[1].metric: expected the metric score or recall"),
        ("below: dpo", "below: ipo", "mask.yaml:10: direction[1].below: expected another arm than direction[1].above"),
        ("{above: ipo, below: dpo, metric: recall}", "dpo", "mask.yaml:10: direction[1]: expected a mapping {above"),
        ("base: base.yaml", "experiment: none.yaml", "mask.yaml:1: experiment: expected a file of an experiment"),
        (
            "base: base.yaml",
            "experiment: mask.yaml",
            "mask.yaml:1: experiment: expected a file that names no other one",
        ),
    ],
)
def test_a_fault_of_what_it_names_is_one_line(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert RECIPES.count(old) == 1
    with pytest.raises(ConfigError) as raised:
        with_recipes(tmp_path, RECIPES.replace(old, new))
    text = str(raised.value)
    assert error in text and "\n" not in text and text.startswith(str(tmp_path)), text
