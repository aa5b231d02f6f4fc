"""Inputs of the sources of training answers, read before a run: what files hold, and another model."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from maskdpo_ray.config import suggestions
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import questions as questions_file
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.questions import topic_key
from maskdpo_ray.errors import ConfigError, DataError, RecordError
from maskdpo_ray.models import chat, engine_limits
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.folder import ModelFolder
from maskdpo_ray.models.prompts import Prompts
from maskdpo_ray.pairing import scoring
from maskdpo_ray.pairing.examples import check_mask
from maskdpo_ray.pairing.masks import VANILLA
from maskdpo_ray.pairing.pair_files import POLICY_VERSION, PairsReader
from maskdpo_ray.records import PreferencePair, Question, Rollout
from maskdpo_ray.stages.given_answers import GivenAnswers, with_ids
from maskdpo_ray.stages.sources import Answers, with_document
from maskdpo_ray.terminal import note

OnTopic = TypeVar("OnTopic", PreferencePair, Question)


_OF_TWO = ("best_worst", "all_pairs", "correct_incorrect")
"""Strategies that compare answers."""


@dataclass(frozen=True)
class GivenSources:
    """Inputs of a run's sources beside its questions; by default none."""

    answers: Mapping[str, tuple[Rollout, ...]] | None = None
    """Question -> its answers, in place of sampled ones (`rollout.answers`)."""
    chosen: Mapping[str, tuple[Rollout, ...]] | None = None
    """Question -> the answers that alone can be chosen (`rollout.chosen_answers`)."""
    pairs: Sequence[PreferencePair] = ()
    """Pairs of `pairs.file`."""
    atoms: Sequence[Question] = ()
    """Questions of `atoms.questions`."""
    other: tuple[str, Chat] | None = None
    """Folder and chat of the model of `rollout.model`."""
    dropped: Sequence[Dropped] = ()
    """Records read from each file."""

    def inputs(self) -> dict[str, Sequence[Any]]:
        """Contents by name, for the check that a run resumes with what it began with; without those that are empty."""
        given = [[list(answers) for _, answers in sorted((each or {}).items())] for each in (self.answers, self.chosen)]
        named = {"answers": given[0], "chosen answers": given[1], "pairs": self.pairs, "atoms": self.atoms}
        return {name: values for name, values in named.items() if values}

    @classmethod
    def read(
        cls,
        config: Config,
        asked: Sequence[Question],
        evaluated: Iterable[Question],
        model: ModelFolder,
        own: Chat,
        max_len: int,
    ) -> GivenSources:
        """Read all that `rollout`, `pairs` and `atoms` name for the questions `asked`.

        Pairs and atomic questions on topics of the `evaluated` questions are left out, and a line says how many.

        `max_len`: limit of prompt and answer, tokens. Raises UserError, one line.
        """
        topics = {topic_key(question.topic) for question in evaluated}
        dropped: list[Dropped] = []

        def opened(source: str, option: str = "data.max_dropped") -> Dropped:
            dropped.append(Dropped(source, config.data.max_dropped, option))
            return dropped[-1]

        def answers(option: str, source: str, words: Sequence[str]) -> Mapping[str, tuple[Rollout, ...]]:
            if source == "dataset":
                return {question.id: _dataset(question, own) for question in asked}
            file = Path(source)
            if not file.exists() and not source.startswith("hf:"):
                near = suggestions.sentence(difflib.get_close_matches(source, words, n=1, cutoff=0.75))
                raise ConfigError(f"{option}: expected {', '.join(words)} or a file of answers, got {source!r}{near}")
            return GivenAnswers.read(
                file, asked, own, model.config.vocab_size, opened(str(file)), "a training question"
            ).by_question

        def chosen() -> Mapping[str, tuple[Rollout, ...]] | None:
            source = config.rollout.chosen_answers
            if source is None or source == "document":
                return None
            found = answers("rollout.chosen_answers", source, ("document", "dataset"))
            is_standard = source == "dataset"
            return {name: each[:1] if is_standard else each for name, each in found.items()}

        def own_answers() -> Mapping[str, tuple[Rollout, ...]] | None:
            source = config.rollout.answers
            if source == "sampled":
                return None
            found = answers("rollout.answers", source, ("sampled", "dataset"))
            is_single = all(len(each) < 2 for each in found.values()) and config.rollout.chosen_answers is None
            if is_single and config.pairs.strategy in _OF_TWO and config.sft.iterations < config.run.iterations:
                expected = f"two answers or more to a question, which pairs.strategy {config.pairs.strategy} compares"
                raise ConfigError(f"rollout.answers: expected {expected}, got one to each in {source}")
            return found

        return cls(
            own_answers(),
            chosen(),
            _on_other_topics("pairs.file", "pairs", _pairs(config, model, own, max_len, opened), topics),
            _on_other_topics("atoms.questions", "questions", _atoms(config, model, own, max_len, opened), topics),
            _other(config, max_len),
            tuple(dropped),
        )


def _on_other_topics(option: str, what: str, given: list[OnTopic], topics: Collection[str]) -> list[OnTopic]:
    """Those that are not on an evaluated topic, for whose questions gains would be learned by heart."""
    kept = [each for each in given if topic_key(each.topic) not in topics]
    if given and not kept:
        raise DataError(f"{option}: expected {what} on other topics than the evaluated ones, got none")
    if len(kept) < len(given):
        note(f"{option}: {len(given) - len(kept)} of {len(given)} {what} left out: their topics are evaluated")
    return kept


def refuse_without(config: Config, prompts: Prompts, question: Question) -> Question:
    """Return a training question. Raises RecordError when it lacks what `rollout` takes from it."""
    taken = {"answers": config.rollout.answers, "chosen_answers": config.rollout.chosen_answers}
    if taken["chosen_answers"] == "document":
        prompts.check(with_document(question))
    for name, source in taken.items():
        if source == "dataset" and not (question.answer and (name == "chosen_answers" or question.wrong_answers)):
            what = "a standard answer" if name == "chosen_answers" else "a standard answer and wrong ones"
            raise RecordError(
                f"question {question.id!r}: expected {what}, for rollout.{name}, got none", Reason.INVALID_FIELD
            )
    return question


def _dataset(question: Question, own: Chat) -> tuple[Rollout, ...]:
    """The standard answer of a question and its wrong ones, as the policy would have ended them."""
    prompt_ids = own.prompt_ids(question)
    texts = [question.answer or "", *question.wrong_answers]
    given = (Rollout(question.id, i, (), text, "stop", POLICY_VERSION) for i, text in enumerate(texts))
    return tuple(with_ids(rollout, own, f"question {question.id!r}", prompt_ids) for rollout in given)


def _pairs(config: Config, model: ModelFolder, own: Chat, max_len: int, opened: Any) -> list[PreferencePair]:
    if config.pairs.file is None:
        return []
    path = Path(config.pairs.file)
    needs_labels, score = check_mask(config) != VANILLA, scoring.build(config.pairs)
    reader = PairsReader(own, max_len, model.config.vocab_size, None, needs_labels, score, config.data.columns)
    found = list(reader.read(path, opened(str(path))))
    if not found:
        raise DataError(f"pairs.file: {path}: expected pairs, got none")
    return found


def _atoms(config: Config, model: ModelFolder, own: Chat, max_len: int, opened: Any) -> list[Question]:
    source = config.atoms.questions
    if source is None or not config.atoms.n_samples_per_prompt:
        return []
    dropped = opened(source)
    prompts = Prompts(own, max_len, config.atoms.max_new_tokens, model.config.vocab_size)

    def usable(question: Question) -> Question:
        if not question.answer:
            message = f"question {question.id!r}: answer: expected a standard answer, for atoms.questions, got none"
            raise RecordError(message, Reason.INVALID_FIELD)
        return prompts.check(question)

    found = list(dropped.sift(questions_file.load(source, dropped), usable))
    dropped.check()
    if not found:
        raise DataError(dropped.none_left("atomic questions"))
    return found


def _other(config: Config, max_len: int) -> tuple[str, Chat] | None:
    path = config.rollout.model
    if path is None:
        return None
    of_other = replace(config, model=replace(config.model, model_name_or_path=path, chat_template=None))
    with model_folder.named("rollout.model"):
        model = model_folder.load(of_other.model)
        engine_limits.check(of_other, model.config, model.file, min(max_len, model_folder.max_len(model, config.vllm)))
    return path, chat.of(of_other, model.tokenizer)


def as_answers(given: Mapping[str, tuple[Rollout, ...]] | None) -> Answers | None:
    """Given answers as a function of the question."""
    return None if given is None else partial(_of, given)


def _of(given: Mapping[str, tuple[Rollout, ...]], question: Question) -> tuple[Rollout, ...]:
    return given.get(question.id, ())  # a question without is dropped, as one with too few
