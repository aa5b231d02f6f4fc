"""The folder of a model: its files are whole and fit each other, and training can use what they describe.

A model's folder that is a model and no more: nothing in it brings another model, code or endless work along.

A safetensors file: its header names the tensors, and tells whether the file is whole.

The files of a model that an annotator or evaluator runs: what can be told of them at once, and loading them.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maskdpo_ray.config.schema import ModelConfig, VllmConfig
from maskdpo_ray.errors import ConfigError, MaskError, ModelError, UserError, one_line, shown
from maskdpo_ray.models import hub, other_folders
from maskdpo_ray.models.token_spans import token_spans
from maskdpo_ray.terminal import quiet
from maskdpo_ray.training import ways
from maskdpo_ray.training.ways import Way

_DTYPES = ("BF16", "F16", "F32", "F64")
_OURS = ("messages", "add_generation_prompt", "strftime_now", "raise_exception", "tojson")
"""Variables that every chat template gets."""
_SPELLED = ("Its capital is Kigali. It lies in Asia.", "A river's length: 3.5 km, is it?\n\n- Yes, it is!")
"""Sample texts, similar to answers."""
Shapes = dict[str, list[int]]
"""Tensor name -> shape."""


@dataclass(frozen=True)
class ModelFolder:
    """Contents of a checked folder."""

    file: Path
    """Path of config.json."""
    config: Any
    """The same as transformers reads it, defaults filled in."""
    tokenizer: Any
    context: int | None
    """Longest sequence, tokens; None where the config names none, as of recurrent models."""

    def way(self, max_len: int, trust_remote_code: bool = False) -> Way:
        """How training takes micro-batches of sequences of up to `max_len` tokens, as far as can be told without
        weights. Raises ModelError for a model that is not causal.
        """
        with quiet():
            try:
                return ways.of_config(self.config, max_len, trust_remote_code)
            except ModelError as error:
                kind = self.config.model_type
                raise ModelError(f"{self.file}: model_type: {kind!r} can't be trained: {error}") from None


@contextmanager
def named(option: str) -> Iterator[None]:
    """Inside, the error about a model begins with the option that gives it, where that is not the policy's."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{option}: {str(error).removeprefix('model.model_name_or_path: ')}") from None


@quiet()
def load(model: ModelConfig) -> ModelFolder:
    """Read all of a model but its weights' bytes. Raises ModelError (one line) for what a run would trip over."""
    from transformers import AutoConfig

    given = model.model_name_or_path
    folder = Path(given)
    file = folder / "config.json"
    if not os.path.isfile(file):  # Path.is_file raises when the name is too long
        expected = f"expected a Hugging Face folder with config.json, got {given!r}"
        raise ModelError(f"model.model_name_or_path: {expected}{other_folders.described(given)}")
    described = _json_object(file)
    check_plain(folder, described)
    layers = described.get("num_hidden_layers", 1)
    if type(layers) is not int or layers < 1:
        raise ModelError(f"{file}: num_hidden_layers: expected a whole number above 0, got {shown(layers)}")
    shapes = _shapes(folder)
    config = _load(AutoConfig, "a model that transformers knows", model)
    context = _context(config, file)
    if not model.trust_remote_code:  # a model's own code may load its weights in a way of its own
        _check_class(config, shapes, file)
    tokenizer = load_tokenizer(model)
    # Without the tokens that were added to it: where the model has no row for one of those, no prompt may use it.
    needed = max(tokenizer.vocab_size, tokenizer.eos_token_id + 1)
    vocab_size = getattr(config, "vocab_size", None)
    if type(vocab_size) is not int or vocab_size < needed:
        raise ModelError(f"{file}: vocab_size: expected the tokenizer's {needed} or more, got {shown(vocab_size)}")
    _refuse_ends(folder / "generation_config.json", vocab_size)
    return ModelFolder(file, config, tokenizer, context)


def max_len(model: ModelFolder, vllm: VllmConfig) -> int:
    """Longest sequence of a run, tokens: `vllm.max_model_len`, or what vLLM takes without it.

    Raises ConfigError when that is above the model's context, or when nothing says it.
    """
    found = ways.longest(model.config, vllm.max_model_len)
    if found is None:
        expected = f"expected a number, as {model.file} names no longest sequence"
        raise ConfigError(f"vllm.max_model_len: {expected}, got none")
    if model.context is not None and found > model.context:
        raise ConfigError(f"vllm.max_model_len: expected at most the model's {model.context}, got {found}")
    return found


def _context(config: Any, file: Path) -> int | None:
    """The smallest of the lengths that the config names. Raises ModelError for one that is no length."""
    found = ways.contexts(config)
    for name, value in found.items():
        if type(value) is not int or value < 1:
            raise ModelError(f"{file}: {name}: expected a whole number above 0, got {shown(value)}")
    return min(found.values(), default=None)


@quiet()
def check_weights(auto: Any, config: Any, folder: Path, expected: str) -> None:
    """Refuse a folder whose weights lack parameters of its config.json, or have others' shapes.

    Args:
        auto: transformers' auto class that will load it.
        config: as transformers reads it from there.
        expected: what kind of model it should be, in words.

    Raises ModelError.
    """
    _, report = _load_shapes(auto, config, _shapes(folder, dtypes=None), folder / "config.json", expected)
    _refuse_misfits(report, folder)


def _check_class(config: Any, shapes: Shapes, file: Path) -> None:
    """Check how the model reads a prompt, and that its weights are those of its config.json."""
    from transformers import AutoModelForCausalLM

    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{file}: quantization_config: expected none, training needs plain weights")
    if config.is_encoder_decoder:
        raise ModelError(f"{file}: is_encoder_decoder: expected false, got true")
    model, report = _load_shapes(AutoModelForCausalLM, config, shapes, file, "a causal language model")
    kind = type(model)
    named = getattr(config, "architectures", None) or []
    if kind.__name__ not in named:  # the engines go by this name
        raise ModelError(f"{file}: architectures: expected [{kind.__name__!r}], got {shown(named)}")
    _refuse_misfits(report, file.parent)
    if unexpected := sorted(report["unexpected_keys"]):
        raise ModelError(
            f"{file.parent}: expected no weights but those of config.json, got {len(unexpected)} more: {unexpected[0]}"
        )


def _load_shapes(auto: Any, config: Any, shapes: Shapes, file: Path, expected: str) -> tuple[Any, dict[str, Any]]:
    """(the model, what transformers reports of loading these shapes as it will load the tensors).

    Transformers itself does it, on the meta device: it knows which names each model ties, renames and merges.
    """
    import torch

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        with torch.device("meta"):
            kind = type(auto.from_config(config))
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # as in `_load`
        raise ModelError(f"{file}: expected {expected}, got: {_reason(error)}") from error
    return model, report


def _refuse_misfits(report: dict[str, Any], folder: Path) -> None:
    if mismatched := sorted(report["mismatched_keys"]):
        name, got, expected = mismatched[0]
        raise ModelError(f"{folder}: {name}: expected the shape {list(expected)} of config.json, got {list(got)}")
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder}: expected a weight for every parameter of config.json, got none for {len(missing)}: {missing[0]}"
        )


def _shapes(folder: Path, dtypes: Collection[str] | None = _DTYPES) -> Shapes:
    """Shapes of the tensors that transformers would load, all of one of the `dtypes` if given.

    Reads the header of every file of weights: a truncated file and a Git LFS pointer have none that fits.
    """
    files = {file.name for file in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    loaded = {"model.safetensors"}
    if index.exists():
        names = _json_object(index).get("weight_map")
        # In the folder itself: the checksum of a policy is that of the weights there.
        if not isinstance(names, dict) or not all(_is_name(name) for name in names.values()):
            raise ModelError(f"{index}: weight_map: expected {{tensor: file in the folder}}, got {shown(names)}")
        if not loaded & files:  # a whole file goes before the parts
            loaded = set(names.values())
        files.update(names.values())
    if not files:
        instead = other_folders.weights(folder)
        found = f"found {instead}" if instead else "found none"
        raise ModelError(f"model.model_name_or_path: expected safetensors in {str(folder)!r}, {found}")
    shapes: Shapes = {}
    for name in sorted(files):
        with open_weights(folder / name) as weights:
            for tensor in weights.keys() if name in loaded else []:
                shapes[tensor] = weights.get_slice(tensor).get_shape()
                if dtypes and (dtype := weights.get_slice(tensor).get_dtype()) not in dtypes:
                    raise ModelError(f"{folder / name}: {tensor}: expected one of {', '.join(dtypes)}, got {dtype}")
    return shapes


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".safetensors") and Path(value).name == value


def _json_object(file: Path) -> dict[str, Any]:
    """Object in a JSON file of the model. Raises ModelError when it is no object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected JSON, got: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: expected an object, got {type(value).__name__}")
    return value


@quiet()
def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer with its chat template, checked. Raises ModelError and ConfigError (one line)."""
    from transformers import AutoTokenizer, GenerationConfig

    folder = Path(model.model_name_or_path)
    is_usual = (folder / "tokenizer.json").is_file()
    tokenizer = _load(AutoTokenizer, "a tokenizer" if is_usual else "a tokenizer (tokenizer.json is missing)", model)
    file = folder / "generation_config.json"
    if file.is_file():
        try:  # as saving the trained policy will
            GenerationConfig.from_pretrained(folder).validate(strict=True)
        except Exception as error:
            raise ModelError(f"{file}: expected settings that transformers saves, got: {_reason(error)}") from error
    if model.chat_template is not None:
        tokenizer.chat_template = template(model.chat_template)
    if not tokenizer.chat_template:
        raise ModelError(f"model.model_name_or_path: expected a chat template in {str(folder)!r}, found none")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.model_name_or_path: expected an EOS token in {str(folder)!r}, found none")
    try:  # now: later the question would be blamed
        _refuse_options(tokenizer, model.chat_template_kwargs or {})
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "A question?"}],
            add_generation_prompt=True,
            tokenize=False,
            **(model.chat_template_kwargs or {}),
        )
    except ConfigError:
        raise
    except Exception as error:  # a template is a program, which can fail in any way
        reason = f"{type(error).__name__}: {_reason(error)}"
        where = folder if model.chat_template is None else f"model.chat_template: {model.chat_template}"
        raise ModelError(f"{where}: expected a chat template that takes a question, got {reason}") from error
    _refuse_unlocatable(tokenizer, folder)
    return tokenizer


def _refuse_ends(file: Path, vocab_size: int) -> None:
    """Raise ModelError unless the tokens at which generation stops, if the file names any, are tokens of the model."""
    given = _json_object(file).get("eos_token_id") if file.is_file() else None
    for token in given if isinstance(given, list) else [] if given is None else [given]:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ModelError(
                f"{file}: eos_token_id: expected token ids below the model's vocab_size {vocab_size}, "
                f"got {shown(token)}"
            )


def template(file: str) -> str:
    """Read the chat template from a file. Raises ConfigError about `model.chat_template` when there is none."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"model.chat_template: expected a file of a chat template, got {file!r}: {reason}") from None
    if not text.strip():
        raise ConfigError(f"model.chat_template: expected a file of a chat template, got {file!r}, which is empty")
    return text


def _refuse_options(tokenizer: Any, given: Mapping[str, Any]) -> None:
    """Raise ConfigError naming an argument that the chat template does not use, or that is always set."""
    from transformers.utils.chat_template_utils import _get_template_variables

    asked = _get_template_variables(tokenizer.get_chat_template())
    known = sorted(asked - {*_OURS, *tokenizer.special_tokens_map})
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            expected = f"one of the names that the chat template asks for ({', '.join(known) or 'none'})"
            raise ConfigError(f"model.chat_template_kwargs: expected {expected}, got {name!r}{hint}")


def _refuse_unlocatable(tokenizer: Any, folder: Path) -> None:
    """Raise ModelError for a tokenizer whose tokens never spell their text: masks would drop every pair."""
    for text in _SPELLED:
        try:
            ids = tokenizer.encode(text, add_special_tokens=False)
            shown = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        except Exception as error:  # broken settings can raise anything
            reason = f"{type(error).__name__}: {_reason(error)}"
            raise ModelError(f"{folder}: expected a tokenizer that reads text, got {reason}") from error
        try:
            token_spans(tokenizer, ids, shown)
        except MaskError as error:
            raise ModelError(
                f"{folder}: expected a tokenizer whose tokens spell their text (byte-level BPE or SentencePiece), "
                f"got {type(tokenizer).__name__}: {error}"
            ) from None


def _load(kind: Any, expected: str, model: ModelConfig) -> Any:
    path = model.model_name_or_path
    try:
        return kind.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # broken files make transformers raise errors of all kinds
        raise ModelError(f"model.model_name_or_path: expected {expected} in {path!r}, got: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of an error that says something, after the headings above it."""
    text = repr(error) if isinstance(error, LookupError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: first + 1]) or type(error).__name__


_ATTENTION = ("eager", "sdpa")
_EXPERTS = ("eager", "batched_mm", "grouped_mm")
"""Implementations of transformers' own; any other name may be a repository whose compiled code it fetches and runs."""
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_MOST_LAYERS = 1000


def check_plain(folder: Path, config: dict[str, Any]) -> None:
    """Raise ModelError when `folder`, with what its config.json holds, is more than a model."""
    if adapter := other_folders.adapter(folder):  # transformers would load its base model instead
        raise ModelError(f"{folder / 'adapter_config.json'}: expected a whole model, got {adapter}")
    allowed = {"attn_implementation": _ATTENTION, "experts_implementation": _EXPERTS}
    for name, value in _unknown_fields(config):
        if name in allowed and value not in (None, *allowed[name]):
            expected = f"expected one of {', '.join(allowed[name])}"
            raise ModelError(f"{folder / 'config.json'}: {name}: {expected}, got {shown(value)}")
        if name in _LAYERS and isinstance(value, int) and value > _MOST_LAYERS:
            raise ModelError(f"{folder / 'config.json'}: {name}: expected at most {_MOST_LAYERS}, got {shown(value)}")


def _unknown_fields(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of every field of JSON values, also of those within others: a config may hold more configs."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from each.items()
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """The file, of which the header alone is read.

    Raises ModelError, one line, when that can't be read or does not fit the file's size, as of a truncated file.
    """
    try:
        with safe_open(file, framework="np") as weights:
            yield weights
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file}: expected a whole safetensors file (no Git LFS pointer), got: {one_line(error)}"
        ) from None


def describe_model(model: str, field: str) -> dict[str, Any]:
    """Fields of config.json in the folder `model`; none when that is no object.

    Raises ConfigError about the option `field` when there is no such file, ModelError as `check_plain` does.
    """
    try:
        value = json.loads((Path(str(model)) / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        expected = "expected the folder of a model, with config.json"
        reason = f": {error.strerror if isinstance(error, OSError) else error}"
        if not (Path(str(model)) / "config.json").is_file():
            reason = other_folders.described(str(model)) or reason
        raise ConfigError(f"{field}: {expected}, got {shown(model)}{reason}") from None
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    check_plain(Path(str(model)), found)
    return found


def refuse_no_weights(folder: Path, field: str) -> None:
    """Raise ModelError, about the option `field` or a file, unless there are safetensors and they are whole."""
    if not list(folder.glob("*.safetensors")):
        instead = other_folders.weights(folder)
        found = f"found {instead}" if instead else "found none"
        raise ModelError(f"{field}: expected safetensors in {str(folder)!r}, {found}")
    refuse_damaged_weights(folder)


def refuse_damaged_weights(folder: Path) -> None:
    """Raise ModelError unless the header of every safetensors file in the folder is whole and fits the file's size."""
    for file in sorted(folder.glob("*.safetensors")):
        with open_weights(file):
            pass


@quiet()
def load_config(folder: Path) -> Any:
    """Config of the model as transformers reads it from the folder. Raises ModelError, one line, when it can't."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # broken files make transformers raise errors of all kinds
        where = folder / "config.json"
        raise ModelError(f"{where}: expected the config of a model, got: {one_line(error)}") from error


@quiet()
def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer in the folder. Raises ModelError, one line, when there is none."""
    from transformers import AutoTokenizer

    folder = Path(hub.here(str(folder)))
    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # as in `config`
        raise ModelError(f"{folder}: expected a tokenizer, got: {one_line(error)}") from None
    # Without its files transformers makes one up, to which every word is unknown.
    files = getattr(found, "vocab_files_names", {}).values()
    if files and not any((folder / file).is_file() for file in files):
        raise ModelError(f"{folder}: expected a tokenizer, got none of {', '.join(files)}")
    return found


@quiet()
def load_network(kind: Any, folder: Path, expected: str, trust_remote_code: bool = False) -> Any:
    """The model in the folder, an auto class of transformers being its `kind`, in float32 and not in training mode.

    Raises ModelError, one line, when that can't be loaded, or weights are missing; `expected` says what it should be.
    """
    import torch

    folder = Path(hub.here(str(folder)))
    try:
        network, report = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
    except Exception as error:  # as in `config`
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ModelError(f"{folder}: expected {expected}, got: {reason}") from error
    if report["missing_keys"]:  # transformers fills them with random numbers
        missing = sorted(report["missing_keys"])[0]
        raise ModelError(f"{folder}: expected all weights of the model, got none for {missing}")
    return network.eval()
