"""The model card of a policy: README.md in its folder, with the Hub's metadata.

A card is a function of the run folder alone, up to the evaluation of its policy: it has no date and no absolute path.
Names and texts of models, annotators and configs are escaped: who reads the card on the Hub has not chosen them.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config, affects
from maskdpo_ray.data import hub_data, questions
from maskdpo_ray.errors import printable
from maskdpo_ray.models.origin import CARD, Origin
from maskdpo_ray.report import summary
from maskdpo_ray.report.summary import Evaluated
from maskdpo_ray.report.tables import number
from maskdpo_ray.store import files, fingerprint
from maskdpo_ray.store.ledger import Opened, find_finished, read_entries
from maskdpo_ray.training.objectives import protocol as objectives

_THIS = "this policy"
_MASK_DPO = "Mask-DPO (Gu et al., ICLR 2025, arXiv 2503.02846)"
_SEPO = "the key tokens of SePO (Yang et al. 2024, arXiv 2408.13518)"
_ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
_SPLITS = {"heldout": "Held-out topics", "transfer": "Another domain"}
_METRICS = {
    "score": ("score", ".3f"),
    "recall": ("recall", ".3f"),
    "correct_facts": ("correct facts per answer", ".2f"),
    "incorrect_facts": ("incorrect facts per answer", ".2f"),
    "nothing_checkable": ("share of answers that say nothing checkable", ".3f"),
    "abstained": ("share of answers that abstain", ".3f"),
    "cut_off": ("share of answers that are cut off", ".3f"),
    "penalized_score": ("score with length penalty", ".3f"),
    "nats_per_token": ("nats per token", ".3f"),
}
"""Metric of an annotator, evaluator or perplexity model -> (label, format)."""
_USE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({place}{code})
model = AutoModelForCausalLM.from_pretrained({place}{code})
chat = [{{"role": "user", "content": "Give five short facts about Rwanda."}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0]))"""


def write(run_folder: Path, version: int, pairs: Path | None = None) -> None:
    """Write the card of policy `version` into its folder. Policy 0 is the user's model, which stays as it is.

    Args:
        pairs: the file that all pairs are from, of `maskdpo_ray.train`.

    Raises RunFolderError for a damaged run folder, or when the card can't be written.
    """
    if version:
        files.write_whole(run_folder / f"iter_{version - 1:03d}" / "policy" / CARD, render(run_folder, version, pairs))


def render(run_folder: Path, version: int, pairs: Path | None = None) -> bytes:
    """The card's bytes, UTF-8. Raises RunFolderError for a damaged run folder."""
    card = _Card.of(run_folder, version, pairs)
    return f"---\n{card.metadata()}\n---\n\n{card.text()}\n".encode()


def plain(text: str) -> str:
    """Text that Markdown, HTML and terminals show as it is."""
    return re.sub(r"[\\`*_{}\[\]<>#|~&$!@]|(?<=www)\.|:(?=//)", r"\\\g<0>", printable(text))


def code(text: str) -> str:
    """Text as a code span, in a table too."""
    text = printable(text).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text or not text.strip() else f"{fence}{text}{fence}"


def _block(text: str, language: str) -> str:
    """Text as a code block."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _shown(path: str) -> str:
    """A name, or the last part of an absolute path, which says too much of a machine."""
    return os.path.basename(os.path.normpath(path)) if os.path.isabs(path) else path


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _portable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(each) for each in value]
    return _shown(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class _Judged:
    """The figures of policy 0 and of this one, on one split by one annotator, or by the second judges."""

    split: str
    by: str
    metrics: str
    """Start of the names of its metrics in the metadata: the second judges' differ."""
    before: dict[str, Any]
    after: dict[str, Any]
    asked: str

    def rows(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """(metric, its statistic before and after, its change) of those that are defined, and not 0 on both sides."""
        for metric in _METRICS:
            before, after = (side["metrics"].get(metric) for side in (self.before, self.after))
            change = (self.after["gain"] or {}).get(metric)
            if before and after and change and change["gain"] is not None and (before["mean"] or after["mean"]):
                yield metric, before, after, change


@dataclass(frozen=True)
class _Card:
    config: Config
    version: int
    pairs: Path | None
    base: Origin
    figures: dict[str, Any]
    """The summary of policy 0 and this one."""
    versions: dict[str, str]
    """Packages, as they were when this policy was trained."""
    checksums: dict[str, str]
    """Owner of weights -> their SHA-256, as far as the ledger has it."""

    @classmethod
    def of(cls, run_folder: Path, version: int, pairs: Path | None) -> _Card:
        config = cli.read(run_folder / "config.yaml")
        sides = {"before": 0, _THIS: version}
        places = [Evaluated(name, each, run_folder / f"eval_{each:03d}") for name, each in sides.items()]
        entries = read_entries(run_folder / "ledger.jsonl")
        stages = {"the base model": ("begin", 0), _THIS: ("train", version - 1)}
        finished = {whose: find_finished(entries, *stage) for whose, stage in stages.items()}
        trained = finished[_THIS]
        until = entries.index(trained) if trained else len(entries)
        opened = [entry.versions for entry in entries[:until] if isinstance(entry, Opened)]
        return cls(
            config,
            version,
            pairs,
            Origin.of(config.model.model_name_or_path),
            summary.build(run_folder, places, tuple(_SPLITS)),
            opened[-1] if opened else {},
            {whose: entry.facts["checksum"] for whose, entry in finished.items() if entry is not None},
        )

    # What was done

    @property
    def _name(self) -> str:
        own = f"{self.config.run.name}-policy-{self.version}"
        return self.config.hub.push.partition("/")[2] if self.config.hub.push else own

    @property
    def _method(self) -> str:
        mask, objective = self.config.mask.policy, self.config.objective.name
        if mask == "mask_dpo":
            return "Mask-DPO" if objective == "dpo" else f"Mask-DPO's masks and {objective}"
        return objective if mask == "vanilla" else f"{objective} with masks of its own"

    def _papers(self) -> list[str]:
        config = self.config
        function = objectives.load(config.objective.name, config.objective.options).function
        about = (inspect.getdoc(inspect.getmodule(function)) or "").partition("\n")[0]
        found = [about.rstrip(".")] if _ARXIV.search(about) else []
        found += [_MASK_DPO] if config.mask.policy == "mask_dpo" else []
        return found + ([_SEPO] if config.mask.oracle is not None else [])

    def _source_of(self, split: str) -> str:
        data = self.config.data
        return str(data.transfer if split == "transfer" else data.eval or data.train)

    def _sources(self) -> list[str]:
        """Data that this policy learned from, or was evaluated on."""
        data = self.config.data
        given = [str(self.pairs)] if self.pairs else [data.train, *([self.config.pairs.file or ""])]
        return list(dict.fromkeys(filter(None, [*given, *(self._source_of(each.split) for each in self._judged())])))

    def _judged(self) -> list[_Judged]:
        found = []
        for split in _SPLITS:
            versions = self.figures["evaluations"].get(split, ())
            if len(versions) < 2:
                continue
            before, after = versions
            asked = f"{after['topics']} topics, {after['questions']} questions, {after['replications']} answers each"
            annotator = self.config.annotation.annotator
            found.append(_Judged(split, f"the annotator {annotator}", "", before, after, asked))
            if second := after.get("judged"):
                words = {"evaluator": "the second evaluator", "perplexity_model": "perplexity under"}
                by = " and ".join(f"{word} {_shown(second[name])}" for name, word in words.items() if second[name])
                found.append(_Judged(split, by, "second_", before["judged"], second, asked))
        return found

    def _recipe(self) -> dict[str, dict[str, Any]]:
        """Options that decide this policy and differ from their defaults, by section."""
        found: dict[str, dict[str, Any]] = {}
        for section, values in cli.resolved(self.config).items():
            own = {**values, "iterations": self.version} if section == "run" else values
            for option, value in own.items():
                name = f"{section}.{option}"
                is_other = value != fingerprint.default(name) and bool(affects(name))
                if is_other or name == "run.iterations":
                    found.setdefault(section, {})[option] = _portable(value)
        return found

    # Metadata

    def metadata(self) -> str:
        """The metadata as YAML."""
        from huggingface_hub import ModelCardData

        base, data_sets = self.base, [hub_data.parsed(source) for source in self._sources()]
        is_english = all(map(questions.origin, self._sources()))
        arxiv = [f"arxiv:{each}" for each in _ARXIV.findall(" ".join(self._papers()))]
        method = [re.sub("[^a-z0-9]+", "-", name.lower()) for name in (self._method, self.config.objective.name)]
        return ModelCardData(
            base_model=base.repo,
            base_model_relation="finetune" if base.repo else None,
            datasets=[each.repo for each in data_sets if each] or None,
            license=base.license,
            license_name=base.license_name,
            license_link=base.license_link,
            language=list(base.languages) or (["en"] if is_english else None),
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["maskdpo_ray", "factuality", "hallucination", *method, *arxiv],
            model_name=self._name,
            eval_results=self._results() or None,
        ).to_yaml()

    def _results(self) -> list[Any]:
        from huggingface_hub import EvalResult

        found = []
        for judged in self._judged():
            source = self._source_of(judged.split)
            of_hub = hub_data.parsed(source)
            for metric, before, after, _ in judged.rows():
                bounds = {name: after[name] for name in ("low", "high") if after[name] is not None}
                args = {name: round(value, 6) for name, value in {"before": before["mean"], **bounds}.items()}
                found.append(
                    EvalResult(
                        task_type="text-generation",
                        task_name="Factuality of answers",
                        dataset_type=of_hub.repo if of_hub else _shown(source),
                        dataset_name=f"{_SPLITS[judged.split]} of {_shown(source)}",
                        dataset_split=judged.split,
                        metric_type=f"{judged.metrics}{metric}",
                        metric_name=f"{_METRICS[metric][0]}, by {judged.by}",
                        metric_value=round(after["mean"], 6),
                        metric_args=args,
                    )
                )
        return found

    # Text

    def text(self) -> str:
        """The card below its metadata, Markdown."""
        parts = {
            "Evaluation": self._evaluation(),
            "Training": self._training(),
            "Use": self._use(),
            "Limits": self._limits(),
            "Licences": self._licences(),
            "Reproduce": self._reproduce(),
        }
        sections = [line for heading, lines in parts.items() for line in (f"## {heading}", *lines)]
        return "\n\n".join([f"# {code(self._name)}", self._about(), *sections])

    def _about(self) -> str:
        base = code(_shown(self.config.model.model_name_or_path))
        if self.base.repo:
            base = f"[{plain(self.base.repo)}](https://huggingface.co/{self.base.repo})"
        how = f"{self.version} iteration{'s' * (self.version > 1)} of answering, labelling each sentence, and training"
        if self.pairs is not None:
            how = f"training on the pairs of {code(self.pairs.name)}"
        return (
            f"{base}, fine-tuned by maskdpo_ray to state fewer false facts: {how} with {plain(self._method)}. "
            f"Sentences are labelled by {self._labelled_by}."
        )

    @property
    def _labelled_by(self) -> str:
        if self.pairs is not None:
            return "what made the file of pairs"
        return f"the annotator {code(self.config.annotation.annotator)}"

    def _evaluation(self) -> list[str]:
        found = []
        for judged in self._judged():
            source = code(_shown(self._source_of(judged.split)))
            found.append(f"{_SPLITS[judged.split]} of {source} ({judged.asked}), by {plain(judged.by)}:")
            found.append(_table(judged))
        if not found:
            return ["This policy was not evaluated."]
        return [
            *found,
            "score: correct sentences / sentences, mean over answers; recall: facts that were asked for and stated "
            "correctly / asked for. In parentheses: 95% intervals, bootstrap over topics, paired for the change. "
            "No topic of these questions was trained on.",
        ]

    def _training(self) -> list[str]:
        config, pairs = self.config, self.figures["pairs"]
        mask = config.mask.policy if isinstance(config.mask.policy, str) else "weights of its own, below"
        rows = {
            "objective": config.objective.name,
            "mask": mask,
            "beta": f"{config.train.beta:g}",
            "learning rate": f"{config.adam.lr:g} ({config.train.lr_scheduler})",
            "iterations": str(self.version),
            "pairs": ", ".join(str(each["pairs"]) for each in pairs if each["iteration"] < self.version),
            "epochs, batch size": f"{config.train.max_epochs}, {config.train.batch_size}",
        }
        if self.pairs is None:
            rollout = config.rollout
            rows["answers to a question"] = f"{rollout.n_samples_per_prompt} at temperature {rollout.temperature:g}"
            rows["questions"] = _shown(config.data.train)
        table = ["| | |", "|---|---|", *(f"| {name} | {code(value)} |" for name, value in rows.items())]
        papers = [_ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", plain(paper)) for paper in self._papers()]
        return ["\n".join(table), *(["Papers: " + "; ".join(papers) + "."] if papers else [])]

    def _use(self) -> list[str]:
        place = self.config.hub.push or "path/to/this/folder"
        own_code = ", trust_remote_code=True" * self.config.model.trust_remote_code
        served = f"vllm serve {place}" + " --trust-remote-code" * self.config.model.trust_remote_code
        return [_block(_USE.format(place=json.dumps(place), code=own_code), "python"), _block(served, "bash")]

    def _limits(self) -> list[str]:
        measured = dict.fromkeys(
            f"{_SPLITS[each.split].lower()} of {code(_shown(self._source_of(each.split)))}" for each in self._judged()
        )
        found = [f"Measured on {' and '.join(measured)}, and on nothing else."] if measured else []
        found.append(
            f"A higher score makes no answer true: sentences are labelled by {self._labelled_by}, which errs, and a "
            "policy gains by leaving out what it is unsure of, too. Other abilities were not measured."
        )
        remarks = [f"- {plain(remark)}" for remark in self.figures["remarks"]]
        return [
            " ".join(found),
            *(["\n".join(["What the figures say, losses included:", "", *remarks])] if remarks else []),
        ]

    def _licences(self) -> list[str]:
        base, of_model = self.base, "unknown, as the base model's folder has no card that names one; ask its makers"
        if base.license:
            of_model = f"{code(base.license_name or base.license)}, the base model's"
        data = [
            f"- Data {code(_shown(source))}: {questions.origin(source) or 'unknown here; see where it is from'}"
            for source in self._sources()
        ]
        return ["\n".join([f"- Model: {of_model}", *data])]

    def _reproduce(self) -> list[str]:
        command = f"train {self.pairs.name}" if self.pairs else "run"
        recipe = yaml.safe_dump(self._recipe(), sort_keys=False, allow_unicode=True, width=110)
        found = [f"- {plain(name)} {code(version)}" for name, version in self.versions.items()]
        found += [f"- SHA-256 of the weights of {whose}: {code(each)}" for whose, each in self.checksums.items()]
        return [
            _block(f"python -m maskdpo_ray.{command} --config config.yaml", "bash"),
            "`config.yaml`, without what is at its default; absolute paths are cut to their last part:",
            _block(recipe, "yaml"),
            *(["\n".join(found)] if found else []),
        ]


def _table(judged: _Judged) -> str:
    rows = ["| | before | this policy | change |", "|---|---|---|---|"]
    for metric, before, after, change in judged.rows():
        label, form = _METRICS[metric]
        cells = (_cell(before, "mean", form), _cell(after, "mean", form), _cell(change, "gain", f"+{form}"))
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(of: dict[str, Any], name: str, form: str) -> str:
    bounds = "" if of["low"] is None else f" ({number(of['low'], form)} to {number(of['high'], form)})"
    return number(of[name], form) + bounds
