"""The model card: metadata that the Hub reads, figures of the evaluations, and hostile names shown as they are."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_run
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from test_summary import CORRECTED, FULL, SHORT, make

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import affects
from maskdpo_ray.records import LABELS, encode_line
from maskdpo_ray.report import card, summary
from maskdpo_ray.store.run_folder import RunFolder

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://evil.example/x.png) "
    "| a | `code` ``two`` \x1b[2J \u202e **bold** # head &lt;b&gt; $x$ http://evil.example www.evil.example "
    "<https://evil.example> </code></td>"
)


class Tags(HTMLParser):
    """The tags of a rendered card, and where its links and pictures lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names, self.places, self.texts = set[str](), set[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.places |= {value or "" for name, value in attrs if name in ("href", "src") or name.startswith("on")}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def rendered(content: bytes) -> Tags:
    """The card as GitHub and the Hub render it, HTML and bare addresses included."""
    text = content.decode().partition("\n---\n")[2]
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    return Tags(markdown.render(text))


def made(folder: Path, *policies: Any, **options: Any) -> Path:
    """A run folder as `make` leaves it, of a model."""
    found: Path = make(folder, *policies, **options)
    configure(found, model={"model_name_or_path": "models/own"})
    return found


def configure(folder: Path, **sections: dict[str, Any]) -> None:
    """Further options in the config of a run folder."""
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for section, values in sections.items():
        config[section] = config.get(section, {}) | values
    file.write_text(yaml.safe_dump(config))


def test_the_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    folder = made(tmp_path, FULL, SHORT, CORRECTED, transfer=(FULL, SHORT, CORRECTED))
    configure(
        folder,
        hub={"push": "org/own"},
        data={"train": "hf://datasets/org/questions:main/train", "transfer": "builtin:elements"},
        model={"model_name_or_path": "org/base@" + "a" * 40},
    )
    found = ModelCard(card.render(folder, 2).decode()).data
    metadata = found.to_dict()
    assert metadata["base_model"] == "org/base"
    assert metadata["datasets"] == ["org/questions"]
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-generation"
    assert {"mask-dpo", "dpo", "factuality", "arxiv:2503.02846", "arxiv:2305.18290"} <= set(metadata["tags"])
    assert "license" not in metadata
    assert found.model_name == "own"
    entries = summary.build(folder)["evaluations"]
    results = {(each.dataset_split, each.metric_type): each for each in found.eval_results}
    for split, dataset in (("heldout", "org/questions"), ("transfer", "builtin:elements")):
        before, entry = entries[split][0]["metrics"], entries[split][2]["metrics"]
        for metric in ("score", "correct_facts", "incorrect_facts"):
            result = results[split, metric]
            assert result.dataset_type == dataset
            assert result.metric_value == pytest.approx(entry[metric]["mean"], abs=1e-6)
            bounds = {"before": before[metric]["mean"], "low": entry[metric]["low"], "high": entry[metric]["high"]}
            assert result.metric_args == pytest.approx(bounds, abs=1e-6)
    assert ("heldout", "recall") not in results  # the questions don't say what they ask for


def test_the_text_says_before_after_and_what_got_worse(tmp_path: Path) -> None:
    folder = made(tmp_path, FULL, SHORT)
    text = card.render(folder, 1).decode()
    entry = summary.build(folder)["evaluations"]["heldout"][1]
    gain = entry["gain"]["score"]
    row = next(line for line in text.splitlines() if line.startswith("| score |"))
    assert f"| {gain['before']:.3f} (" in row
    assert f"| {gain['gain']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) |" in row
    assert f"stated less often: {card.plain('currency (2.50 -> 1.50)')}" in text
    assert "(10 topics, 10 questions, 2 answers each)" in text
    assert "| pairs | `100` |" in text
    assert "[arXiv 2503.02846](https://arxiv.org/abs/2503.02846)" in text
    assert "unknown, as the base model's folder has no card" in text
    assert "the CIA World Factbook, in the public domain" in text


def test_hostile_names_and_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = made(tmp_path, FULL, SHORT)
    place = "".join(character for character in HOSTILE if character.isprintable())  # as a config has to be
    configure(
        folder,
        run={"name": place.replace("/", "")[:150]},
        annotation={"annotator": f"python:{place}:A", "options": {"note": f"{place} ```` <b>"}},
        model={"model_name_or_path": place.replace("/", "")},
        data={"train": place},
    )
    file = folder / "eval_001/heldout.json"
    value = yaml.safe_load(file.read_text())
    value["unparsed_example"] = HOSTILE
    value["metrics"]["unparsed"] = {**value["metrics"]["unparsed"], "mean": 0.5}
    value["kinds"] = {**value["kinds"], HOSTILE: {"correct": 0.0, "incorrect": 0.0}}
    file.write_bytes(encode_line(value))
    before = folder / "eval_000/heldout.json"
    value = yaml.safe_load(before.read_text())
    value["kinds"] = {**value["kinds"], HOSTILE: {"correct": 1.0, "incorrect": 0.0}}
    before.write_bytes(encode_line(value))
    content = card.render(folder, 1)
    ModelCard(content.decode())
    assert not {character for character in content.decode() if character in "\x1b\u202e"}
    page = rendered(content)
    ours = {"h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "a"}
    assert page.names <= ours
    assert all(place.startswith("https://arxiv.org/abs/") for place in page.places)
    text = "".join(page.texts)
    assert text.count("<script>alert(1)</script>") >= 5
    said = [line for line in content.decode().splitlines() if line.startswith("- heldout")]
    assert any("evil" in line for line in said)
    assert not any(re.search("http://|www[.]", line) for line in said)  # nor does GitHub make links of them


def test_a_card_is_the_same_wherever_its_run_lies(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "elsewhere" / "b"
    first.mkdir()
    made(first, FULL, SHORT)
    configure(first, model={"model_name_or_path": "/home/jane/models/own"}, data={"train": "/home/jane/secret/q.jsonl"})
    shutil.copytree(first, second)
    content = card.render(first, 1)
    assert content == card.render(second, 1)
    assert b"jane" not in content
    assert b"secret" not in content
    assert b"q.jsonl" in content


def test_the_recipe_is_a_config_that_trains_the_same(tmp_path: Path) -> None:
    folder = made(tmp_path, FULL, SHORT, CORRECTED)
    mask = {side: dict.fromkeys(LABELS, 0.5) for side in ("chosen", "rejected")}
    configure(
        folder,
        mask={"policy": mask},
        train={"beta": 0.3},
        objective={"name": "ipo"},
        cluster={"threads": 2},
        logger={"wandb_entity": "me"},
    )
    text = card.render(folder, 1).decode()
    recipe = tmp_path / "config.yaml.from-card"
    recipe.write_text(text.partition("```yaml\n")[2].partition("\n```")[0])
    assert "wandb_entity" not in text
    own, found = (cli.resolved(cli.read(file)) for file in (folder / "config.yaml", recipe))
    for section, values in own.items():
        for option, value in values.items():
            if affects(f"{section}.{option}"):
                assert found[section][option] == value, option
    assert found["run"]["iterations"] == 1
    assert "- Papers" not in text
    assert "IPO (Azar et al." in text


def test_a_run_leaves_a_card_with_each_policy_it_trained(tmp_path: Path) -> None:
    fake_run.run(tmp_path)
    for version in (1, 2):
        folder = tmp_path / "run" / f"iter_{version - 1:03d}" / "policy"
        found = ModelCard.load(folder / "README.md")
        assert found.data.model_name == f"run-policy-{version}"
        assert found.data.eval_results
        assert "SHA-256 of the weights of this policy" in found.text
        modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
        mask = os.umask(0)
        os.umask(mask)
        assert modes == {0o666 & ~mask}
    assert not (tmp_path / "model" / "README.md").exists()
    path, before = tmp_path / "run", card.render(tmp_path / "run", 1)
    with RunFolder.open(path, cli.resolved(fake_run.config_for(tmp_path)), {"torch": "99"}):
        assert card.render(path, 1) == before  # the versions are those that it was trained with
    (tmp_path / "run/iter_000/policy/README.md").write_text("edited")  # what is compared are the weights
    fake_run.run(tmp_path, iterations=3)


def test_a_policy_of_given_pairs_is_not_evaluated(tmp_path: Path) -> None:
    folder = made(tmp_path, FULL, SHORT)
    shutil.rmtree(folder / "eval_000")
    shutil.rmtree(folder / "eval_001")
    card.write(folder, 1, Path("/data/pairs.jsonl"))
    text = (folder / "iter_000/policy/README.md").read_text()
    assert "This policy was not evaluated." in text
    assert "python -m maskdpo_ray.train pairs.jsonl --config config.yaml" in text
    assert "training on the pairs of `pairs.jsonl`" in text
    assert "annotator" not in text
    assert "model-index" not in text
    card.write(folder, 0)  # the user's model
    assert len(list(folder.rglob("README.md"))) == 1
