"""Checks before an actor starts, so that a run fails now and not after an hour, and the plan of a run in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import protocol as annotators
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import Config, DataConfig
from maskdpo_ray.data import questions
from maskdpo_ray.data.corpus import Corpus
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.rows import refuse_unmet
from maskdpo_ray.errors import ConfigError, DataError, RecordError, require
from maskdpo_ray.evaluation.asked import asked_facts
from maskdpo_ray.evaluation.evaluators import protocol as evaluators
from maskdpo_ray.evaluation.evaluators.perplexity import Perplexity, WithPerplexity
from maskdpo_ray.evaluation.evaluators.protocol import Evaluator
from maskdpo_ray.models import chat, engine_limits, lora_targets, quantized
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.folder import ModelFolder
from maskdpo_ray.models.prompts import Prompts
from maskdpo_ray.pairing import examples
from maskdpo_ray.records import Question
from maskdpo_ray.stages import given_sources
from maskdpo_ray.stages.choose import CHOOSE
from maskdpo_ray.stages.evaluate import DEV
from maskdpo_ray.stages.given_sources import GivenSources
from maskdpo_ray.store.ledger import Entry, Finished
from maskdpo_ray.store.question_log import num_unsealed
from maskdpo_ray.training.objectives import protocol as objectives


@dataclass(frozen=True)
class Prepared:
    """Checked inputs of a run."""

    train: Sequence[Question]
    evaluation: Mapping[str, Sequence[Question]]
    """Evaluated questions by split: `heldout`, `transfer` when there is a second domain, `dev` when there are
    development topics."""
    annotator: Annotator
    chat: Chat
    evaluator: Evaluator | None = None
    """None where nothing but the annotator judges."""
    dropped: Sequence[Dropped] = ()
    """Records read from each source of questions, answers and pairs."""
    given: GivenSources = GivenSources()
    """Inputs of the sources of training answers."""
    way: str = ""
    """How training takes the model's micro-batches, in words."""

    def inputs(self) -> dict[str, Sequence[Any]]:
        """Contents by name: a run resumes with those that it began with."""
        return {"train": self.train, **self.evaluation, **self.given.inputs()}

    def dropped_lines(self) -> list[str]:
        """Dropped records, in words."""
        return [line for each in self.dropped for line in each.lines()]

    def dropped_json(self) -> dict[str, Any]:
        """The summary's entry for dropped records; empty without any."""
        found = {str(each.source): each.to_json() for each in self.dropped if each.counts}
        return {"dropped": found} if found else {}


@dataclass
class Splits:
    """The questions of a config by split: `train`, `heldout`; with a second domain `transfer`, with development topics
    `dev`."""

    questions: dict[str, list[Question]]
    dropped: Mapping[str, Dropped]
    """Dropped records by split, and of the corpus; one counter for two splits that come from one source."""

    @property
    def evaluation(self) -> dict[str, list[Question]]:
        """The splits that are not trained on."""
        return {split: asked for split, asked in self.questions.items() if split != "train"}

    @property
    def sources(self) -> list[Dropped]:
        """The counters, each once."""
        return list({id(each): each for each in self.dropped.values()}.values())

    def sift(self, make: Callable[[str, Question], Question]) -> None:
        """Keep the questions for which `make(split, question)` does not raise RecordError."""
        for split, asked in self.questions.items():
            self.questions[split] = list(self.dropped[split].sift(asked, partial(make, split)))

    def check(self) -> None:
        """Raise DataError when too many records were dropped, or all of a split."""
        for dropped in self.sources:
            dropped.check()
        for split, asked in self.questions.items():
            if not asked:
                raise DataError(self.dropped[split].none_left(f"{split} questions"))


def check(config: Config) -> Prepared:
    """Load questions and tokenizer and check all that the config names.

    Raises UserError, one line, for whatever would stop a run later.
    """
    examples.check(config)
    _check_shares(config)
    annotator, evaluator = judges(config)
    splits = load_questions(config.data)
    splits.sift(lambda split, question: judgeable(annotator, None if split == "train" else evaluator, question))
    splits.check()
    model = model_folder.load(config.model)
    lora_targets.check(config.lora, config.model, model.config)
    quantized.check(config.ds)
    limit = model_folder.max_len(model, config.vllm)
    if config.rollout.max_new_tokens >= limit:
        raise ConfigError(
            f"rollout.max_new_tokens: expected less than the model's context ({limit}), which also holds the prompt, "
            f"got {config.rollout.max_new_tokens}"
        )
    engine_limits.check(config, model.config, model.file, limit)
    way = model.way(limit, config.model.trust_remote_code).describe(config.savings)
    _check_oracle(config, model)
    own = chat.of(config, model.tokenizer)
    prompts = Prompts(own, limit, config.rollout.max_new_tokens, model.config.vocab_size)
    splits.sift(lambda _, question: prompts.check(question))
    splits.sift(lambda split, each: given_sources.refuse_without(config, prompts, each) if split == "train" else each)
    splits.check()
    train = splits.questions["train"]
    evaluated = chain.from_iterable(splits.evaluation.values())
    given = GivenSources.read(config, train, evaluated, model, own, limit)
    dropped = [*splits.sources, *given.dropped]
    return Prepared(train, splits.evaluation, annotator, own, evaluator, dropped, given, way)


def _check_oracle(config: Config, model: ModelFolder) -> None:
    """Raise ConfigError when the oracle or its reference can't be loaded, or has another vocabulary."""
    for name in ("oracle", "oracle_reference"):
        path = getattr(config.mask, name)
        if path is None or config.mask.oracle is None:
            continue
        with model_folder.named(f"mask.{name}"):
            found = model_folder.load(replace(config.model, model_name_or_path=path))
        expected, got = model.config.vocab_size, found.config.vocab_size
        require(got == expected, f"mask.{name}", f"a model with the policy's vocab_size {expected}", got)


def _check_shares(config: Config) -> None:
    """Raise ConfigError for a share of a source that gives no pairs."""
    of_sources = {"atoms": config.atoms.n_samples_per_prompt, "file": config.pairs.file}
    options = {"atoms": "atoms.n_samples_per_prompt above 0", "file": "pairs.file"}
    for source, share in (config.pairs.shares or {}).items():
        is_on = not share or bool(of_sources.get(source, True))
        require(is_on, f"pairs.shares.{source}", f"0 without {options.get(source)}", share)


def judges(config: Config) -> tuple[Annotator, Evaluator | None]:
    """The annotator and, where there is one, the evaluator, not started. Raises ConfigError and ModelError."""
    annotator, evaluator = annotators.build(config.annotation.annotator, config.annotation.options), _evaluator(config)
    if config.mask.confidence and not getattr(annotator, "gives_confidence", True):
        got = f"{config.annotation.annotator}, which gives none with its options"
        raise ConfigError(f"mask.confidence: expected an annotator that gives labels a confidence, got {got}")
    _refuse_few_gpus("gpus_per_annotator", annotators.num_gpus(annotator), config.cluster.gpus_per_annotator)
    if evaluator is not None:
        _refuse_few_gpus("gpus_per_evaluator", evaluators.num_gpus(evaluator), config.cluster.gpus_per_evaluator)
    return annotator, evaluator


def check_gpus(config: Config) -> None:
    """Raise ConfigError where options of annotator or evaluator already tell what `judges` refuses: too few GPUs."""
    annotation, evaluation, cluster = config.annotation, config.eval, config.cluster
    needed = annotators.gpus_of(annotation.annotator, annotation.options)
    _refuse_few_gpus("gpus_per_annotator", needed, cluster.gpus_per_annotator)
    if evaluation.evaluator is not None:
        needed = evaluators.gpus_of(evaluation.evaluator, evaluation.options)
        _refuse_few_gpus("gpus_per_evaluator", needed, cluster.gpus_per_evaluator)


def judgeable(annotator: Annotator, evaluator: Evaluator | None, question: Question) -> Question:
    """Return the question.

    Raises RecordError when annotator or evaluator can't judge answers to it, or what it asks for can't be read.
    """
    try:
        annotators.check(annotator, question)
        asked_facts(question)
        if evaluator is not None:
            evaluators.check(evaluator, question)
    except DataError as error:
        raise RecordError(str(error), Reason.NOT_JUDGEABLE) from error
    return question


def _evaluator(config: Config) -> Evaluator | None:
    options = config.eval
    evaluator = None if options.evaluator is None else evaluators.build(options.evaluator, options.options)
    if options.perplexity_model is None:
        return evaluator
    device = "cuda" if config.cluster.gpus_per_evaluator > 0 else "cpu"
    asked = config.model.chat_template_kwargs, chat.clock(config)
    return WithPerplexity(
        evaluator, Perplexity(options.perplexity_model, config.rollout.max_new_tokens, device, *asked)
    )


def _refuse_few_gpus(name: str, needed: int, reserved: float) -> None:
    """Raise ConfigError. Several actors may share one GPU, so a fraction will do; Ray gives more only as whole ones."""
    if reserved <= needed - 1:
        expected = f"expected more than {needed - 1}, as its model runs on {needed} (device: cuda)"
        raise ConfigError(f"cluster.{name}: {expected}, got {reserved:g}")


def questions_of(data: DataConfig, source: str, dropped: Dropped) -> list[Question]:
    """Questions of a source, read by the config's columns, with documents of its corpus. Raises DataError."""
    return [with_documents(data, question) for question in questions.load(source, dropped, data.columns)]


def with_documents(data: DataConfig, question: Question) -> Question:
    """The question, where it has no document of its own with those of `data.documents`. Raises DataError."""
    return question if data.documents is None else corpus(data).complete(question, data.num_documents)


def corpus(data: DataConfig) -> Corpus:
    """The documents of `data.documents`. Raises DataError."""
    columns = tuple(sorted((data.document_columns or {}).items()))
    return _opened(str(data.documents), data.max_dropped, columns)


@lru_cache(maxsize=1)
def _opened(source: str, max_dropped: float, columns: tuple[tuple[str, str], ...]) -> Corpus:
    return Corpus.of(Path(source), max_dropped, dict(columns))


def load_questions(data: DataConfig) -> Splits:
    """The questions of the section `data`, without the bad records of its files. Raises DataError."""

    def load(source: str) -> tuple[list[Question], Dropped]:
        dropped = Dropped(source, data.max_dropped)
        return questions_of(data, source, dropped), dropped

    train, dropped = load(data.train)
    by_split = {"train": dropped, "heldout": dropped}
    reserved: list[Question] = []
    if data.num_reserved_topics:
        option = "data.num_reserved_topics"
        train, reserved = questions.split_by_topic(train, data.num_reserved_topics, data.split_seed, option)
    if data.eval is None:
        train, heldout = questions.split_by_topic(train, data.num_eval_topics, data.split_seed)
    else:
        heldout, by_split["heldout"] = load(data.eval)
    development: list[Question] = []
    if data.num_dev_topics:  # behind the held-out ones in the draw, which stay what they are without it
        words = "data.num_dev_topics", "data.train" + " that are not held out" * (data.eval is None)
        train, development = questions.split_by_topic(train, data.num_dev_topics, data.split_seed, *words)
    splits = {"train": _learned(data, train, [*reserved, *heldout, *development]), "heldout": heldout}
    if data.transfer is not None:
        splits["transfer"], by_split["transfer"] = load(data.transfer)
        if data.num_transfer_topics is not None:
            splits["transfer"] = questions.limit_topics(splits["transfer"], data.num_transfer_topics, data.split_seed)
    refuse_unmet(by_split.values())
    if data.documents is not None:
        by_split["documents"] = corpus(data).dropped
    if development:
        splits[DEV], by_split[DEV] = development, dropped
    questions.check_disjoint(train, heldout, splits.get("transfer", []), development)
    return Splits(splits, by_split)


def _learned(data: DataConfig, train: list[Question], held_out: list[Question]) -> list[Question]:
    """The questions to learn from, among those of topics that are not held out. Raises DataError."""
    if data.topics is not None:
        train = questions.only_topics(train, Path(data.topics), held_out)
    if data.max_topics is not None:
        words = "data.max_topics", "data.train to learn from"
        train = questions.limit_topics(train, data.max_topics, data.split_seed, *words)
    if data.questions_per_topic is not None:
        train = questions.limit_per_topic(train, data.questions_per_topic, data.split_seed)
    return train[: data.max_questions]


def describe(
    plan: Plan, num_train: int, num_eval: Mapping[str, int], folder: Path, entries: Sequence[Entry] = ()
) -> str:
    """The plan of a run in words: actors, resources, steps, and what is done according to a ledger's `entries`."""
    config = plan.config
    k, replications = config.rollout.n_samples_per_prompt, config.eval.replications
    most = config.pairs.max_pairs
    paired = f"paired by {config.pairs.strategy}" + f", at most {most} each" * (most is not None)
    answers = ", ".join(f"{split} {count} questions x {replications}" for split, count in num_eval.items())
    ahead = "  answers from iteration 1 on: during the training before it, so NOT ON-POLICY (rollout.ahead)"
    lines = [
        *plan.actors(f"run {config.run.name} in {folder}"),
        f"  iterations: {config.run.iterations} of {num_train} questions x {k} answers, {paired}; epochs: "
        f"{config.train.max_epochs}, in batches of {config.train.batch_size}",
        *_method(config),
        *([ahead] if config.rollout.ahead else []),
        *([_kept(config)] if config.data.num_dev_topics else []),
        f"  evaluation before and after each iteration: {answers} {'greedy ' * config.eval.is_greedy}answers"
        + ", and a greedy answer to each but dev questions" * config.eval.greedy,
    ]
    return "\n".join([*lines, *resumed(folder, entries)])


def _method(config: Config) -> list[str]:
    """Lines on where the training answers come from and what they are trained with, as far as no default says it."""
    rollout, atoms, found = config.rollout, config.atoms, []
    if config.sft.iterations:
        found.append(f"first {config.sft.iterations}: fine-tuning (sft) on {config.sft.answers} answers")
    found.append(objective_line(config))
    if rollout.model is not None:
        found.append(f"training questions answered by {rollout.model}, NOT ON-POLICY (rollout.model)")
    if rollout.answers != "sampled":
        found.append(f"training answers: {rollout.answers}, NOT ON-POLICY (rollout.answers)")
    if rollout.chosen_answers is not None:
        found.append(f"chosen answers: {rollout.chosen_answers} (rollout.chosen_answers)")
    if atoms.n_samples_per_prompt:
        what = f"questions of {atoms.questions}" if atoms.questions else "questions about statements in pairs"
        found.append(f"atomic {what} x {atoms.n_samples_per_prompt} replies")
    if config.pairs.file is not None:
        found.append(f"pairs of {config.pairs.file}")
    return [f"  {line}" for line in found]


def objective_line(config: Config) -> str:
    """The objective in words, and whether a reference takes part."""
    objective = objectives.load(config.objective.name, config.objective.options)
    name = config.objective.name + f" + {config.objective.sft_weight:g} x sft" * bool(config.objective.sft_weight)
    where = ", the reference model in every step, as it reads its distribution" if objective.needs_kl else ""
    return f"objective: {name}{where}" + ", no reference" * (not objective.needs_reference)


def _kept(config: Config) -> str:
    patience = config.run.patience
    end = "" if patience is None else f"; ends after {patience} iterations without a better one (run.patience)"
    return f"  kept: the {config.run.keep} policy{' on dev questions' * (config.run.keep == 'best')}{end}"


def resumed(folder: Path, entries: Sequence[Entry]) -> list[str]:
    """A line that names the finished stages and the questions of the one under way, if there are any."""
    done = [f"{e.stage} {e.iteration}" for e in entries if isinstance(e, Finished) and e.stage not in ("begin", CHOOSE)]
    done += [f"{count} questions of {name}" for name, count in num_unsealed(folder, entries).items()]
    return [f"  resumed: {folder} holds {', '.join(done)}"] if done else []
