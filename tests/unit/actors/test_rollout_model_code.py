"""A model's folder runs no code: what its config names as code and what lies in it as pickles is left alone.

Each plant would leave a file; docs/security.md says what is promised.
"""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import rollout
from actors.training import TrainingRank
from actors.vllm_judge import VllmJudge
from maskdpo_ray.annotation.classifier import ClassifierAnnotator
from maskdpo_ray.config.schema import Config, DeepspeedConfig, ModelConfig
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.evaluators.perplexity import Perplexity
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import NO_HALLUCINATION, UNVERIFIABLE

REPOSITORY = Path(__file__).resolve().parents[3]
LABELS = {"LABEL_0": NO_HALLUCINATION, "LABEL_1": UNVERIFIABLE}
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({marker!r}).touch()
class Own(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Own
class Tokens(PreTrainedTokenizerFast):
    pass
"""


class Planted:
    """Object whose pickle makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def code(folder: Path, marker: Path) -> None:
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    models = dict.fromkeys(("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "own.Model")
    edit(folder / "config.json", auto_map={"AutoConfig": "own.Own", **models})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.Tokens"]})


def code_of_no_known_type(folder: Path, marker: Path) -> None:
    code(folder, marker)
    edit(folder / "config.json", model_type="own", architectures=["Model"])
    edit(folder / "tokenizer_config.json", tokenizer_class="Tokens")


def pickles(folder: Path, marker: Path) -> None:
    for name in ("pytorch_model.bin", "model.bin", "consolidated.00.pth", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Planted(marker)))
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"model.norm.weight": "pytorch_model.bin"}}')


def pickles_alone(folder: Path, marker: Path) -> None:
    pickles(folder, marker)
    (folder / "model.safetensors").unlink()


def pickled_adapter(folder: Path, marker: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Planted(marker)))
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(folder), "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))


def policy(folder: Path) -> None:
    model_folder.load(ModelConfig(str(folder)))


def rank(folder: Path) -> None:
    trained: Any = TrainingRank(Config(model=ModelConfig(str(folder)), ds=DeepspeedConfig(param_dtype="fp32")), 0, 1)
    trained._strategy = SimpleNamespace(stage=2)
    trained._load(str(folder))


def perplexity(folder: Path) -> None:
    Perplexity(str(folder), 8).start()


def classifier(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", architectures=[*described["architectures"], "LlamaForSequenceClassification"])
    edit(folder / "config.json", id2label=dict(enumerate(LABELS)))
    edit(folder / "tokenizer_config.json", pad_token="</s>")
    ClassifierAnnotator(str(folder), LABELS).start()


def judge(folder: Path) -> None:
    VllmJudge(str(folder), device="cpu")


LOADERS = (policy, rank, perplexity, classifier, judge)
PLANTS = (code, code_of_no_known_type, pickles, pickles_alone, pickled_adapter)


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_nothing_planted_runs(
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[Path, Path], None],
    load: Callable[[Path], None],
) -> None:
    """The model is loaded without what was planted, or refused."""
    monkeypatch.chdir(tmp_path)
    folder, marker = tmp_path / "model", tmp_path / "marker"
    shutil.copytree(small_model, folder)
    plant(folder, marker)
    try:
        load(folder)
    except UserError:
        pass
    except Exception:  # a rank loads what preflight has passed, and nothing else
        assert load is rank
    assert not marker.exists()


@pytest.mark.parametrize("load", [policy, perplexity, classifier, judge], ids=lambda load: load.__name__)
def test_its_config_steers_no_terminal(
    small_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], load: Callable[[Path], None]
) -> None:
    """transformers would repeat the names of fields that it does not know."""
    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    edit(folder / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e4, "\x1b[2J": 1})
    with suppress(UserError):  # the small model is no classifier, which shows once it is loaded
        load(folder)
    assert capfd.readouterr() == ("", "")


def test_the_plants_are_alive(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to trust the folder, we run its code; and the pickle does what it is made for."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = tmp_path / "model", tmp_path / "marker"
    shutil.copytree(small_model, folder)
    code_of_no_known_type(folder, marker)
    model_folder.load(ModelConfig(str(folder), trust_remote_code=True))
    assert marker.exists()
    marker.unlink()
    pickle.loads(pickle.dumps(Planted(marker)))
    assert marker.exists()


def test_engines_load_safetensors_and_trust_nobody(small_model: Path) -> None:
    config = Config(model=ModelConfig(str(small_model)))
    for arguments in (rollout._engine_args(config, str(small_model)), VllmJudge(str(small_model))._engine_args):
        assert (arguments["load_format"], arguments["trust_remote_code"]) == ("safetensors", False)
    assert ModelConfig.trust_remote_code is False  # a rank's


UNSAFE = ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "numpy.load", "np.load", "yaml.unsafe_load")
# Bytes that come from the parent process, as those that start it do; from no file.
FROM_OUR_PROCESSES = (("check_annotator.py", "pickle.loads(pickled)"),)
UNSAFE_NAMES = ("eval", "exec", "compile", "__import__")


def test_no_source_reads_a_pickle_or_runs_a_text() -> None:
    found = []
    for path in (file for folder in ("maskdpo_ray", "actors") for file in (REPOSITORY / folder).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        # With these torch.load and numpy.load run nothing that a file names.
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        without = {"weights_only=True", "allow_pickle=False"}
        safe = [call.func for call in calls if without & set(map(ast.unparse, call.keywords))]
        safe += [call.func for call in calls if (path.name, ast.unparse(call)) in FROM_OUR_PROCESSES]
        for node in nodes:
            if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE and node not in safe:
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_NAMES:
                found.append(f"{path.name}:{node.lineno}: {node.func.id}")
            if isinstance(node, ast.keyword) and node.arg == "shell":
                found.append(f"{path.name}:{node.value.lineno}: shell")
    assert found == []
