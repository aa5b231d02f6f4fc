"""Upload of a policy to the Hugging Face Hub: checked before a run starts, done at its end, in one commit.

The token comes from HF_TOKEN or `hf auth login`, through huggingface_hub; it is never read, kept or shown here.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maskdpo_ray.config.schema import HubConfig
from maskdpo_ray.errors import ConfigError, ModelError, one_line, require

_WEIGHTS = (".safetensors", ".safetensors.index.json")
"""Ends of files of a repository that go when a policy comes that has none of that name: shards of another number."""


def check(config: HubConfig, dry_run: bool = False) -> None:
    """Refuse what an upload would fail on after the run; makes the repository where it is missing, unless `dry_run`.

    Raises ConfigError, one line: no network, no token, or one that may not write, or a repository of other visibility.
    """
    if config.push is None:
        return
    from huggingface_hub import HfApi, constants, get_token

    repo, start = config.push, f"hub.push: expected to write to {config.push!r} at the end, got"
    if constants.is_offline_mode():
        raise ConfigError(f"{start} HF_HUB_OFFLINE, which keeps from the network")
    if get_token() is None:
        raise ConfigError(f"{start} no token; set HF_TOKEN or run hf auth login")
    api = HfApi()
    with _told(repo, start, ConfigError):
        if dry_run:
            api.whoami()
            return
        api.create_repo(repo, private=config.private, exist_ok=True)
        api.auth_check(repo, write=True)
        is_private = bool(api.model_info(repo).private)
    expected = f"true, as {repo} is private" if is_private else f"false, as {repo} is public"
    require(is_private == config.private, "hub.private", expected, config.private)


def push(config: HubConfig, policy: Path | None, command: Sequence[str]) -> None:
    """Upload the folder `policy` to `hub.push`, if there is one, and say where it is.

    Files that are there already are not sent again.

    Args:
        policy: None where the policy before training is kept, which is not ours to upload.
        command: what repeats the upload.

    Raises ModelError, one line.
    """
    if config.push is None:
        return
    if policy is None:
        print(f"hub.push: the policy before training is kept: nothing is uploaded to {config.push}", flush=True)
        return
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api, files = HfApi(), {file.name: file for file in sorted(policy.resolve().iterdir()) if file.is_file()}
    again = f"{policy} is whole; upload it with: {shlex.join(command)}"
    with _told(config.push, f"hub.push: expected to upload {policy} to {config.push!r}, got", ModelError, f"; {again}"):
        stale = [name for name in api.list_repo_files(config.push) if name.endswith(_WEIGHTS) and name not in files]
        adds = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
        deletes = [CommitOperationDelete(name) for name in stale if "/" not in name]
        made = api.create_commit(config.push, [*deletes, *adds], commit_message="Upload a policy of maskdpo_ray")
    print(f"uploaded {policy} to {made.commit_url}", flush=True)


@contextmanager
def _told(repo: str, start: str, kind: type[ConfigError | ModelError], end: str = "") -> Iterator[None]:
    """Context in which a failing request becomes one line. Raises `kind`."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = {
            401: "the token is not valid (HF_TOKEN goes before hf auth login)",
            403: f"the token may not write to {repo.partition('/')[0]}",
            404: "the Hub has no such repository for this token",
        }
        said = why.get(status) or one_line(error.server_message or error)
        raise kind(f"{start} {said} (status {status}){end}") from None
    except httpx.TransportError as error:
        raise kind(f"{start} {constants.ENDPOINT} can't be reached: {one_line(error)}{end}") from None
    except (ValueError, OSError) as error:  # metadata that the Hub refuses, a file that can't be read
        raise kind(f"{start} {one_line(error)}{end}") from None
    except RuntimeError as error:  # of the upload of one large file
        raise kind(f"{start} {one_line(f'{error} {error.__cause__}')}{end}") from None
