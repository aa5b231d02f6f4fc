"""Losses by TRL's own trainers, bound to stand-ins whose models return given log-probs or logits."""

from __future__ import annotations

from collections import defaultdict
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from objective_batches import Tokens

from maskdpo_ray.training.objectives.protocol import Batch, sums

_ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


class _GivenLogProbs(torch.nn.Module):
    """Returns the log-probs that it has for a batch's first row of ids, one after the other."""

    is_gradient_checkpointing = False

    def __init__(self, *log_probs: torch.Tensor) -> None:
        super().__init__()
        self.log_probs = log_probs

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        log_probs = self.log_probs[int(input_ids[0, 0])]
        zeros = torch.zeros_like(log_probs).detach()
        return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), loss=None)


def inputs(weights: torch.Tensor, number: int = 0) -> dict[str, torch.Tensor]:
    """One prompt token, whose id is `number`, before each response of ones."""
    completion = torch.nn.functional.pad(weights, (1, 0)).long()
    ids = torch.full_like(completion, number)
    return {"input_ids": ids, "attention_mask": torch.ones_like(completion), "completion_mask": completion}


def dpo_trainer(policy: torch.Tensor, reference: torch.Tensor, loss_type: str, beta: float, **options: Any) -> Any:
    """A stand-in for `DPOTrainer`, with its defaults; log-probs as [2B, T]."""
    return SimpleNamespace(
        model=_GivenLogProbs(policy),
        ref_model=_GivenLogProbs(reference),
        beta=beta,
        loss_types=[loss_type],
        loss_weights=[1.0],
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=False,
        use_weighting=False,
        f_divergence_type="reverse_kl",
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        accelerator=_ACCELERATOR,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **{"label_smoothing": 0.0} | options,
    )


def dpo(given: Tokens, loss_type: str, beta: float, **options: Any) -> torch.Tensor:
    """Loss of `DPOTrainer`, the mean over pairs."""
    from trl import DPOTrainer

    # Log-probs outside of a response are 0 in TRL.
    policy, reference = given.policy * given.weights, given.reference * given.weights
    trainer = dpo_trainer(policy, reference, loss_type, beta, **options)
    return DPOTrainer._compute_loss(trainer, trainer.model, inputs(given.weights), return_outputs=False)


def kto(given: Tokens, mismatched: Tokens, beta: float, desirable: float, undesirable: float) -> torch.Tensor:
    """Loss of `KTOTrainer`, the mean over responses, whose estimate of the divergence is over `mismatched`."""
    from trl import KTOTrainer

    models = [
        _GivenLogProbs(getattr(given, name) * given.weights, getattr(mismatched, name) * mismatched.weights)
        for name in ("policy", "reference")
    ]
    trainer = SimpleNamespace(
        model=models[0],
        ref_model=models[1],
        beta=beta,
        loss_type="kto",
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        calculate_KL=True,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        accelerator=_ACCELERATOR,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    trainer._compute_kl_logps = MethodType(KTOTrainer._compute_kl_logps, trainer)
    count = len(given.policy) // 2
    of_both = inputs(given.weights) | {f"KL_{k}": v for k, v in inputs(mismatched.weights, 1).items()}
    of_both["label"] = torch.arange(2 * count) < count
    return KTOTrainer._compute_loss(trainer, trainer.model, of_both, return_outputs=False)


class Logits:
    """B pairs of responses after a prompt, and the logits of a model that is a table: for CPO and ORPO."""

    def __init__(self, num_pairs: int, seed: int = 0, prompt: int = 0, length: int = 6, vocabulary: int = 7) -> None:
        """`prompt`: tokens of it after the first one, which has no log-prob."""
        generator = torch.Generator().manual_seed(seed)
        self.prompt, self.count = prompt + 1, num_pairs
        size = (2 * num_pairs, self.prompt + length)
        self.ids = torch.randint(vocabulary, size, generator=generator)
        self.logits = torch.randn(*size, vocabulary, generator=generator, dtype=torch.float64).requires_grad_()
        lengths = torch.randint(1, length + 1, (2 * num_pairs, 1), generator=generator)
        self.weights = (torch.arange(length) < lengths).double()

    def batch(self) -> Batch:
        """The same for our objectives, weights all one."""
        logps = self.logits.log_softmax(-1)[:, self.prompt - 1 : -1]
        logps = logps.gather(2, self.ids[:, self.prompt :, None])[..., 0]
        responses = sums(logps, None, self.weights)
        return Batch(responses[: self.count], responses[self.count :])

    def loss(self, trainer: type, of_pairs: str, **attributes: Any) -> torch.Tensor:
        """Loss of CPOTrainer or ORPOTrainer, whose method `of_pairs` has the preference term."""
        stand_in = SimpleNamespace(
            is_encoder_decoder=False,
            aux_loss_enabled=False,
            pad_token_id=0,
            padding_value=0,
            accelerator=_ACCELERATOR,
            get_batch_logps=trainer.get_batch_logps,  # type: ignore[attr-defined]
            concatenated_inputs=trainer.concatenated_inputs,  # type: ignore[attr-defined]
            **attributes,
        )
        for name in ("concatenated_forward", of_pairs):
            setattr(stand_in, name, MethodType(getattr(trainer, name), stand_in))

        def model(*_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(logits=self.logits)

        mask = torch.nn.functional.pad(self.weights.long(), (self.prompt, 0), value=1)
        labels = torch.where(mask == 1, self.ids, -100)
        labels[:, : self.prompt] = -100
        columns = {}
        for role, rows in (("chosen", slice(None, self.count)), ("rejected", slice(self.count, None))):
            of_role = {"input_ids": self.ids[rows], "attention_mask": mask[rows], "labels": labels[rows]}
            columns |= {f"{role}_{name}": value for name, value in of_role.items()}
        return trainer.get_batch_loss_metrics(stand_in, model, columns)[0]  # type: ignore[attr-defined]


def agree(ours: torch.Tensor, theirs: torch.Tensor, leaf: torch.Tensor) -> None:
    """Assert two losses and their gradients the same within 1e-6."""
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=1e-6, rtol=0)
    own, other = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(own, other, atol=1e-6, rtol=0)
    assert own.any()
