"""The config: every option with its one default, its meaning, and what its value must satisfy.

A section is a frozen dataclass; its fields are the options `section.field`, the text under a field is what --help says,
and the annotation of a field holds its rules. file.py and cli.py read values by these classes. Names are OpenRLHF's
where the thing is the same (`adam.lr`, `train.batch_size`, `ds.zero_stage`, `rollout.n_samples_per_prompt`).

Rules that name vLLM, Ray or W&B are theirs, so that a value is refused before they start: vLLM 0.29.0
(`SamplingParams._verify_args`, `SchedulerConfig`), Ray 2.55.0 (`ray_option_utils`, `_raylet.prepare_resources`) and W&B
(`Settings.validate_project`).
"""

# No `from __future__ import annotations`: the annotations are objects, which hold the rules.
import difflib
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from maskdpo_ray.config.hub_name import is_repository
from maskdpo_ray.errors import require
from maskdpo_ray.records import LABELS, Sampling


@dataclass(frozen=True)
class Rule:
    """Condition that the value of a field must satisfy, unless it is None."""

    expected: str
    holds: Callable[[Any], bool]


def at_least(lowest: int, note: str = "") -> Rule:
    """The rule of a lowest value, itself included; `note` ends the words about it."""
    return Rule(f"at least {lowest}{note}", lambda value: value >= lowest)


def above_0(note: str = "") -> Rule:
    """The rule of a value above 0."""
    return Rule(f"above 0{note}", lambda value: value > 0)


def within(lowest: int, highest: int) -> Rule:
    """The rule of a lowest and a highest value, themselves included."""
    return Rule(f"{lowest} to {highest}", lambda value: lowest <= value <= highest)


def filled(what: str) -> Rule:
    """The rule of a text that is not blank."""
    return Rule(what, lambda value: bool(value.strip()))


Count = Annotated[int, at_least(1)]
CountOrNone = Annotated[int | None, at_least(1)]
Share = Annotated[float, within(0, 1)]
BelowOne = Annotated[float, Rule("0 to below 1", lambda value: 0 <= value < 1)]
PART = Rule("above 0, at most 1", lambda value: 0 < value <= 1)
TOP_K = Rule("1 to 2^31-1, or -1 (all)", lambda value: 1 <= value < 2**31 or value == -1)
SAMPLES = Rule("at most 16384, as many as vLLM samples of a prompt", lambda value: value <= 16384)
# vLLM refuses higher temperatures and raises lower ones; 0 is greedy.
SAMPLED = Rule("0.01 to 2, which vLLM samples at", lambda value: value == 0 or 0.01 <= value <= 2)
Cpus = Annotated[float, at_least(0), Rule("0, or at least 0.0001", lambda value: value == 0 or value >= 1e-4)]
Gpus = Annotated[
    Cpus,
    Rule(
        "a whole number where it is above 1: Ray shares out single GPUs",
        lambda value: value <= 1 or value == int(value),
    ),
]
Seconds = Annotated[float, Rule("1 to 1e7", lambda value: 1 <= value <= 10**7)]
"""A limit on a step: below a second nothing would ever be in time."""
MODEL = filled("the folder of a model")
"""Rule, and mark, of an option that names a model: its folder, or `org/name[@revision]` of the Hugging Face Hub, which
`models/hub.py` makes a folder of. Annotators, evaluators and judges mark theirs by it, too."""
ModelName = Annotated[str, MODEL]
MAY_CHANGE = "may change"
"""Mark of a field that says where a run happens, how much memory it takes or when it stops, and not what it computes
(but for rounding), or which of its results is kept: it may change when a run resumes."""
COLLECT, TRAIN, EVALUATE = "collect", "train", "evaluate"


class Section:
    """Base of the config's sections: applies the rules of the fields."""

    affects: ClassVar[tuple[str, ...]]
    """Stages of the loop whose results the section's options decide, but for fields marked MAY_CHANGE."""

    def __init_subclass__(cls, affects: tuple[str, ...] = ()) -> None:
        cls.affects = affects

    def __post_init__(self) -> None:
        section = next(name for name, kind in _sections().items() if kind is type(self))
        for name, notes in _notes(section).items():
            value = getattr(self, name)
            for rule in notes:
                if isinstance(rule, Rule):
                    require(value is None or rule.holds(value), f"{section}.{name}", rule.expected, value)


@cache
def _sections() -> dict[str, Any]:
    return typing.get_type_hints(Config)


@cache
def _notes(section: str) -> dict[str, tuple[Any, ...]]:
    """Field -> its rules and marks."""
    hints = typing.get_type_hints(_sections()[section], include_extras=True)
    return {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}


def marked(mark: object) -> list[str]:
    """Options, as `section.field`, that carry a mark or rule."""
    return [f"{section}.{name}" for section in _sections() for name, notes in _notes(section).items() if mark in notes]


def affects(option: str) -> tuple[str, ...]:
    """Stages whose results an option (`section.field`, or a name within one) decides; an unknown one: all of them."""
    section, name = [*option.split("."), ""][:2]
    if section not in _sections():
        return COLLECT, TRAIN, EVALUATE
    return () if MAY_CHANGE in _notes(section).get(name, ()) else tuple(_sections()[section].affects)


@dataclass(frozen=True)
class RunConfig(Section, affects=(COLLECT, TRAIN, EVALUATE)):
    name: Annotated[
        str,
        Rule("a folder name", lambda name: bool(name.strip()) and "/" not in name and name not in (".", "..")),
        Rule("at most 200 bytes", lambda name: len(name.encode("utf-8", "replace")) <= 200),
    ] = "run"
    """Name of the run; its folder is `run.dir`/`run.name`."""
    dir: Annotated[str, filled("a folder"), MAY_CHANGE] = "runs"
    """Folder that holds the run folders."""
    seed: Annotated[int, Rule("0 to 2^31-1", lambda seed: 0 <= seed < 2**31)] = 1
    """Seeds rollouts, batch order and the bootstrap."""
    iterations: Annotated[Count, MAY_CHANGE] = 2
    """Rounds of answer, annotate, pair, train (on-policy). A larger number extends a finished run."""
    keep: Annotated[Literal["last", "best"], MAY_CHANGE] = "last"
    """Policy that the run folder's `policy` leads to: the `last` one, or the `best` on the development topics (which
    needs `data.num_dev_topics`), by the harmonic mean of score and recall; held-out topics take no part."""
    keep_kinds: Annotated[float | None, PART, MAY_CHANGE] = None
    """With `run.keep` best, keep no policy that states a kind of fact less than this many times as often as policy 0
    on the development topics, for each kind that it stated in one answer of ten; none: what it states is its matter."""
    patience: Annotated[CountOrNone, MAY_CHANGE] = None
    """End the run after this many iterations in a row without a new best policy (needs `run.keep` best); none: do all
    iterations."""
    max_failed: Annotated[Share, MAY_CHANGE] = 0.05
    """Share of the last 100 questions: with more of them failed, the run stops (fewer than 20 tolerate one)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_used = self.patience is None or self.keep == "best"
        require(is_used, "run.patience", "none unless run.keep is best", self.patience)
        is_used = self.keep_kinds is None or self.keep == "best"
        require(is_used, "run.keep_kinds", "none unless run.keep is best", self.keep_kinds)


@dataclass(frozen=True)
class ModelConfig(Section, affects=(COLLECT, TRAIN, EVALUATE)):
    model_name_or_path: ModelName = ""
    """Policy to align: `org/name[@revision]` of the Hugging Face Hub, or a folder with safetensors, a tokenizer and a
    chat template."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off by default."""
    gradient_checkpointing_enable: Annotated[bool, MAY_CHANGE] = False
    """Recompute activations in the backward pass: less memory, more time."""
    chat_template: Annotated[str | None, filled("a file")] = None
    """Jinja file of a chat template that replaces the model's own; published policies include it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Arguments of the chat template: {name: value}, as in {enable_thinking: false}."""


COLUMNS = (
    *("prompt", "id", "topic", "document", "facts", "answer", "language", "wrong_answers", "system"),
    *("question_id", "text", "chosen", "rejected"),
)
"""Fields of questions, answers and preferences that another column may hold."""


@dataclass(frozen=True)
class DataConfig(Section, affects=(COLLECT, EVALUATE)):
    train: Annotated[str, filled("a questions file")] = "builtin:countries"
    """Questions to learn from: `builtin:countries`, `builtin:elements`, these with `-short` (several questions of one
    fact each in place of one of five) or `-many` (two of three facts each beside it), a file or folder (JSON, Parquet,
    CSV, ...), or a data set of the Hub, `hf://datasets/org/name[:config][/split]`."""
    eval: Annotated[str | None, filled("a questions file")] = None
    """Held-out questions; none: `data.num_eval_topics` topics are split off `data.train`."""
    split_seed: int = 1
    """Draws the topics that are split off; apart from `run.seed`, so that repeated runs share them."""
    num_eval_topics: Count = 40
    """Topics split off for evaluation (ignored when `data.eval` is given); a topic is never on both sides."""
    num_dev_topics: Annotated[int, at_least(0)] = 0
    """Development topics split off `data.train` behind the held-out ones: evaluated, never trained on, and all that
    `run.keep` best and `run.patience` go by."""
    num_reserved_topics: Annotated[int, at_least(0)] = 0
    """Topics of `data.train` that no stage asks about: those that as many `data.num_eval_topics` would hold out. Who
    tunes a method with its held-out topics reserved hasn't seen them."""
    transfer: Annotated[str | None, filled("a questions file")] = None
    """Questions of another domain, evaluated only, never trained on."""
    num_transfer_topics: CountOrNone = None
    """Use at most this many topics of `data.transfer`; none: all."""
    columns: dict[str, str] | None = None
    """Columns of questions, answers and pairs in files, {our field: their column}, as in {prompt: question, document:
    context}; a path of names, `answers.text.0`, leads into structs and lists. Other columns pass by."""
    documents: Annotated[str | None, filled("a file or folder of documents")] = None
    """Corpus of {text, title}, a file, folder or data set: a question without a document of its own has the ones that
    BM25 finds for its topic and prompt. None: only questions' own documents."""
    document_columns: dict[str, str] | None = None
    """Columns of `data.documents` that hold {text, title}, where they have other names, as in {text: body}."""
    num_documents: Count = 3
    """Documents that a question gets of `data.documents`."""
    topics: Annotated[str | None, filled("a file of topics")] = None
    """Text file of topics of `data.train`, one a line: learn from these alone (Mask-DPO tables 5 and 12); none: from
    all that are not held out."""
    max_topics: CountOrNone = None
    """Learn from at most this many topics, drawn as held-out ones are (Mask-DPO table 4); none: all."""
    questions_per_topic: CountOrNone = None
    """Learn from at most this many questions of a topic, drawn by `data.split_seed` (Mask-DPO table 4); none: all."""
    max_questions: CountOrNone = None
    """Learn from at most this many questions per iteration; none: all."""
    max_dropped: Annotated[Share, MAY_CHANGE] = 0.05
    """Tolerated share of unusable records in a file: they are dropped and counted; above it the command stops (fewer
    than 20 records count as 20). 0: it stops at the first one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        topics = self.num_transfer_topics
        for option, fields in {"columns": COLUMNS, "document_columns": ("text", "title")}.items():
            for name, column in (getattr(self, option) or {}).items():
                near = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
                hint = f"; did you mean {near[0]}?" if near else ""
                require(name in fields, f"data.{option}", f"fields among {', '.join(fields)}{hint}", name)
                require(bool(column.strip()), f"data.{option}.{name}", "the name of a column", column)
        is_used = self.document_columns is None or self.documents is not None
        require(is_used, "data.document_columns", "none without data.documents", self.document_columns)
        is_used = topics is None or self.transfer is not None
        require(is_used, "data.num_transfer_topics", "none without data.transfer", topics)


def _is_thinking(value: str | dict[str, str]) -> bool:
    if isinstance(value, str):
        return value in ("auto", "keep")
    return set(value) == {"open", "close"} and all(map(str.strip, value.values())) and value["open"] != value["close"]


@dataclass(frozen=True)
class RolloutConfig(Section, affects=(COLLECT, EVALUATE)):
    num_engines: Count = 1
    """vLLM engines, one Ray actor each."""
    n_samples_per_prompt: Annotated[int, at_least(2, " (a pair needs two answers)"), SAMPLES] = 32
    """K: answers sampled per question (Mask-DPO appendix A: 32)."""
    temperature: Annotated[float, above_0(" (answers to one question must differ)"), SAMPLED] = 0.8
    """Sampling temperature (Mask-DPO appendix A: 0.8)."""
    top_k: Annotated[int, TOP_K] = 40
    """Sample among the k most probable tokens (Mask-DPO appendix A: 40)."""
    top_p: Annotated[float, PART] = 1.0
    """Sample among the most probable tokens that hold this much probability."""
    max_new_tokens: Count = 1024
    """Longest answer, tokens."""
    max_in_flight: Annotated[CountOrNone, MAY_CHANGE] = None
    """Questions handed to all engines together and not yet answered, which bounds the driver's memory; none: as many
    as fill `vllm.max_num_seqs` of every engine and a quarter more, at least 64."""
    ahead: Literal[0, 1] = 0
    """1: the next iteration's questions are answered while the policy that answers them is trained, so that engines
    and ranks work at the same time; from the second iteration on, pairs then come from the policy before the newest.
    0, as in Mask-DPO: on-policy."""
    model: Annotated[str | None, MODEL] = None
    """Folder of another model that answers the training questions in the policy's place (Mask-DPO table 3)."""
    answers: Annotated[str, filled("sampled, dataset or a file of answers")] = "sampled"
    """Answers to the training questions: `sampled`; `dataset`: a question's standard answer and its wrong answers (SMA
    table 5); or a file of answers, JSON Lines with question_id and text."""
    chosen_answers: Annotated[str | None, filled("document, dataset or a file of answers")] = None
    """Answers that alone can be chosen, the others rejected: `document`: sampled with the question's document in the
    prompt, and trained without it (Mask-DPO table 3, Llama+Doc; SMA table 5, w/ desc.); `dataset`: the standard answer;
    or a file of answers. None: any answer can be either."""
    thinking: Annotated[
        str | dict[str, str], Rule("auto, keep, or {open: TAG, close: TAG} with two different tags", _is_thinking)
    ] = "auto"
    """Tags of thinking blocks in answers, which have no sentences, weight 0 and are not judged: {open: TAG, close:
    TAG}; `auto`: tags in the model's files, and <think> and other known ones; `keep`: blocks are part of the answer.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        is_sampled = self.answers == "sampled"
        expected = f"none with rollout.answers {self.answers}: nothing is sampled"
        require(is_sampled or self.model is None, "rollout.model", expected, self.model)
        is_free = is_sampled or self.chosen_answers != "document"
        require(is_free, "rollout.chosen_answers", "not document" + expected[4:], self.chosen_answers)

    @property
    def sampling(self) -> Sampling:
        """How training answers are sampled."""
        return Sampling(self.n_samples_per_prompt, self.temperature, self.top_k, self.top_p, self.max_new_tokens)


@dataclass(frozen=True)
class VllmConfig(Section, affects=(COLLECT, EVALUATE)):
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Dtype of weights and activations; auto: as in training (ds.param_dtype). In bfloat16 an answer depends a little
    on the requests that are decoded beside it, in float32 hardly ever."""
    tensor_parallel_size: Count = 1
    """GPUs per engine."""
    gpu_memory_utilization: Annotated[float, PART] = 0.9
    """Share of a GPU's memory that an engine takes (GPU only)."""
    cpu_kv_cache_gib: Count = 2
    """KV cache per engine, GiB (CPU only)."""
    max_model_len: Annotated[int | None, at_least(2)] = None
    """Prompt and answer together, tokens; none: the model's own limit."""
    enforce_eager: bool = False
    """Don't compile: starts faster; on CPU compiling gains little."""
    enable_prefix_caching: bool = True
    """Compute a shared prompt once."""
    max_num_seqs: Annotated[Count, Rule("at most 32768", lambda count: count <= 32768)] = 256
    """Sequences that an engine decodes together."""


BATCHED_TOKENS = {"cpu": 32768, "cuda": 8192}
"""Most tokens that an engine computes per step, by `cluster.device`. On a CPU a whole prompt must fit."""
_EACH = 64
"""Questions in flight per annotation or evaluation actor, by default."""


@dataclass(frozen=True)
class AnnotationConfig(Section, affects=(COLLECT, EVALUATE)):
    annotator: str = "facts"
    """Annotator that labels sentences: `facts` and `claims` (rules over fact tables), `anah` (a judge that reads
    documents), `classifier` (an NLI model), `replay` (a file of labels), `short_answer` (whole answers by a
    standard answer), or your own: `python:package.module:Class`."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the annotator: {name: value}, the names as its class has them."""
    num_actors: Count = 1
    """Annotation actors."""
    max_in_flight: Annotated[CountOrNone, MAY_CHANGE] = None
    """Questions handed to all annotation actors together and not yet labelled; none: 64 for each."""
    max_unparsed: Annotated[Share, MAY_CHANGE] = 0.2
    """Share of the sentences: with more of them `unparsed`, of at least 50 in the run folder, the run stops."""

    @property
    def in_flight(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or _EACH * self.num_actors


@dataclass(frozen=True)
class PairsConfig(Section, affects=(COLLECT,)):
    strategy: str = "best_worst"
    """How pairs are made of scored answers: `best_worst` (Mask-DPO section 2.2), `all_pairs` (every two answers),
    `correct_incorrect` (each correct answer with each incorrect one), `unpaired` (each answer alone, as good or bad:
    for `kto`, `kto_pair` and `sft`), or your own: `python:package.module:function`. See docs/pairs.md."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the strategy: {name: value}, the names as its function has them."""
    score: str = "precision"
    """Score of an answer by its labels: `precision` (Mask-DPO section 2.2), `detail`, `f1_at_k`, `contradiction_free`
    or `short_answer`. See docs/pairs.md."""
    score_options: dict[str, Any] | None = None
    """Keyword arguments of the score: {name: value}, the names as its function has them."""
    min_facts: Annotated[int, at_least(0)] = 1
    """Fewest `no_hallucination` sentences of a chosen answer; 0: even one that states nothing, whose precision is 1."""
    require_labels: bool = True
    """Drop pairs whose chosen answer has no correct sentence or whose rejected one has no incorrect one (Mask-DPO
    section 2.2); false: the scores alone decide, as for a mask that weighs them all."""
    require_kinds: bool = False
    """Drop pairs whose chosen answer states no fact of a kind (the currency) of which its rejected one states one: they
    teach a policy to leave it out. Spans without a kind count for none; of the annotators, `facts` and `claims` by
    rules name kinds."""
    min_gap: Share = 0.0
    """Drop pairs whose scores don't differ by more than this (APEFT section 6.2: levels of quality)."""
    max_gap: Share | None = None
    """Drop pairs whose scores differ by more than this; none: no limit."""
    max_pairs: CountOrNone = None
    """Keep at most this many pairs of a question; none: all of them."""
    keep: Literal["random", "widest"] = "random"
    """Which pairs `pairs.max_pairs` keeps: `random` ones, drawn by `run.seed` and the question's id, or those with the
    widest gap between their scores."""
    cut_off: Literal["drop", "keep"] = "drop"
    """Whether answers that `rollout.max_new_tokens` cut off can be chosen or rejected: `keep` as any other."""
    file: Annotated[str | None, filled("a file of pairs")] = None
    """Pairs of a file, trained on in each iteration beside those of the answers: see docs/formats.md."""
    shares: dict[str, float] | None = None
    """Share of each source among an iteration's pairs, {questions: ..., atoms: ..., file: ...}: of sources with more
    than their share some are left out, drawn by the seed; none: all pairs of all sources."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for source, share in (self.shares or {}).items():
            known = source in ("questions", "atoms", "file")
            require(known, "pairs.shares", "the sources questions, atoms and file", source)
            require(share >= 0, f"pairs.shares.{source}", "at least 0", share)
        require(self.shares is None or sum(self.shares.values()) > 0, "pairs.shares", "a share above 0", self.shares)
        expected = f"more than pairs.min_gap ({self.min_gap:g})"
        require(self.max_gap is None or self.max_gap > self.min_gap, "pairs.max_gap", expected, self.max_gap)


@dataclass(frozen=True)
class AtomsConfig(Section, affects=(COLLECT,)):
    n_samples_per_prompt: Annotated[
        int, Rule("0, or at least 2 (a pair needs two replies)", lambda count: count == 0 or count >= 2), SAMPLES
    ] = 0
    """Replies to each atomic question (APEFT section 5.1), a statement from the iteration's pairs that the policy is
    asked to call true or false; right and wrong replies to one question are a pair more. 0: no atomic questions."""
    temperature: Annotated[float, above_0(" (replies to one question must differ)"), SAMPLED] = 1.0
    """Sampling temperature of the replies (APEFT section 5.1: 1)."""
    max_new_tokens: Count = 16
    """Longest reply, tokens."""
    max_questions: CountOrNone = None
    """Ask at most this many atomic questions an iteration, drawn by the seed; none: all."""
    few_shot: bool = False
    """Show a true and a false statement before each statement; small models need it to reply in form. Questions of
    `atoms.questions` are asked as they stand."""
    questions: Annotated[str | None, filled("a questions file")] = None
    """Questions with standard answers, asked in place of statements: APEFT's control `rand` (section 5.3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = {"max_questions": None, "few_shot": False, "questions": None}
        for name, default in unused.items():
            value = getattr(self, name)
            expected = f"{str(default).lower()} without atoms.n_samples_per_prompt"
            require(self.n_samples_per_prompt > 0 or value == default, f"atoms.{name}", expected, value)


@dataclass(frozen=True)
class MaskConfig(Section, affects=(COLLECT,)):
    policy: str | dict[str, dict[str, float]] = "mask_dpo"
    """`mask_dpo`, `vanilla` (all ones: plain DPO), or {chosen: {label: weight}, rejected: {...}}."""
    eos: Literal["last_sentence", "keep", "drop", "chosen"] = "last_sentence"
    """Weight of the end-of-sequence token: its last sentence's, 1, 0, or 1 in chosen and 0 in rejected answers."""
    confidence: bool = False
    """Multiply the weight of a sentence by the annotator's confidence in its label: a soft mask. A pair with weight on
    a label without confidence is dropped."""
    balance: Annotated[float | None, above_0()] = None
    """Most that the sentences of a kind of fact weigh in all rejected answers of an iteration, by what that kind
    weighs in all chosen ones; one above it weighs less. At 1 pairs push no kind away more than they pull it: a policy
    that is mostly wrong about one would stop stating it. None: no bound."""
    unit: Literal["answer", "sentence"] = "answer"
    """One response is an answer, or each sentence of it, the correct ones chosen and the incorrect ones rejected,
    with weight on its own tokens only (FactAlign's fine-grained KTO); `sentence` goes with `kto`, `kto_pair`, `sft`."""
    oracle: Annotated[str | None, MODEL] = None
    """Folder of a model that learned preferences (with DPO) and picks the key tokens among those with weight, all
    others getting weight 0 (SePO, arXiv 2408.13518); none: all tokens count by `mask.policy`."""
    oracle_reference: Annotated[str | None, MODEL] = None
    """Folder of the model that the oracle was trained from; none: `model.model_name_or_path`."""
    oracle_share: Annotated[float, PART] = 0.3
    """Share of the tokens with weight that are key: those whose log-ratio under the oracle and its reference is the
    highest in a chosen, the lowest in a rejected answer (SePO: 0.3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_used = self.balance is None or self.unit == "answer"
        require(is_used, "mask.balance", "none unless mask.unit is answer", self.balance)
        if isinstance(self.policy, str):
            known = self.policy in ("mask_dpo", "vanilla")
            require(known, "mask.policy", "mask_dpo, vanilla or {side: {label: weight}}", self.policy)
            return
        for side in ("chosen", "rejected"):
            require(side in self.policy, "mask.policy", "the sides chosen and rejected", sorted(self.policy))
        for side, weights in self.policy.items():
            require(side in ("chosen", "rejected"), "mask.policy", "the sides chosen and rejected", side)
            for label, weight in weights.items():
                require(label in LABELS, f"mask.policy.{side}", f"one of {', '.join(LABELS)}", label)
                require(0 <= weight <= 1, f"mask.policy.{side}.{label}", "0 to 1", weight)
            has_eos = self.eos == "keep" or (self.eos == "chosen" and side == "chosen")
            expected = f"a weight above 0 when mask.eos is {self.eos} (nothing could be learned)"
            require(has_eos or any(weights.values()), f"mask.policy.{side}", expected, weights)


@dataclass(frozen=True)
class ObjectiveConfig(Section, affects=(COLLECT, TRAIN)):
    name: str = "dpo"
    """Objective that the weighted tokens of the pairs are trained with: `dpo` (with the default mask: Mask-DPO), one
    of the others in docs/objectives.md, or your own: `python:package.module:function`."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the objective: {name: value}, the names as its function has them."""
    sft_weight: Annotated[float, at_least(0)] = 0.0
    """Weight of a term beside the objective: the mean negative log-likelihood of the chosen answers' weighted tokens
    (RPO, FLAME); 0: none."""


@dataclass(frozen=True)
class SftConfig(Section, affects=(COLLECT, TRAIN)):
    iterations: Annotated[int, at_least(0)] = 0
    """The first n of `run.iterations`, which fine-tune on the chosen answers (SFT) before preference training."""
    max_epochs: Count = 1
    """Passes over an SFT iteration's answers."""
    lr: Annotated[float, above_0()] = 1e-5
    """Highest learning rate of SFT."""
    answers: Literal["chosen", "correct", "all"] = "chosen"
    """Answers to learn from: the `chosen` ones of the pairs (Mask-DPO table 7), every `correct` one, of score 1 (SMA
    table 6, all labels), or `all` (FLAME: the model's own answers, whatever they say)."""
    masked: bool = False
    """Learn under `mask.policy` from the chosen answers; false: from all of their tokens."""


@dataclass(frozen=True)
class TrainConfig(Section, affects=(TRAIN,)):
    num_ranks: Count = 1
    """DeepSpeed ranks, one Ray actor (and one GPU) each."""
    beta: Annotated[float, above_0()] = 0.1
    """The objective's beta: for DPO the cost of leaving the reference (Mask-DPO eq. 6)."""
    reference: Literal["initial", "previous"] = "previous"
    """Reference policy of an iteration: the one before preference training, or the one before the iteration."""
    max_epochs: Count = 3
    """Passes over an iteration's pairs."""
    batch_size: Count = 64
    """Pairs per optimizer step, over all ranks."""
    micro_batch_size: Annotated[Count, MAY_CHANGE] = 8
    """Pairs per forward pass and rank, at most; they are merged into one prefix tree."""
    max_tokens_per_gpu: Annotated[Count, MAY_CHANGE] = 8192
    """Tokens that a rank computes per forward pass, at most, shared ones counted once; a pair that has more of them
    has a pass of its own."""
    lr_scheduler: Literal[
        "cosine", "cosine_with_min_lr", "linear", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"
    ] = "cosine"
    """Learning rate over an iteration's steps: a schedule of transformers.get_scheduler."""
    lr_warmup_ratio: BelowOne = 0.03
    """Share of the steps that warm up."""
    min_lr_ratio: Share = 0.1
    """Lowest learning rate, as a share of the highest (only for `cosine_with_min_lr`)."""
    max_norm: Annotated[float, at_least(0)] = 1.0
    """Gradient clipping; 0 for none."""
    save_steps: Annotated[int, at_least(-1, " (none)"), MAY_CHANGE] = 50
    """Optimizer steps from one DeepSpeed checkpoint to the next; a stopped training resumes from it. -1 or 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = f"at least train.num_ranks ({self.num_ranks}): a pair for every rank"
        require(self.batch_size >= self.num_ranks, "train.batch_size", expected, self.batch_size)


@dataclass(frozen=True)
class AdamConfig(Section, affects=(TRAIN,)):
    lr: Annotated[float, above_0()] = 5e-6
    """Highest learning rate (Mask-DPO appendix A: 5e-6, for 8B)."""
    betas: Annotated[
        tuple[float, float], Rule("two numbers from 0 to below 1", lambda betas: all(0 <= beta < 1 for beta in betas))
    ] = (0.9, 0.95)
    """AdamW's betas."""
    eps: Annotated[float, above_0()] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, at_least(0)] = 0.0
    """AdamW's decoupled weight decay."""


@dataclass(frozen=True)
class DeepspeedConfig(Section, affects=(COLLECT, TRAIN, EVALUATE)):
    zero_stage: Literal[2, 3] = 2
    """ZeRO stage: 2 shards gradients and optimizer state over the ranks, 3 the weights too."""
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    """Dtype of weights and activations; master weights are fp32 in any case."""
    adam_offload: bool = False
    """Keep the optimizer's state in CPU memory (GPU only)."""
    load_in_4bit: bool = False
    """Hold the frozen weights beside adapters in 4 bits (QLoRA); needs `lora.rank`, a GPU and bitsandbytes."""

    @property
    def torch_dtype(self) -> Literal["bfloat16", "float32"]:
        """torch's name of `param_dtype`."""
        return "bfloat16" if self.param_dtype == "bf16" else "float32"


@dataclass(frozen=True)
class LoraConfig(Section, affects=(TRAIN,)):
    rank: Annotated[int, at_least(0, " (0: none)")] = 0
    """Train low-rank adapters of this rank beside frozen weights (LoRA); 0: train all weights."""
    alpha: Count = 16
    """Numerator of an adapter's scale, alpha / rank."""
    dropout: BelowOne = 0.0
    """Dropout before the adapters."""
    target_modules: Annotated[str, Rule("names", lambda names: all(map(str.strip, names.split(","))))] = "all-linear"
    """Which modules get adapters: `all-linear`, or names separated by commas."""

    @property
    def modules(self) -> list[str] | None:
        """`target_modules` one by one; None: all linear layers but the LM head."""
        names = [name.strip() for name in self.target_modules.split(",")]
        return None if names == ["all-linear"] else names

    def adapts(self, path: str) -> bool:
        """Whether a linear layer of this dotted path gets adapters."""
        return self.modules is None or any(means(name, path) for name in self.modules)


def means(name: str, path: str) -> bool:
    """Whether a name among `lora.target_modules` means the module of this dotted path: PEFT goes by its last parts."""
    return f".{path}".endswith(f".{name}")


@dataclass(frozen=True)
class SavingsConfig(Section):
    """Work that a masked objective does not need, left out. Each keeps loss and gradients, up to rounding."""

    cut_tails: bool = True
    """Leave out the tokens after an answer's last one with weight."""
    head_at_targets: bool = True
    """Run the LM head only where the next token has weight."""
    reference_once: bool = True
    """Compute reference log-probs once per pair and iteration, and keep them on disk; off: in every step anew."""
    prefix_tree: bool = True
    """Compute what answers of a micro-batch begin with in common once; off, and for models that a tree can't serve: one
    padded row for each answer."""
    group_pairs: bool = True
    """Put the pairs of a step that share most into one micro-batch; off: in the order of the epoch."""
    lean_layers: bool = True
    """Keep less of norms and MLPs for the backward pass, and compute it again there."""


@dataclass(frozen=True)
class EvalConfig(Section, affects=(EVALUATE,)):
    n_samples_per_prompt: Annotated[Count, SAMPLES] = 5
    """R: replications, one answer per question each (Mask-DPO section 3.1: five); one when evaluation is greedy."""
    temperature: Annotated[float | None, at_least(0, " (greedy)"), SAMPLED] = None
    """Sampling temperature of evaluated answers, 0 for greedy ones; none: `rollout.temperature`."""
    top_k: Annotated[int | None, TOP_K] = None
    """The same for top-k, 1 for greedy answers (Mask-DPO table 1); none: `rollout.top_k`."""
    top_p: Annotated[float | None, PART] = None
    """The same for top-p; none: `rollout.top_p`."""
    greedy: bool = False
    """Beside the sampled answers, one greedy answer to each held-out and transfer question, with figures of its own (an
    R-th more of evaluation's work)."""
    bootstrap_samples: Annotated[int, within(100, 100_000)] = 2000
    """Resamples of topics behind the 95% intervals."""
    f1_k: CountOrNone = None
    """K of `f1_at_k` (Wei et al. 2024), the number of correct facts with which recall counts as full; none: as many as
    the question asks for, and no such figure where it does not say."""
    evaluator: str | None = None
    """A second opinion on held-out answers, beside the annotator's: `factscore` (facts against documents),
    `short_answer` (against standard answers), or a class of your own: `python:package.module:Class`; none: no other."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the evaluator: {name: value}, the names as its class has them."""
    perplexity_model: Annotated[str | None, MODEL] = None
    """Hugging Face folder of a causal language model that measures the perplexity of held-out answers, with or without
    an evaluator; none: not measured."""
    num_actors: Count = 1
    """Evaluation actors, when there is an evaluator or a perplexity model."""
    max_in_flight: Annotated[CountOrNone, MAY_CHANGE] = None
    """Questions handed to all evaluation actors together and not yet judged; none: 64 for each."""
    max_unparsed: Annotated[Share, MAY_CHANGE] = 0.2
    """Share of the evaluator's facts: with more of them `unparsed`, of at least 50 in the run folder, the run stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        has_use = self.evaluator is not None or not self.options
        require(has_use, "eval.options", "none without eval.evaluator", self.options)
        expected = "false where eval.temperature or eval.top_k makes all answers greedy"
        require(not (self.greedy and self.is_greedy), "eval.greedy", expected, self.greedy)

    @property
    def in_flight(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or _EACH * self.num_actors

    @property
    def is_greedy(self) -> bool:
        """Whether evaluation decodes greedily, so that all answers to a question are the same."""
        return self.top_k == 1 or self.temperature == 0

    @property
    def replications(self) -> int:
        """Answers to each question: `n_samples_per_prompt`, or 1 if greedy."""
        return 1 if self.is_greedy else self.n_samples_per_prompt

    @property
    def is_judged(self) -> bool:
        """Whether evaluation actors judge held-out answers."""
        return self.evaluator is not None or self.perplexity_model is not None


_NOT_IN_PROJECTS = "/\\#?%:"


@dataclass(frozen=True)
class LoggerConfig(Section):
    trackers: tuple[str, ...] = ()
    """Trackers that get the metrics beside metrics.jsonl: a list of `wandb`, `tensorboard`, `mlflow`, `trackio` and
    `python:package.module:Class`."""
    wandb_mode: Literal["disabled", "offline", "online"] | None = None
    """Weights & Biases: off, on disk only, or sent (login by `wandb login` or WANDB_API_KEY, never from the config);
    none: sent, or as WANDB_MODE says, if `trackers` names it."""
    wandb_entity: str | None = None
    """W&B user or team; none: the login's own."""
    wandb_project: Annotated[
        str,
        Rule(
            f"a name of 1 to 128 characters, none of {_NOT_IN_PROJECTS}",
            lambda name: bool(name.strip()) and len(name) <= 128 and not set(_NOT_IN_PROJECTS) & set(name),
        ),
    ] = "maskdpo_ray"
    """Project in W&B and trackio, experiment in MLflow."""
    wandb_group: str | None = None
    """Group in W&B and trackio, tag `group` in MLflow; none: no group."""
    num_samples: Annotated[int, at_least(0)] = 8
    """Questions whose answers, and pairs, trackers show after each evaluation and collection; 0: no text leaves the
    run folder."""


@dataclass(frozen=True)
class HubConfig(Section):
    push: Annotated[str | None, Rule("a repository of the Hugging Face Hub, org/name", is_repository)] = None
    """Repository `org/name` of the Hugging Face Hub that `run` and `train` upload the kept policy to at their end, with
    its model card; the token comes from HF_TOKEN or `hf auth login`. None: nothing is uploaded."""
    private: bool = True
    """Only the owners of `push` see it. A repository that is there has to be so already."""


@dataclass(frozen=True)
class ClusterConfig(Section):
    address: str | None = None
    """Ray cluster to join: `auto`, or host:port as `ray start` prints it; `local`: start one here; none: RAY_ADDRESS if
    set, else `local`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Machines that engines and ranks run on."""
    cpus_per_engine: Cpus = 1
    """Ray CPUs that a rollout engine reserves."""
    cpus_per_rank: Cpus = 1
    """Ray CPUs that a training rank reserves."""
    cpus_per_annotator: Cpus = 0
    """Ray CPUs that an annotation actor reserves; rules need next to none."""
    gpus_per_annotator: Gpus = 0
    """Ray GPUs that an annotation actor reserves."""
    cpus_per_evaluator: Cpus = 0
    """Ray CPUs that an evaluation actor reserves; rules need next to none."""
    gpus_per_evaluator: Gpus = 0
    """Ray GPUs that an evaluation actor reserves; with any, `eval.perplexity_model` runs there."""
    colocate: bool = False
    """Engines and ranks take turns with the same GPUs, or the same memory of a CPU: engines and judges give theirs back
    while ranks train, ranks while engines answer. A run then takes as many GPUs as its largest group; one is enough."""
    threads: Annotated[int | None, within(1, 1024)] = None
    """Threads of an engine or rank on CPU, which take turns. None: a node's engines share its cores, its ranks too."""
    nodes_timeout_s: Annotated[float, within(0, 10**7)] = 0
    """Longest to wait, when a run starts, until the cluster has the CPUs and GPUs that it reserves, seconds; 0: what is
    missing ends the run at once."""
    start_timeout_s: Seconds = 600
    """Longest that each step of starting may take (engines, annotators, ranks, their joining), seconds."""
    step_timeout_s: Seconds = 1800
    """Longest that an actor may take for the oldest of its calls, seconds; then it is replaced, or a training rank ends
    the run."""


@dataclass(frozen=True)
class Config:
    """A whole run. Sections are the dotted prefixes of the options."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)
    atoms: AtomsConfig = field(default_factory=AtomsConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    ds: DeepspeedConfig = field(default_factory=DeepspeedConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    savings: SavingsConfig = field(default_factory=SavingsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        device, dtype, gpus = self.cluster.device, self.ds.param_dtype, self.vllm.tensor_parallel_size
        on_cpu, offload = device == "cpu", self.ds.adam_offload
        require(on_cpu or dtype == "bf16", "ds.param_dtype", "bf16 when cluster.device is cuda", dtype)
        expected = "false when cluster.device is cpu (nothing to offload to)"
        require(not (on_cpu and offload), "ds.adam_offload", expected, offload)
        for is_wrong, why in (
            (on_cpu, "when cluster.device is cpu (bitsandbytes needs a GPU)"),
            (not self.lora.rank, "without lora.rank (weights in 4 bits can't be trained)"),
            (self.ds.zero_stage == 3, "with ds.zero_stage 3"),
        ):
            require(not (self.ds.load_in_4bit and is_wrong), "ds.load_in_4bit", f"false {why}", True)
        require(not on_cpu or gpus == 1, "vllm.tensor_parallel_size", "1 when cluster.device is cpu", gpus)
        context, answer = self.vllm.max_model_len, self.rollout.max_new_tokens
        expected = f"less than vllm.max_model_len ({context}), which also holds the prompt"
        require(context is None or answer < context, "rollout.max_new_tokens", expected, answer)
        expected = "false with rollout.ahead 1, for which engines answer while ranks train"
        require(not (self.cluster.colocate and self.rollout.ahead), "cluster.colocate", expected, True)
        expected = f"at most run.iterations ({self.run.iterations})"
        require(self.sft.iterations <= self.run.iterations, "sft.iterations", expected, self.sft.iterations)
        has_dev = self.data.num_dev_topics > 0
        expected = "last without data.num_dev_topics (the best policy is the best on development topics)"
        require(self.run.keep == "last" or has_dev, "run.keep", expected, self.run.keep)

    def at(self, iteration: int) -> "Config":
        """The config that an iteration works by: of an SFT iteration, with its objective in place of the run's."""
        if iteration >= self.sft.iterations:
            return self
        lowest = {"correct": 1.0, "all": 0.0}.get(self.sft.answers)
        every: dict[str, Any] = {
            "strategy": "unpaired",
            "options": {"threshold": lowest},
            "min_gap": 0.0,
            "max_gap": None,
        }
        without_filters: dict[str, Any] = {"min_facts": 0, "require_labels": False} if self.sft.answers == "all" else {}
        return replace(
            self,
            objective=ObjectiveConfig("sft"),
            atoms=AtomsConfig(),
            pairs=self.pairs if lowest is None else replace(self.pairs, **every, **without_filters),
            mask=self.mask if self.sft.masked else MaskConfig("vanilla", "keep"),
            train=replace(self.train, max_epochs=self.sft.max_epochs),
            adam=replace(self.adam, lr=self.sft.lr),
        )

    @property
    def atoms_sampling(self) -> Sampling:
        """How replies to atomic questions are sampled."""
        own = self.atoms
        return Sampling(own.n_samples_per_prompt, own.temperature, -1, 1.0, own.max_new_tokens)

    @property
    def eval_sampling(self) -> Sampling:
        """How held-out answers are sampled."""
        own = {"temperature": self.eval.temperature, "top_k": self.eval.top_k, "top_p": self.eval.top_p}
        given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        return replace(self.rollout.sampling, n=self.eval.replications, **given)

    def in_flight(self, num_samples: int) -> int:
        """`rollout.max_in_flight`, or what it means to give none, of questions with `num_samples` answers each."""
        if self.rollout.max_in_flight is not None:
            return self.rollout.max_in_flight
        full = self.rollout.num_engines * self.vllm.max_num_seqs / num_samples
        return max(64, math.ceil(1.25 * full))

    @property
    def engine_dtype(self) -> str:
        """Dtype of the engines' weights and activations: `vllm.dtype`, or training's where that is auto."""
        return self.ds.torch_dtype if self.vllm.dtype == "auto" else self.vllm.dtype

    @property
    def sampled_dtype(self) -> str:
        """The coarser of the dtypes of published weights and of engines: torch's name."""
        return "bfloat16" if "bfloat16" in (self.ds.torch_dtype, self.engine_dtype) else "float32"
