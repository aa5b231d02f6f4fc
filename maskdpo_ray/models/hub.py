"""Models of the Hugging Face Hub as local folders: the one place that asks the Hub for a model.

Files come through huggingface_hub into its cache: HF_HOME says where that is, HF_HUB_OFFLINE that nothing may be asked,
HF_TOKEN (or `hf auth login`) opens private and gated models. The token is never read, kept or shown here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from maskdpo_ray.config import hub_name
from maskdpo_ray.config.hub_name import HubName
from maskdpo_ray.config.schema import ModelConfig
from maskdpo_ray.errors import ModelError, one_line

_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "README.md")
"""Files of config, tokenizer and chat template, and the model's card, which names its licence."""
_WEIGHTS = ("*.safetensors",)
"""No pickles (.bin, .pt): loading one runs code."""
_CODE = ("*.py",)
_LEFT_OUT = ("*/*", "consolidated*")
"""Subfolders (ONNX, checkpoints) and a second copy of the weights, as Mistral's repositories have it."""


def folder(name: HubName, field: str, with_weights: bool = True, with_code: bool = False) -> str:
    """The folder of the cache with a model's files, downloaded first where they are missing.

    Its path tells the commit (`hub_name.of_folder`). Where the Hub can't be reached, the commit of the last download is
    taken, with a note on stderr.

    Args:
        field: the option that names the model, for errors.
        with_weights: whether safetensors are needed; without, only config and tokenizer are downloaded.
        with_code: whether the model's own code is needed (`trust_remote_code`).

    Raises ModelError, one line.
    """
    import httpx
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    unreachable = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else ""
    try:
        if not unreachable and not name.is_fixed:
            unreachable = _look(name, with_weights)
        found = snapshot_download(
            name.repo,
            revision=name.revision,
            allow_patterns=[*_FILES, *(_WEIGHTS if with_weights else ()), *(_CODE if with_code else ())],
            ignore_patterns=list(_LEFT_OUT),
            local_files_only=bool(unreachable),
        )
    except (LocalEntryNotFoundError, httpx.TransportError) as error:
        _refuse_absent(name, field, unreachable or _unreachable(error))
    except HfHubHTTPError as error:
        _refuse_reply(name, field, error.response.status_code, type(error).__name__)
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{field}: expected to download {str(name)!r}, got: {one_line(error)}") from None
    if unreachable and not constants.is_offline_mode():
        print(f"note: {unreachable}; taken from the cache: {hub_name.of_folder(found)}", file=sys.stderr, flush=True)
    return found


def without_weights(model: ModelConfig) -> ModelConfig:
    """The model as a folder that has its config and its tokenizer. Raises ModelError as `folder` does."""
    name = hub_name.parsed(model.model_name_or_path)
    if name is None:
        return model
    return replace(model, model_name_or_path=folder(name, "model.model_name_or_path", with_weights=False))


def here(path: str) -> str:
    """A model's folder on this node: `path`, or, where that is a folder of another node's cache, the same commit in the
    cache of this one. Raises ModelError as `folder` does.
    """
    name = None if os.path.isdir(path) else hub_name.of_folder(path)
    return path if name is None else folder(name, "model")


def _look(name: HubName, with_weights: bool) -> str:
    """Ask the Hub for the model, and say that it will be downloaded; the reason where the Hub can't be reached.

    Raises HfHubHTTPError for a reply that is no model.
    """
    import httpx
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().model_info(name.repo, revision=name.revision).sha
    except httpx.TransportError as error:
        return _unreachable(error)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return f"{constants.ENDPOINT} replies with status {error.response.status_code}"
    config = try_to_load_from_cache(name.repo, "config.json", revision=commit)
    is_here = isinstance(config, str) and (not with_weights or any(Path(config).parent.glob("*.safetensors")))
    if not is_here:
        print(f"download {name.repo}@{commit} from {constants.ENDPOINT}", file=sys.stderr, flush=True)
    return ""


def _unreachable(error: Exception) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT} can't be reached: {one_line(error)}"


def _refuse_absent(name: HubName, field: str, why: str) -> NoReturn:
    at = "" if name.revision is None else f" --revision {name.revision}"
    raise ModelError(
        f"{field}: expected the folder of a model, or a model of the Hub, got {str(name)!r}: there is no such folder, "
        f"and of the Hub's model no whole copy is in the cache ({why}); where there is a network, download it "
        f"beforehand: hf download {name.repo}{at}"
    )


def _refuse_reply(name: HubName, field: str, status: int, kind: str) -> NoReturn:
    """Raise ModelError for a reply of the Hub that is no model."""
    got = f"{field}: expected the folder of a model, or a model of the Hub, got {str(name)!r}: "
    if kind == "RevisionNotFoundError":
        raise ModelError(f"{got}the Hub's {name.repo} has no branch, tag or commit {name.revision!r}")
    if kind == "GatedRepoError" or status == 403:
        raise ModelError(
            f"{got}access is gated: accept its terms on the Hub's page of {name.repo}, then set HF_TOKEN or run "
            "hf auth login"
        )
    if status in (401, 404):
        raise ModelError(
            f"{got}there is no such folder, and the Hub has no such model, or a private one (set HF_TOKEN or run "
            "hf auth login)"
        )
    raise ModelError(f"{got}the Hub replied with status {status}")
