"""A judge of one's own: a vLLM engine inside the annotation actor."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from actors.vllm_process import CONFIG, Guard, colocated_args, set_environment, wake
from maskdpo_ray.annotation.llm import thoughts
from maskdpo_ray.annotation.llm.judge import Conversation, Reply, require, require_count, require_reply_options
from maskdpo_ray.config.schema import ModelName
from maskdpo_ray.errors import AnnotatorError, OptionError, one_line, shown
from maskdpo_ray.models import folder, hub, other_folders

Result = TypeVar("Result")
_CPU_BLOCK = 32
"""Tokens; the fewest for which vLLM has fast CPU kernels."""
_PROMPT_END = 32
"""Tokens at the end of a prompt that are searched for a tag that opens a thinking block."""


class VllmJudge:
    """One vLLM `AsyncLLM` with an event loop of its own, so that several threads fill one batch."""

    def __init__(
        self,
        model: ModelName,
        device: str = "cuda",
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        max_num_seqs: int = 256,
        enforce_eager: bool = False,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        threads: int | None = None,
        cpu_kv_cache_gib: int = 2,
        stop: str | Sequence[str] | None = None,
        max_completion_tokens: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        thinking: Mapping[str, str] | None = None,
    ) -> None:
        """Only the tokenizer is loaded, to try its chat template.

        Args:
            model: Hugging Face folder, on the driver's node and on annotation nodes, or the name of a model on the Hub.
            device: `cuda` or `cpu`.
            dtype, tensor_parallel_size, max_model_len, gpu_memory_utilization, max_num_seqs, enforce_eager: vLLM's.
            chat_template: Jinja file, in place of the model's own template.
            trust_remote_code: whether to run code from the model folder.
            threads: CPU cores of the engine, all by default; on CPU only.
            cpu_kv_cache_gib: memory of the KV cache; on CPU only.
            stop: one or several stop strings.
            max_completion_tokens: longest reply including thinking, for a model that thinks; None: the reply's limit.
            chat_template_kwargs: arguments of the chat template, such as `enable_thinking: false`.
            thinking: {open, close}, tags of a thinking block in addition to the known ones.

        Raises:
            OptionError: one line, about any of these; ModelError and AnnotatorError about the model's files.
        """
        is_model = isinstance(model, str) and os.path.isfile(os.path.join(model, "config.json"))
        if not is_model:
            instead = other_folders.described(model) if isinstance(model, str) else ""
            raise OptionError(f"model: expected a Hugging Face folder with config.json, got {shown(model)}{instead}")
        require(device in ("cuda", "cpu"), "device", "cuda or cpu", device)
        dtypes = ("auto", "bfloat16", "float16", "float32")
        require(dtype in dtypes, "dtype", f"one of {', '.join(dtypes)}", dtype)
        is_share = type(gpu_memory_utilization) in (int, float) and 0 < gpu_memory_utilization <= 1
        require(is_share, "gpu_memory_utilization", "above 0 to 1", gpu_memory_utilization)
        counts = {"tensor_parallel_size": tensor_parallel_size, "max_num_seqs": max_num_seqs}
        optional = {"max_model_len": max_model_len, "threads": threads}
        counts |= {"cpu_kv_cache_gib": cpu_kv_cache_gib, **{k: v for k, v in optional.items() if v is not None}}
        for name, value in counts.items():
            require_count(name, value)
        for name, value in {"enforce_eager": enforce_eager, "trust_remote_code": trust_remote_code}.items():
            require(type(value) is bool, name, "true or false", value)
        is_file = chat_template is None or (isinstance(chat_template, str) and os.path.isfile(chat_template))
        require(is_file, "chat_template", "a Jinja file", chat_template)
        self._template = Path(chat_template).read_text(encoding="utf-8") if chat_template else None
        is_blank = self._template is not None and not self._template.strip()
        require(not is_blank, "chat_template", "a template that is not empty", chat_template)
        require(any(Path(model).glob("*.safetensors")), "model", "a folder with safetensors", model)
        folder.refuse_damaged_weights(Path(model))
        require_reply_options(stop, max_completion_tokens, chat_template_kwargs)
        self._stop = stop if stop is None or isinstance(stop, str) else list(stop)
        self._template_kwargs = dict(chat_template_kwargs or {})
        self.max_completion_tokens = max_completion_tokens
        self.thinking = thoughts.from_option(thinking)
        self._model = model
        self.max_model_len = max_model_len
        self._environment = (device, threads, cpu_kv_cache_gib)
        self._guard = Guard(f"judge {model}: vLLM", device, "judge_options.")
        self._trust_remote_code = trust_remote_code
        self._engine_args = {
            "model": model,
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_seqs": max_num_seqs,
            "enforce_eager": enforce_eager,
            "trust_remote_code": trust_remote_code,
            "load_format": "safetensors",  # vLLM's own choice may be a pickle
            "enable_prefix_caching": True,
            # Only whole blocks are shared: vLLM's 128 on CPU would be read again for every turn.
            "block_size": _CPU_BLOCK if device == "cpu" else None,
            # Greedy, whatever the model folder's generation_config says.
            "generation_config": "vllm",
            "additional_config": CONFIG,
            "disable_log_stats": True,
        }
        self.num_gpus = self.gpus_of({"device": device, "tensor_parallel_size": tensor_parallel_size})
        self._tokenizer: Any = None
        self._engine: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._num_requests = 0
        self.prompt_tokens = 0
        """Tokens of all prompts so far."""
        self.cached_tokens = 0
        """Those of them that the prefix cache held."""
        self._open_tokenizer()
        self._tokenizer = None  # each actor opens its own

    @staticmethod
    def gpus_of(options: Mapping[str, Any]) -> int:
        """GPUs that a judge of these options runs on. Raises OptionError."""
        count: int = options.get("tensor_parallel_size", 1)
        require_count("tensor_parallel_size", count)
        return count if options.get("device", "cuda") == "cuda" else 0

    def start(self) -> None:
        """Load tokenizer and engine, or wake the engine. Raises UserError, one line, when one can't be had."""
        if self._engine is not None:
            with self._guard.start("did not wake"):
                self._run(wake(self._engine, "reload_weights"))
            return
        if self._loop is None:
            device, threads, gib = self._environment
            set_environment(device, threads or len(os.sched_getaffinity(0)), gib)
            self._model = self._engine_args["model"] = hub.here(self._model)
            self._open_tokenizer()
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True, name="judge").start()
        with self._guard.start():
            self._run(self._open())

    def rest(self) -> None:
        """Give back the memory of weights and KV cache until `start`; no conversation may be under way.

        vLLM sleeps on a GPU and ends on a CPU, where it can't sleep. Raises ActorLost when that fails.
        """
        with self._guard.start("did not go to sleep"):
            if self.num_gpus:
                self._run(self._engine.sleep(level=2))
            else:
                self.close()

    def _open_tokenizer(self) -> None:
        """Load the tokenizer and try its chat template. Raises UserError, one line."""
        tokenizer = folder.read_tokenizer(Path(self._model), self._trust_remote_code)
        tokenizer.chat_template = self._template or tokenizer.chat_template
        if not tokenizer.chat_template:
            raise OptionError(f"model: expected a chat template in {self._model!r} or as chat_template, got none")
        self._tokenizer = tokenizer
        # Thinking tags that are special tokens would not appear in the text.
        special = [str(token) for token in tokenizer.all_special_tokens]
        self._shows_special = any(token in tag for tags in self.thinking for tag in tags for token in special if token)
        self._render([{"role": role, "content": "Hello."} for role in ("user", "assistant", "user")])

    async def _open(self) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._engine_args, **colocated_args()))

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        """See `Judge.ask`; a conversation that leaves no room for `max_tokens` in the context has that as its fault.

        Raises ActorLost, one line, when vLLM is gone.
        """
        with self._guard.use():
            return self._run(self._ask_all(conversations, max_tokens))

    async def _ask_all(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        return await asyncio.gather(*(self._ask(conversation, max_tokens) for conversation in conversations))

    async def _ask(self, conversation: Conversation, max_tokens: int) -> Reply:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        prompt = self._render(conversation)
        max_tokens = self.max_completion_tokens or max_tokens
        context = self._engine.model_config.max_model_len
        if len(prompt) + max_tokens > context:
            return Reply("", fault=f"{len(prompt)} tokens and {max_tokens} to come are over the judge's {context}")
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop=self._stop,
            logprobs=0,
            skip_special_tokens=not self._shows_special,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._num_requests += 1
        name, final = f"judge/{self._num_requests}", None
        async for output in self._engine.generate(TokensPrompt(prompt_token_ids=prompt), parameters, name):
            final = output
        assert final is not None
        self.prompt_tokens += len(prompt)
        self.cached_tokens += final.num_cached_tokens or 0
        (answer,) = final.outputs
        is_cut = answer.finish_reason == "length"
        text = thoughts.opened(self._tokenizer.decode(prompt[-_PROMPT_END:]), self.thinking) + answer.text
        return Reply(text, answer.cumulative_logprob, f"cut off at {max_tokens} tokens" if is_cut else None)

    def _render(self, conversation: Conversation) -> list[int]:
        from jinja2 import TemplateError

        try:
            ids = self._tokenizer.apply_chat_template(
                [dict(message) for message in conversation],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                tokenizer_kwargs={"verbose": False},  # without its warning about long prompts
                **self._template_kwargs,
            )
        except TemplateError as error:
            raise AnnotatorError(
                f"judge {self._model}: expected messages that its chat template takes, got: {one_line(error)}"
            ) from None
        return [int(token) for token in ids]

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work` on the judge's loop, for the calling thread."""
        assert self._loop is not None, "start() comes before ask()"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stop vLLM's child processes."""
        if self._engine is not None:
            self._run(self._close())
            self._engine = None

    async def _close(self) -> None:
        self._engine.shutdown()
