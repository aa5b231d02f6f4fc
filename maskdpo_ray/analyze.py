"""Measure what training changed in a model, from the files of its run: analyses that the papers have.

python -m maskdpo_ray.analyze token_shift runs/quickstart -o analyses

A table is printed; with -o it is written as Markdown and JSON, with a picture where there is one. Models are run here,
in float32 on the CPU. docs/analyses.md describes each analysis:

  affinity          distances of topics and what answers say of them (Mask-DPO C.1)
  best_of           best of N before and after (Mask-DPO table 6)
  mutual_knn        alignment with another model's representations (SMA appendix E)
  perplexity        of answers under another model (Mask-DPO C.2)
  token_shift       where answers depart from the start's (APEFT figure 3)
  topic_neighbours  training topics near to held-out ones and far from them (Mask-DPO tables 5 and 12)
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser, count, number, one_of
from maskdpo_ray.errors import ConfigError, MaskError

if TYPE_CHECKING:
    from maskdpo_ray.evaluation.analyses.trained_run import TrainedRun
    from maskdpo_ray.report.analyses.finding import Finding

RESUMES = False
"""It writes nothing until all is measured."""
_SEED = 1
"""Seed of the bootstrap."""


def main(argv: list[str]) -> None:
    """Print an analysis, and write its files. Raises UserError for bad input."""
    own = _parser().parse_args(argv)
    analysis = ANALYSES[own.analysis]
    for name in _OPTIONS:
        if name not in analysis.options and getattr(own, name) is not None:
            takers = " or ".join(other for other in ANALYSES if name in ANALYSES[other].options)
            raise ConfigError(f"--{name}: expected with {takers} only, got it with {own.analysis}")
    for name, default in analysis.options.items():
        if getattr(own, name) is None:
            setattr(own, name, default)
    if own.output is not None:
        from maskdpo_ray.store import files

        files.refuse_in_run_folder(Path(own.output) / own.analysis)
        try:
            Path(own.output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--output: expected a folder, got {own.output}: {error.strerror}") from error
    finding = analysis.find(own)
    print(finding.markdown(), flush=True)
    if own.output is not None:
        print("\n".join(f"wrote {path}" for path in finding.write(Path(own.output))), flush=True)


def _parser() -> Parser:
    parser = Parser("analyze", __doc__, "ANALYSIS RUN [-o FOLDER] [options]")
    parser.add_argument("analysis", metavar="ANALYSIS", type=one_of(ANALYSES), help="one of those above")
    parser.add_argument("source", metavar="RUN", help="folder of a finished run; of topic_neighbours a config, too")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder for the files; those of the names are replaced"
    )
    for name, option in _OPTIONS.items():
        parser.add_argument(f"--{name}", **option)
    return parser


def _affinity(own: Namespace) -> Finding:
    from maskdpo_ray.evaluation.analyses import affinity
    from maskdpo_ray.evaluation.analyses.embedder import Embedder
    from maskdpo_ray.report.analyses import views

    run = _run(own)
    drawn = affinity.draw(run.pairs(), own.num_pairs, own.seed)
    found = {name: affinity.distances(drawn, Embedder(run.policy(version), "RUN")) for name, version in _versions(run)}
    return views.affinity(affinity.compare(run.folder.name, run.after, drawn, found, **_bootstrap(run)))


def _best_of(own: Namespace) -> Finding:
    from maskdpo_ray.evaluation.analyses import best_of
    from maskdpo_ray.report.analyses import views

    run = _run(own)
    topic_of = {name: question.topic for name, question in run.asked("heldout").items()}
    found = {
        name: {each.question_id: best_of.scores(each.annotations) for each in run.answered("heldout", version)}
        for name, version in _versions(run)
    }
    compared = best_of.compare(run.folder.name, run.after, topic_of, found["before"], found["after"], **_bootstrap(run))
    return views.best_of(compared)


def _mutual_knn(own: Namespace) -> Finding:
    from maskdpo_ray.evaluation.analyses import embedder, mutual_knn
    from maskdpo_ray.report.analyses import views

    run = _run(own)
    asked = {split: list(run.asked(split).values()) for split in run.splits()}
    folders = {"reference": embedder.folder_of(own.reference, "--reference")}
    folders |= {name: run.policy(version) for name, version in _versions(run)}
    features: dict[str, dict[str, Any]] = {split: {} for split in asked}
    for name, folder in folders.items():
        embeds = embedder.Embedder(folder, "--reference" if name == "reference" else "RUN")
        for split, questions in asked.items():
            features[split][name] = embeds.last_layer([mutual_knn.text_of(question) for question in questions])
    splits = {
        split: mutual_knn.align(asked[split], found, own.k, **_bootstrap(run)) for split, found in features.items()
    }
    reference = own.reference if own.reference == embedder.MINILM else folders["reference"].name
    samples = run.config.eval.bootstrap_samples
    return views.mutual_knn(mutual_knn.MutualKnn(run.folder.name, run.after, reference, own.k, samples, splits))


def _perplexity(own: Namespace) -> Finding:
    from maskdpo_ray.evaluation.analyses import answer_perplexity
    from maskdpo_ray.evaluation.evaluators.perplexity import Perplexity
    from maskdpo_ray.models.folder import describe_model
    from maskdpo_ray.report.analyses import views

    run = _run(own)
    is_start = own.reference == answer_perplexity.START
    folder = run.policy(0) if is_start else Path(own.reference)
    describe_model(str(folder), "--reference")
    given, now = run.config.model.chat_template_kwargs, run.chat().now
    # Answers are there: one that the model has no room for is left out, whatever could be longer.
    model = Perplexity(str(folder), max_new_tokens=1, template_options=given, now=now)
    model.start()
    asked, log, found = run.asked("heldout"), _log(run, "heldout"), {}
    for name, version in _versions(run):
        items = [(asked[each.question_id], each.rollouts[0]) for each in run.answered(log, version)]
        measured = model.measure(items)
        found[name] = {question.id: each for (question, _), each in zip(items, measured, strict=True)}
    topic_of = {name: question.topic for name, question in asked.items()}
    reference = answer_perplexity.START if is_start else folder.name
    compared = answer_perplexity.compare(run.folder.name, run.after, reference, log, topic_of, found, **_bootstrap(run))
    return views.perplexity(compared)


def _log(run: TrainedRun, split: str) -> str:
    """Log of one answer to each question of a split: greedy ones where the run has them, else the first of several."""
    return f"{split}-greedy" if run.config.eval.greedy else split


def _token_shift(own: Namespace) -> Finding:
    from maskdpo_ray.evaluation.analyses import token_shift
    from maskdpo_ray.report.analyses import views

    run = _run(own)
    answers, logs, left_out = {}, {}, {}
    for split in run.splits():
        logs[split] = _log(run, split)
        answers[split], left_out[split] = _answers(run, split, logs[split])
    ranks: dict[str, dict[str, Any]] = {split: {} for split in answers}
    for name, version in _versions(run):
        ranker = token_shift.Ranker(run.policy(version), "RUN")
        for split, given in answers.items():
            ranks[split][name] = ranker.ranks(given)
    splits = {
        split: token_shift.shift(logs[split], given, ranks[split], left_out[split], **_bootstrap(run))
        for split, given in answers.items()
    }
    samples = run.config.eval.bootstrap_samples
    return views.token_shift(token_shift.TokenShift(run.folder.name, run.after, samples, splits))


def _answers(run: TrainedRun, split: str, log: str) -> tuple[list[Any], int]:
    """The trained policy's first answer to each question, and the number of those whose ids don't spell their text."""
    from maskdpo_ray.evaluation.analyses.token_shift import Answer, positions
    from maskdpo_ray.models.token_spans import token_spans

    chat, asked, found, left_out = run.chat(), run.asked(split), [], 0
    for each in run.answered(log, run.after):
        rollout, annotation, question = each.rollouts[0], each.annotations[0], asked[each.question_id]
        try:
            spans = token_spans(
                chat.tokenizer, rollout.token_ids, rollout.text, stopped=rollout.finish_reason == "stop"
            )
        except MaskError:
            left_out += 1
            continue
        places = positions(annotation.sentences, spans)
        found.append(Answer(question.topic, chat.prompt_ids(question), rollout.token_ids, places))
    return found, left_out


def _topic_neighbours(own: Namespace) -> Finding:
    from maskdpo_ray.config.cli import read
    from maskdpo_ray.evaluation.analyses import embedder, mutual_knn, topic_neighbours
    from maskdpo_ray.evaluation.analyses.topic_neighbours import POLICY, RANDOM
    from maskdpo_ray.models import hub
    from maskdpo_ray.report.analyses import views
    from maskdpo_ray.stages import preflight

    source = Path(own.source)
    config = read(source / "config.yaml" if source.is_dir() else source)
    splits = preflight.load_questions(config.data)
    splits.check()
    train, held_out = splits.questions["train"], splits.questions["heldout"]
    if own.by == "topic":
        items, centres = topic_neighbours.topics(train), topic_neighbours.topics(held_out)
        texts = items
    else:
        items, texts = [each.id for each in train], [mutual_knn.text_of(each) for each in train]
        centres = [mutual_knn.text_of(each) for each in held_out]
    halves = []
    for name in own.embeddings:
        if name == RANDOM:
            halves.append(topic_neighbours.divide_randomly(items, own.seed))
            continue
        is_policy = name == POLICY
        folder = (
            Path(hub.here(config.model.model_name_or_path)) if is_policy else embedder.folder_of(name, "--embeddings")
        )
        embeds = embedder.Embedder(folder, "model.model_name_or_path" if is_policy else "--embeddings")
        taken = {POLICY, embedder.MINILM, RANDOM, *(each.embedding for each in halves)}
        shown = name if name in (POLICY, embedder.MINILM) else _apart(folder.absolute().name, taken)
        halves.append(topic_neighbours.divide(shown, items, embeds.last_layer(texts), embeds.last_layer(centres)))
    found = topic_neighbours.compared(own.source, own.by, len(centres), halves)
    return views.topic_neighbours(found, train, held_out)


def _apart(name: str, taken: set[str]) -> str:
    """A name for files that nothing else has."""
    numbered = (f"{name}-{number}" for number in itertools.count(1))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def _run(own: Namespace) -> TrainedRun:
    from maskdpo_ray.evaluation.analyses.trained_run import TrainedRun

    return TrainedRun.read(Path(own.source), own.policy)


def _versions(run: TrainedRun) -> tuple[tuple[str, int], ...]:
    """Name of a side -> version of its policy, which are loaded one after the other."""
    return ("before", 0), ("after", run.after)


def _bootstrap(run: TrainedRun) -> dict[str, int]:
    return {"seed": _SEED, "bootstrap_samples": run.config.eval.bootstrap_samples}


@dataclass(frozen=True)
class Analysis:
    """One analysis."""

    find: Callable[[Namespace], Finding]
    options: Mapping[str, Any]
    """Options that it takes -> default."""


ANALYSES = {
    "affinity": Analysis(_affinity, {"policy": None, "num_pairs": 200, "seed": 1}),
    "best_of": Analysis(_best_of, {"policy": None}),
    "mutual_knn": Analysis(_mutual_knn, {"policy": None, "reference": "minilm", "k": 10}),
    "perplexity": Analysis(_perplexity, {"policy": None, "reference": "start"}),
    "token_shift": Analysis(_token_shift, {"policy": None}),
    "topic_neighbours": Analysis(
        _topic_neighbours, {"embeddings": ["policy", "minilm", "random"], "by": "topic", "seed": 1}
    ),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "policy": {"type": number, "metavar": "VERSION", "help": "policy to look at (default: the kept one)"},
    "num_pairs": {"type": count, "metavar": "N", "help": "affinity: pairs to draw (default: 200)"},
    "seed": {"type": number, "metavar": "SEED", "help": "of that draw, and of random halves (default: 1)"},
    "reference": {
        "metavar": "FOLDER",
        "help": "folder of the other model (default: minilm, a sentence encoder, for mutual_knn; start, the policy "
        "before training, for perplexity)",
    },
    "k": {"type": count, "metavar": "K", "help": "mutual_knn: neighbours (default: 10)"},
    "embeddings": {
        "nargs": "+",
        "metavar": "MODEL",
        "help": "topic_neighbours: policy, minilm, random or folders of models (default: policy minilm random)",
    },
    "by": {
        "type": one_of(("topic", "question")),
        "metavar": "WHAT",
        "help": "topic_neighbours: topic, as in table 5, or question, as in table 12 (default: topic)",
    },
}


if __name__ == "__main__":
    cli.start(main, resumes=RESUMES)
