"""The bridge to OpenRLHF: a reward function for train_ppo_ray, and train_dpo with Mask-DPO (arXiv 2503.02846, eq. 6).

deepspeed --module maskdpo_ray.openrlhf --data.dataset pairs.jsonl ... is `openrlhf.cli.train_dpo` with all its options,
on pairs that `export --to masked` wrote. A file of two lines is a value of `--reward.remote_url`:

from maskdpo_ray.openrlhf import Reward
reward_func = Reward("configs/quickstart.yaml")
"""

from __future__ import annotations

import inspect
import runpy
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskdpo_ray.annotation import protocol, replies
from maskdpo_ray.config import cli
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.data.formats.preference import SIDES
from maskdpo_ray.errors import ConfigError, DataError, UserError, described, require, shown
from maskdpo_ray.models import chat, folder, hub, thinking
from maskdpo_ray.pairing import masked_pairs, scoring
from maskdpo_ray.records import Question, Rollout
from maskdpo_ray.stages import hub_models, preflight

if TYPE_CHECKING:
    import torch
    from openrlhf.trainer.dpo_trainer import DPOTrainer as _Base
else:
    _Base = object

TESTED = "0.11.2"
"""Version of OpenRLHF that tests compare with; others are refused where their inner workings differ."""


class Reward:
    """A reward function: answers scored by a config's annotator (`annotation`) and `pairs.score`.

    The column that `--data.label_key` names holds the question's id: with `--data.input_key prompt --data.label_key id`
    a file of our questions is a `--data.prompt_dataset`. The annotator works in the processes of OpenRLHF's engines.
    """

    def __init__(self, config: str | Path, unscored: float = 0.0) -> None:
        """
        Args:
            config: YAML file.
            unscored: reward of an answer whose labels give no score, say because none could be read.

        Raises UserError, one line.
        """
        command = hub_models.local(cli.parse(["--config", str(config)]), sections=["annotation"])
        self._config = command.config
        self._score, self._unscored = scoring.build(self._config.pairs), unscored
        named = self._config.annotation
        self._annotator = protocol.build(named.annotator, named.options)
        expected = "an annotator without GPUs, as OpenRLHF's engines hold them; a judge at an address: judge: http"
        num_gpus = protocol.num_gpus(self._annotator)
        require(num_gpus == 0, "annotation.annotator", expected, f"{named.annotator} with {num_gpus}")
        data = self._config.data
        sources = [source for source in (data.train, data.eval, data.transfer) if source is not None]
        loaded = (preflight.questions_of(data, source, Dropped(source, data.max_dropped)) for source in sources)
        self._questions = {question.id: question for each in loaded for question in each}
        self._starting, self._is_started = threading.Lock(), False
        self._at_once = threading.Semaphore(getattr(self._annotator, "max_concurrency", 1))

    def __call__(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        """Rewards of answers, as OpenRLHF asks for them, from several threads at once.

        Args:
            queries: prompt and answer together, special tokens included.
            prompts: the rendered prompts.
            labels: ids of the questions.

        Returns `rewards` and `scores`, both [N] float32, and as `extra_logs` the share of answers without a score.

        Raises UserError, one line, which is shown too: OpenRLHF notes errors of reward functions at its lowest level.
        """
        import torch

        try:
            answers = [self._answer(*each) for each in zip(queries, prompts, labels, strict=True)]
            found = [self.score(self._question(answer.question_id), answer) for answer in answers]
        except Exception as error:
            print(f"error: reward_func: {described(error)}", file=sys.stderr, flush=True)
            raise
        rewards = torch.tensor([self._unscored if score is None else score for score in found])
        unscored = torch.tensor([score is None for score in found]).float().mean()
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"unscored": unscored}}

    def score(self, question: Question, answer: Rollout) -> float | None:
        """Score of one answer by its labels; None when they give none. Raises UserError when there are no labels."""
        (judged,) = thinking.judged([answer], self._annotator)
        items = [(question, judged.rollout)]
        with self._starting:
            if not self._is_started:
                self._annotator.start()
                self._is_started = True
        with self._at_once:
            annotations = self._annotator.annotate(items)
        replies.refuse_annotation_faults(items, annotations)
        return self._score(judged.restored(annotations[0]))

    def _question(self, label: str) -> Question:
        question = self._questions.get(label)
        if question is None:
            raise DataError(f"--data.label_key: expected the id of one of the config's questions, got {shown(label)}")
        protocol.check(self._annotator, question)
        return question

    def _answer(self, query: str, prompt: str, label: str) -> Rollout:
        begins = prompt
        if not query.startswith(begins):  # tokens that spell another text
            begins = self._chat.tokenizer.decode(self._chat.tokenizer.encode(prompt, add_special_tokens=False))
        if not query.startswith(begins):
            raise DataError(f"query: expected it to begin with its prompt, {shown(prompt)}, got {shown(query)}")
        text, is_finished = query[len(begins) :], False
        while ending := next((token for token in self._ends if text.endswith(token)), None):
            text, is_finished = text.removesuffix(ending), True
        answer = Rollout(label, 0, (), text, "stop" if is_finished else "length", 0)
        return self._chat.tags.noted(answer, is_open=self._chat.tags.opened_by(begins))

    @cached_property
    def _chat(self) -> chat.Chat:
        model = hub.without_weights(self._config.model)
        return chat.of(replace(self._config, model=model), folder.load_tokenizer(model))

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        tokenizer = self._chat.tokenizer
        return tuple({*tokenizer.convert_ids_to_tokens(list(self._chat.ends)), *tokenizer.all_special_tokens})


class MaskedPairs:
    """In place of OpenRLHF's `RewardDataset`: token ids as they were sampled, with the weights as `extra`."""

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        tokenizer: Any,
        max_length: int,
        strategy: Any,
        input_template: str | None = None,
        is_dpo: bool = True,
        num_processors: int = 1,
    ) -> None:
        """Take what OpenRLHF gives its own. Sides are cut at `max_length`; a pair whose side has no weight left is
        dropped.

        Raises DataError for rows that are no masked pairs, and when none is left.
        """
        self._pad = tokenizer.pad_token_id
        cut = [self._cut(item, max_length) for item in dataset]
        self._pairs = [pair for pair in cut if all(any(weights) for _, weights in pair)]
        dropped = len(cut) - len(self._pairs)
        if not self._pairs:
            raise DataError(
                f"--data.max_len: expected pairs with weights within {max_length} tokens, got {dropped} none"
            )
        strategy.print(f"{len(self._pairs)} masked pairs; dropped, with no weight within {max_length}: {dropped}")

    @staticmethod
    def _cut(item: Mapping[str, Any], max_length: int) -> list[tuple[list[int], list[float]]]:
        sides = []
        for name in SIDES:
            tokens, weights = masked_pairs.side(item, name)
            prompt = list(item[masked_pairs.PROMPT])
            sides.append(([*prompt, *tokens][:max_length], [*[0.0] * len(prompt), *weights][:max_length]))
        return sides

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> list[tuple[list[int], list[float]]]:
        return self._pairs[index]

    def collate_fn(self, pairs: Sequence[list[tuple[list[int], list[float]]]]) -> tuple[Any, ...]:
        """(ids, mask) of the chosen and of the rejected side, [B, T] int64, then each pair's weights by side."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        batch: list[Any] = []
        for place in range(len(SIDES)):
            rows = [torch.tensor(pair[place][0]) for pair in pairs]
            batch.append(pad_sequence(rows, batch_first=True, padding_value=self._pad))
            batch.append(pad_sequence([torch.ones_like(row) for row in rows], batch_first=True))
        return (*batch, [[torch.tensor(weights) for _, weights in pair] for pair in pairs])


class MaskDPOMixin(_Base):
    """Mask-DPO for OpenRLHF's `DPOTrainer`, or a subclass of your own: `class Mine(MaskDPOMixin, DPOTrainer)`.

    Weights of tokens come with each batch of `MaskedPairs` in the place of the prompts' lengths.
    """

    def concatenated_inputs(
        self, chosen_ids: torch.Tensor, c_mask: Any, reject_ids: torch.Tensor, r_mask: Any, prompt_id_lens: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """OpenRLHF's ids and masks; weights, [2B, T] float32 with the chosen rows first, in place of prompt lengths."""
        import torch

        parts = super().concatenated_inputs(chosen_ids, c_mask, reject_ids, r_mask, prompt_id_lens)
        ids, masks, _ = parts
        weights = torch.zeros(ids.shape, device=ids.device)
        rows = [pair[place] for place in range(len(SIDES)) for pair in prompt_id_lens]
        for row, of_row in enumerate(rows):
            weights[row, : len(of_row)] = of_row
        return ids, masks, weights

    def _get_batch_logps(
        self, per_token_logps: torch.Tensor, attention_mask: Any, prompt_id_lens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from maskdpo_ray.training.objectives.protocol import sums

        found = sums(per_token_logps, None, prompt_id_lens[:, 1:])
        return found.policy, found.averages


_CALLS = {
    "concatenated_inputs": "self chosen_ids c_mask reject_ids r_mask prompt_id_lens",
    "_get_batch_logps": "self per_token_logps attention_mask prompt_id_lens",
}
"""Methods of OpenRLHF's `DPOTrainer` that are replaced -> their parameters."""


def trainer_class() -> Any:
    """OpenRLHF's `DPOTrainer` with `MaskDPOMixin`. Raises ConfigError, one line, where that differs from `TESTED`."""
    from openrlhf.trainer.dpo_trainer import DPOTrainer

    for name, parameters in _CALLS.items():
        method = getattr(DPOTrainer, name, None)
        if method is None or " ".join(inspect.signature(method).parameters) != parameters:
            expected = f"openrlhf as {TESTED} works, with DPOTrainer.{name}({parameters.replace(' ', ', ')})"
            raise ConfigError(f"maskdpo_ray.openrlhf: expected {expected}, got {metadata.version('openrlhf')}")
    return type("MaskDPOTrainer", (MaskDPOMixin, DPOTrainer), {"__doc__": trainer_class.__doc__})


def main() -> None:
    """OpenRLHF's command `train_dpo`, with its arguments, on masked pairs."""
    import openrlhf.datasets
    import openrlhf.trainer.dpo_trainer

    try:
        openrlhf.trainer.dpo_trainer.DPOTrainer = trainer_class()
        openrlhf.datasets.RewardDataset = MaskedPairs
        runpy.run_module("openrlhf.cli.train_dpo", run_name="__main__")
    except UserError as error:
        cli.fail(error)


if __name__ == "__main__":
    main()
