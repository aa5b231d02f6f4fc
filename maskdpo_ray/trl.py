"""The bridge to TRL: Mask-DPO (arXiv 2503.02846, eq. 6) in its DPOTrainer, on pairs that `export --to masked` wrote.

trainer = MaskDPOTrainer("my-model", args=DPOConfig(...), train_dataset=load_dataset("json", data_files="pairs.jsonl"))

TRL sums log-probs where a batch's `completion_mask` is not 0, for policy and reference alike, so weights of 0 and 1
need a collator only. Fractions are multiplied in where the model returns log-probs, by a forward hook. Either way every
loss of TRL's that is a function of these sums becomes one on weighted sums (eq. 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from maskdpo_ray.data.formats.preference import SIDES
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.pairing import masked_pairs

TESTED = "1.16"
"""Version of TRL that tests compare with; others are refused where their inner workings differ."""
try:
    import datasets
    import torch
    import trl
    from datasets.fingerprint import Hasher
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference
except ImportError as error:
    raise ImportError(
        f"maskdpo_ray.trl: expected trl, tested with {TESTED} (pip install 'trl[peft]'): {error}"
    ) from error

_COLLATES = {"pad_token_id", "max_length", "truncation_mode", "pad_to_multiple_of"}
_TRAINS = ("compute_loss", "compute_ref_log_probs", "_precompute_ref_logps", "_set_signature_columns_if_needed")
_OF_SUMS = frozenset(
    "sigmoid hinge exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop".split()
)
"""Losses that know a response by its sum of log-probs alone; the others count tokens, which with fractions differ."""
_WEIGHTS = "token_weights"


def _differs(what: str) -> ImportError:
    return ImportError(f"maskdpo_ray.trl: expected trl as {TESTED} works, with {what}, got {trl.__version__}")


if absent := _COLLATES - {field.name for field in fields(DataCollatorForPreference)}:
    raise _differs(f"DataCollatorForPreference({', '.join(sorted(absent))})")
if lacking := [name for name in _TRAINS if not hasattr(DPOTrainer, name)]:
    raise _differs(f"DPOTrainer.{lacking[0]}")


@dataclass
class MaskCollator(DataCollatorForPreference):
    """Batches of masked pairs; TRL's own `DPOTrainer` takes it too, with `DPOConfig(remove_unused_columns=False)`.

    It trains on the token ids in the file, as they were sampled, and not on those that TRL makes of the text. The value
    of `pad_token_id` makes no difference: padding stands on the right, and nothing attends to it.
    """

    pad_token_id: int = 0
    weighs: bool = False
    """Whether the trainer multiplies by fractions and keeps its own reference log-probs: `MaskDPOTrainer` does."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch, with `completion_mask` 1 where a token has weight; and the weights if one is a fraction.

        Raises DataError for rows that are no masked pairs; ConfigError, one line, for what needs `MaskDPOTrainer`.
        """
        sides = {name: [masked_pairs.side(example, name) for example in examples] for name in SIDES}
        given = [dict(example) for example in examples]
        for name, found in sides.items():
            for example, (tokens, _) in zip(given, found, strict=True):
                example["prompt_ids"] = list(example[masked_pairs.PROMPT])
                example[f"{name}_ids"] = list(tokens)
        if "ref_chosen_logps" in given[0] and not self.weighs:
            # Its cache doesn't know of the mask: it may hold log-probs of whole answers.
            raise ConfigError("precompute_ref_log_probs: expected MaskDPOTrainer, got another trainer")
        batch: dict[str, Any] = super().torch_call(given)
        if not {"input_ids", "completion_mask"} <= batch.keys():
            raise _differs("input_ids and completion_mask in a batch")
        weights = torch.zeros(batch["input_ids"].shape)
        rows = (pair for found in sides.values() for pair in zip(examples, found, strict=True))
        for row, (example, (_, of_side)) in enumerate(rows):
            kept = self._cut([0.0] * len(example[masked_pairs.PROMPT]) + list(of_side))
            weights[row, : len(kept)] = torch.tensor(kept)
        batch["completion_mask"] = (weights != 0).long()
        if not torch.equal(weights, batch["completion_mask"].float()):
            if not self.weighs:
                raise ConfigError("weights between 0 and 1 (mask.confidence): expected MaskDPOTrainer, got another")
            batch[_WEIGHTS] = weights
        return batch

    def _cut(self, row: list[float]) -> list[float]:
        if self.max_length is None:
            return row
        return row[-self.max_length :] if self.truncation_mode == "keep_end" else row[: self.max_length]


if TYPE_CHECKING:
    from trl import DPOTrainer as _Base
else:
    _Base = object


class MaskDPOMixin(_Base):
    """Mask-DPO for a subclass of TRL's `DPOTrainer` of your own: `class Mine(MaskDPOMixin, TheirDPOTrainer)`."""

    _signature_columns: list[str] | None

    def __init__(self, *args: Any, data_collator: MaskCollator | None = None, **kwargs: Any) -> None:
        """Take what `DPOTrainer` takes; by default the batches are those of a `MaskCollator`.

        Raises ConfigError, one line, for another collator; so do steps for a loss that fractions are not defined for.
        """
        given = next((each for each in (*args, *kwargs.values()) if isinstance(each, DPOConfig)), DPOConfig)
        if data_collator is None:
            data_collator = MaskCollator(
                max_length=given.max_length,
                truncation_mode=given.truncation_mode,
                pad_to_multiple_of=given.pad_to_multiple_of,
            )
        elif not isinstance(data_collator, MaskCollator):
            raise ConfigError(f"data_collator: expected a MaskCollator, got {type(data_collator).__name__}")
        self._is_checked = False
        super().__init__(*args, data_collator=replace(data_collator, weighs=True), **kwargs)

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss on weighted sums."""
        num_passes = 1 if "ref_chosen_logps" in inputs else 2
        with self._weighed(inputs, num_passes) as batch:
            return super().compute_loss(model, batch, *args, **kwargs)

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """Weighted sums of log-probs under the reference."""
        with self._weighed(inputs, 1) as batch:
            return super().compute_ref_log_probs(model, batch)

    @contextmanager
    def _weighed(self, inputs: Mapping[str, Any], num_passes: int) -> Iterator[dict[str, Any]]:
        """The batch without its weights, by which log-probs are multiplied within the block."""
        batch = dict(inputs)
        weights = batch.pop(_WEIGHTS, None)
        if weights is not None:
            self._refuse_counts_of_tokens()
        elif self._is_checked:
            yield batch
            return
        else:
            weights = batch["completion_mask"]
        weights, passes = weights[:, 1:], []

        def hook(module: Any, args: Any, output: Any) -> Any:
            logps = getattr(output, "log_probs", None)
            if logps is None:
                return output  # a pass for `compute_metrics`
            passes.append(module)
            # With prompt tuning, log-probs of virtual tokens stand before these.
            logps = logps[:, -weights.shape[1] :]
            if logps.shape != weights.shape or (not self._is_checked and bool(logps[weights == 0].any())):
                raise _differs("log_probs that are 0 where completion_mask is")
            output.log_probs = logps * weights.to(logps)
            return output

        models = [model for model in (self.model, self.ref_model) if model is not None]
        hooks = [model.register_forward_hook(hook) for model in models]
        try:
            yield batch
        finally:
            for each in hooks:
                each.remove()
        if len(passes) != num_passes:
            raise _differs(f"log_probs of {num_passes} passes in a step and not {len(passes)}")
        self._is_checked = True

    def _refuse_counts_of_tokens(self) -> None:
        counts = [name for name in self.loss_types if name not in _OF_SUMS]
        if counts or self.ld_alpha is not None or self.use_weighting:
            got = counts[0] if counts else "ld_alpha" if self.ld_alpha is not None else "use_weighting"
            expected = f"with weights between 0 and 1, one of {', '.join(sorted(_OF_SUMS))}"
            raise ConfigError(f"loss_type: expected {expected}, as others count tokens, got {got}")

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        # TRL caches these by data set and model: those of plain DPO, or cut elsewhere, would be taken for ours.
        if isinstance(dataset, datasets.Dataset):
            fingerprint = Hasher.hash((dataset._fingerprint, asdict(self.data_collator)))
            dataset = dataset.select(range(len(dataset)), new_fingerprint=fingerprint)
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*(self._signature_columns or ()), *masked_pairs.COLUMNS]


class MaskDPOTrainer(MaskDPOMixin, DPOTrainer):
    """TRL's `DPOTrainer` with weights of tokens: all its arguments, on pairs that `export --to masked` wrote."""
