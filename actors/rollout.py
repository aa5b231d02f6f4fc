"""A rollout engine: vLLM behind one Ray actor. It samples K answers a prompt and loads new policies.

An engine never samples with weights other than those that the request names: a request carries its
policy, and an engine that holds another one (it was restarted, or a sync was missed) or none (it rests) loads it first.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

from actors import weights
from actors.host import Stored
from actors.process import BusyClock, end_with_raylet
from actors.vllm_process import CONFIG, Guard, colocated_args, set_environment, wake
from maskdpo_ray.config.schema import BATCHED_TOKENS, Config
from maskdpo_ray.errors import ActorLost, ClusterError, RolloutError, one_line, shown
from maskdpo_ray.records import Policy, Rollout, Sampling


@dataclass(frozen=True)
class Request:
    """One question to an engine: one argument, as Ray takes longer for each further one than for all that it holds."""

    question_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    policy: Policy
    """Policy that answers."""
    files: Stored[dict[str, bytes]] | None = None
    """The policy folder's files, for an engine that was restarted on a node that doesn't see `policy.path`."""


def request_seed(run_seed: int, purpose: str, policy_version: int, question_id: str) -> int:
    """31-bit seed of one request: its answers don't depend on the engine, the order or a restart."""
    key = f"{run_seed}/{purpose}/{policy_version}/{question_id}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4]) >> 1


@dataclass(frozen=True)
class Sampled:
    """An engine's reply: answers, and the policy that it held from their first token to their last."""

    policy: tuple[int, str]
    """(version, checksum)"""
    rollouts: tuple[Rollout, ...]


def refuse_faults(reply: object, question_id: str, policy: Policy, num_samples: int) -> None:
    """Raise RolloutError, one line, when `reply` is not `num_samples` answers of `policy` to the question."""
    where = f"question {question_id!r}: expected"
    if not isinstance(reply, Sampled):
        raise RolloutError(f"{where} answers, got {type(reply).__name__}")
    if reply.policy != (policy.version, policy.checksum):
        version, checksum = reply.policy
        raise RolloutError(
            f"{where} answers of policy {policy.version} {policy.checksum[:12]}, got those of {version} {checksum[:12]}"
        )
    got = [(rollout.question_id, rollout.sample, rollout.policy_version) for rollout in reply.rollouts]
    if got != [(question_id, sample, policy.version) for sample in range(num_samples)]:
        raise RolloutError(f"{where} {num_samples} answers in order, got (question, answer, policy) {shown(got)}")


class RolloutEngine:
    """One vLLM `AsyncLLM` and the policy that it holds. It starts with the first call."""

    def __init__(self, config: Config, policy: Policy, threads: int) -> None:
        """`threads` is for a CPU."""
        end_with_raylet()
        set_environment(config.cluster.device, threads, config.vllm.cpu_kv_cache_gib)
        self._config = config
        self._policy = policy
        self._loading = asyncio.Lock()
        self._clock = BusyClock()
        self._looks = weights.Looks()
        self._received: tempfile.TemporaryDirectory[str] | None = None
        self._engine: Any = None
        self._is_up = False
        """Whether the engine holds the policy: not before the first call, nor while it rests."""
        self._guard = Guard("vLLM", config.cluster.device, "vllm.")

    async def ready(self) -> tuple[int, str]:
        """(version, checksum) of the policy that is loaded, once the engine answers.

        Raises ActorLost, one line, when vLLM does not start.
        """
        # Here and not in __init__, whose failure Ray reports without its reason and takes for the actor's last;
        # Ray restarts an actor without asking `ready`.
        if not self._is_up:  # what it holds may lie nowhere here: it came as bytes
            if not await self.has(self._policy):
                at = f"{self._policy.path} on this node"
                raise ClusterError(f"policy version {self._policy.version}: expected it at {at}, found none")
            await self.load(self._policy)
        await self._engine.check_health()
        return self._policy.version, self._policy.checksum

    async def _come_up(self, path: str) -> None:
        """Start vLLM with the policy in folder `path`, or wake it with that. Raises ActorLost."""
        if self._engine is not None:
            with self._guard.start("did not wake"):
                await wake(self._engine, "load_policy", path)
            return
        with self._guard.start():
            await self._open(path)

    async def _open(self, path: str) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_args(self._config, path)))
        if self._config.cluster.device == "cpu":
            await self._engine.collective_rpc("sample_from_top_k")

    async def rest(self) -> None:
        """Give back the memory of weights and KV cache until the next load or question; no request may be running.

        vLLM sleeps on a GPU and ends on a CPU, where it can't sleep. Raises ActorLost when that fails.
        """
        async with self._loading:
            if not self._is_up:
                return
            self._is_up = False
            with self._guard.start("did not go to sleep"):
                if self._config.cluster.device == "cuda":
                    await self._engine.sleep(level=2)
                else:
                    self._engine.shutdown()
                    self._engine = None

    async def generate(self, request: Request) -> Sampled:
        """Sample `request.sampling.n` answers to one prompt with its policy's weights.

        Raises ActorLost when vLLM is gone.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        if request.policy != self._policy or not self._is_up:
            await self.load(request.policy, request.files)
        held, sampling = self._policy, request.sampling
        parameters = SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.ends),
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.prompt_token_ids))
        name = f"{request.question_id}/{request.seed}"
        final: Any = None
        with self._clock, self._guard.use():
            async for output in self._engine.generate(prompt, parameters, name):
                final = output
        if self._policy is not held:
            raise RuntimeError(f"policy {self._policy.version} was loaded in the middle of an answer of {held.version}")
        rollouts = tuple(
            Rollout(
                question_id=request.question_id,
                sample=answer.index,
                token_ids=tuple(answer.token_ids),
                text=answer.text,
                finish_reason=str(answer.finish_reason),
                policy_version=held.version,
            )
            for answer in sorted(final.outputs, key=lambda completion: completion.index)
        )
        return Sampled((held.version, held.checksum), rollouts)

    async def load(self, policy: Policy, files: Stored[dict[str, bytes]] | None = None) -> tuple[int, str]:
        """Load a published policy and forget every cached prefix; no request may be running.

        Starts an engine that has not started yet and wakes one that rests.

        Args:
            policy: what to load; its checksum is compared with the bytes that are read.
            files: the policy folder's files, for nodes that don't see `policy.path`.

        Returns:
            (version, checksum) as loaded.

        Raises:
            RuntimeError: when the bytes are not here or differ from what was published.
            ActorLost: when vLLM is gone, stopped half-way, or does not start or wake.
        """
        async with self._loading:
            if policy == self._policy and self._is_up:
                return policy.version, policy.checksum
            path, received = policy.path, None
            if files is not None and not await self.has(policy):
                received = tempfile.TemporaryDirectory(prefix="maskdpo-policy-")
                weights.unpack(await asyncio.to_thread(files.fetch), received.name)
                path = received.name
            held = Policy(policy.version, path, policy.checksum)
            if not await self.has(held):
                raise RuntimeError(f"policy version {policy.version} at {path}: missing or not the published bytes")
            with self._clock:
                await (self._replace(policy, path) if self._is_up else self._come_up(path))
            self._policy, self._received, self._is_up = policy, received, True
            return policy.version, policy.checksum

    async def _replace(self, policy: Policy, path: str) -> None:
        try:
            with self._guard.use():
                await self._engine.collective_rpc("load_policy", args=(path,))
                if not await self._engine.reset_prefix_cache():
                    raise RuntimeError("the prefix cache could not be reset: requests were still running")
        except Exception as error:
            # From here on the engine holds neither policy whole, and must not answer for either.
            raise ActorLost(f"policy version {policy.version} was loaded in part: {one_line(error)}") from None

    async def prompt_logps(self, token_ids: list[int]) -> list[float]:
        """log p(token t | tokens before t) for t = 1 .. len-1, float32, under the loaded weights."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        final: Any = None
        async for output in self._engine.generate(prompt, parameters, f"logps/{hash(tuple(token_ids))}"):
            final = output
        return [entry[token].logprob for entry, token in zip(final.prompt_logprobs[1:], token_ids[1:], strict=True)]

    async def has(self, policy: Policy) -> bool:
        """Whether this node sees the policy's folder with the published bytes."""
        return await asyncio.to_thread(self._looks.is_here, policy)

    async def busy_seconds(self) -> float:
        """Seconds with at least one request or load under way, since the start."""
        return self._clock.seconds()

    async def until_gone(self) -> None:
        """Never returns: who waits for it learns of the end of this process."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Stop vLLM's child processes."""
        if self._engine is not None:
            self._engine.shutdown()


class WorkerExtension:
    """Mixed into vLLM's worker (its `worker_extension_cls`): to load policies whole."""

    def load_policy(self, path: str) -> None:
        """Load the weights in folder `path`, the LM head included."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_path=path)
        # vLLM 0.29 on CPU multiplies by a packed copy of the LM head. When that is tied to the embeddings,
        # reload_weights leaves the old copy. Remove when tests/e2e/test_weight_sync.py passes without it.
        for layer in self.model_runner.get_model().modules():
            if isinstance(layer, ParallelLMHead) and hasattr(layer, "cpu_linear"):
                layer.quant_method.process_weights_after_loading(layer)

    def sample_from_top_k(self) -> None:
        """See `actors.patches`."""
        from actors.patches import TopKSampler

        sampler = self.model_runner.sampler.topk_topp_sampler
        sampler.forward = TopKSampler(sampler.forward)


def _engine_args(config: Config, path: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        **asdict(config.vllm),  # whose options are vLLM's own, but for the last one below
        "model": path,
        "dtype": config.engine_dtype,
        "seed": config.run.seed,
        # vLLM's own default depends on the caller: 2048 for an engine like this one.
        "max_num_batched_tokens": max(BATCHED_TOKENS[config.cluster.device], config.vllm.max_num_seqs),
        "trust_remote_code": config.model.trust_remote_code,
        "load_format": "safetensors",
        # Sampling defaults are the config's alone, never the model folder's generation_config.
        "generation_config": "vllm",
        "worker_extension_cls": "actors.rollout.WorkerExtension",
        "additional_config": CONFIG,
        "disable_log_stats": True,
        **colocated_args(),
    }
    del arguments["cpu_kv_cache_gib"]
    if config.cluster.device == "cpu":
        # vLLM 0.29 on CPU can't split a seeded prompt's prefill ("CPU Generator does not use
        # offset"). Remove this when a seeded request survives chunked prefill there.
        arguments["enable_chunked_prefill"] = False
    return arguments
