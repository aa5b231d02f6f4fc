"""Config files, overrides and help: what is accepted, and the one line that says why something is not."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from processor_time import processor_seconds

from maskdpo_ray.config import schema
from maskdpo_ray.config.cli import fail, parse, read, resolved, shown_default, to_yaml
from maskdpo_ray.config.file import options
from maskdpo_ray.config.schema import Config, MaskConfig, ModelConfig, ObjectiveConfig, PairsConfig, TrainConfig
from maskdpo_ray.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(ROOT.glob("configs/*.yaml"))
MINIMAL = "model: {model_name_or_path: m}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> Config:
    Path("x.yaml").write_text(text, encoding="utf-8")
    return parse(["--config", "x.yaml", *overrides]).config


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_config_loads_and_names_its_run(path):
    assert read(path).run.name == path.stem


def test_shipped_configs_are_the_three():
    assert [path.stem for path in SHIPPED] == ["paper", "quickstart", "smoke"]


def test_quickstart_keeps_what_its_figures_rest_on():
    config = read(ROOT / "configs/quickstart.yaml")
    assert (config.run.iterations, config.train.reference, config.cluster.device) == (3, "previous", "cpu")
    assert (config.data.num_eval_topics, config.data.num_transfer_topics) == (40, 40)
    rollout = config.rollout
    assert (rollout.n_samples_per_prompt, rollout.temperature, rollout.top_k) == (8, 0.8, 40)
    assert (config.train.max_epochs, config.train.batch_size, config.train.beta) == (1, 16, 0.1)
    assert config.mask == MaskConfig(policy="mask_dpo", eos="chosen")


def test_the_recipe_of_mask_dpo_has_none_of_the_quickstarts_tuning():
    config = read(ROOT / "configs/recipes/mask_dpo.yaml")
    assert (config.pairs, config.objective, config.eval.temperature) == (PairsConfig(), ObjectiveConfig(), None)
    assert config.run.keep_kinds is None
    assert config.mask == MaskConfig(policy="mask_dpo", eos="chosen")


def test_paper_config_has_the_papers_hyperparameters():
    """Mask-DPO appendix A."""
    config = read(ROOT / "configs/paper.yaml")
    rollout, train = config.rollout, config.train
    assert (rollout.n_samples_per_prompt, rollout.temperature, rollout.top_k) == (32, 0.8, 40)
    assert (train.max_epochs, train.batch_size, train.beta, train.lr_scheduler) == (3, 64, 0.1, "cosine")
    assert (config.adam.lr, config.ds.zero_stage, config.cluster.device) == (5e-6, 3, "cuda")
    assert config.annotation.annotator == "anah"


BAD_FILES = {
    "wrong number": ("train:\n  beta: abc\n", "x.yaml:2: train.beta: expected a number, got 'abc'"),
    "quoted number": (
        "train: {beta: '0.1'}",
        "x.yaml:1: train.beta: expected a number, got '0.1', which is quoted text",
    ),
    "list for number": ("train: {beta: [0.1]}", "x.yaml:1: train.beta: expected a number, got a list of 1"),
    "nothing for number": ("train:\n  beta:\n", "x.yaml:2: train.beta: expected a number, got nothing"),
    "not a number": ("train: {beta: nan}", "x.yaml:1: train.beta: expected a number, got 'nan'"),
    "infinite": ("adam: {lr: inf}", "x.yaml:1: adam.lr: expected a number, got 'inf'"),
    "fraction": ("run: {seed: 1.5}", "x.yaml:1: run.seed: expected a whole number, got '1.5'"),
    "bool for int": ("run: {seed: true}", "x.yaml:1: run.seed: expected a whole number, got 'true'"),
    "int for bool": ("vllm: {enforce_eager: 1}", "x.yaml:1: vllm.enforce_eager: expected true or false, got '1'"),
    "null for text": ("run: {name: null}", "x.yaml:1: run.name: expected text, got nothing"),
    "mapping for text": ("run: {name: {a: b}}", "x.yaml:1: run.name: expected text, got a mapping"),
    "optional": (
        "vllm: {max_model_len: big}",
        "x.yaml:1: vllm.max_model_len: expected a whole number or none, got 'big'",
    ),
    "choice": (
        "train: {reference: inital}",
        "x.yaml:1: train.reference: expected one of initial, previous, got 'inital'; did you mean initial?",
    ),
    "numeric choice": ("ds: {zero_stage: 4}", "x.yaml:1: ds.zero_stage: expected one of 2, 3, got '4'"),
    "too large a number": (
        f"run: {{iterations: {'9' * 400}}}",
        f"x.yaml:1: run.iterations: expected a whole number, got '{'9' * 76}..., which is too large",
    ),
    "part of a list": ("adam: {betas: [0.9, .nan]}", "x.yaml:1: adam.betas[1]: expected a number, got '.nan'"),
    "short list": ("adam: {betas: [0.9]}", "x.yaml:1: adam.betas: expected a list of 2 numbers, got a list of 1"),
    "long list": ("adam: {betas: [0, 0, 0]}", "x.yaml:1: adam.betas: expected a list of 2 numbers, got a list of 3"),
    "unknown field": ("train:\n  bta: 0.1\n", "x.yaml:2: train.bta: unknown option; did you mean train.beta?"),
    "field of another section": ("train: {lr: 0.1}", "x.yaml:1: train.lr: unknown option; did you mean adam.lr?"),
    "unknown section": ("trian: {beta: 1}", "x.yaml:1: trian: unknown section; did you mean train?"),
    "field at top": ("beta: 1", "x.yaml:1: beta: unknown section; did you mean train.beta?"),
    "dotted key": ("train.beta: 1", "x.yaml:1: train.beta: expected `beta` under `train:`, got a dotted key"),
    "scalar section": ("train: 3", "x.yaml:1: train: expected a mapping of options, got '3'"),
    "twice": ("run:\n  seed: 1\n  seed: 2\n", "x.yaml:3: run.seed: given twice, first in line 2"),
    "section twice": ("run: {seed: 1}\nrun: {seed: 2}\n", "x.yaml:2: run: given twice, first in line 1"),
    "bad yaml": ("run:\n  seed: [1\nmodel:\n", "x.yaml:3: expected YAML, got: expected ',' or ']', but got ':'"),
    "tab": ("run:\n\tseed: 1\n", "x.yaml:2: expected YAML, got: found character '\\t' that cannot start any token"),
    "control character": (
        "run: \x00",
        "x.yaml: expected YAML, got: unacceptable character #x0000: special characters are not allowed",
    ),
    "NUL in text": (
        'data: {train: "a\\0b"}',
        "x.yaml:1: data.train: expected text, got 'a\\x00b', which holds unprintable characters",
    ),
    "line end in text": (
        'run: {name: "a\\nb"}',
        "x.yaml:1: run.name: expected text, got 'a\\nb', which holds unprintable characters",
    ),
    "line end in optional text": (
        'data: {eval: "a\\nb"}',
        "x.yaml:1: data.eval: expected text or none, got 'a\\nb', which holds unprintable characters",
    ),
    "surrogate in text": (
        'run: {name: "\\ud800"}',
        "x.yaml:1: run.name: expected text, got '\\ud800', which holds unprintable characters",
    ),
    "two documents": ("run: {seed: 1}\n---\nrun: {seed: 2}\n", "x.yaml:3: expected one YAML document, got 2"),
    "deep": ("[" * 1000, "x.yaml: expected {section: {field: value}}, got deeper nesting"),
    "python tag": (
        "run: !!python/object:os.system {name: x}\nseed: 1",
        "x.yaml:2: seed: unknown section; did you mean run.seed?",
    ),
    "no model": ("run: {seed: 1}", "x.yaml: model.model_name_or_path: expected the folder of a model, got ''"),
}


@pytest.mark.parametrize("text, message", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_file_gives_one_line(folder, text, message):
    assert error_of(text) == message


BAD_VALUES = {
    "one reply": (
        "atoms: {n_samples_per_prompt: 1}",
        "x.yaml:1: atoms.n_samples_per_prompt: expected 0, or at least 2 (a pair needs two replies), got 1",
    ),
    "questions without atoms": (
        "atoms: {questions: a.jsonl}",
        "x.yaml:1: atoms.questions: expected none without atoms.n_samples_per_prompt, got 'a.jsonl'",
    ),
    "examples without atoms": (
        "atoms: {few_shot: true}",
        "x.yaml:1: atoms.few_shot: expected false without atoms.n_samples_per_prompt, got True",
    ),
    "two sources of answers": (
        "rollout: {model: m, answers: dataset}",
        "x.yaml:1: rollout.model: expected none with rollout.answers dataset: nothing is sampled, got 'm'",
    ),
    "documents for nobody": (
        "rollout: {answers: a.jsonl, chosen_answers: document}",
        "x.yaml:1: rollout.chosen_answers: expected not document with rollout.answers a.jsonl: nothing is sampled, "
        "got 'document'",
    ),
    "save_steps": ("train: {save_steps: -2}", "x.yaml:1: train.save_steps: expected at least -1 (none), got -2"),
    "below range": ("train:\n  beta: -1\n", "x.yaml:2: train.beta: expected above 0, got -1.0"),
    "one answer": (
        "rollout: {n_samples_per_prompt: 1}",
        "x.yaml:1: rollout.n_samples_per_prompt: expected at least 2 (a pair needs two answers), got 1",
    ),
    "folder": ("run: {name: a/b}", "x.yaml:1: run.name: expected a folder name, got 'a/b'"),
    "long name": (f"run: {{name: {'n' * 201}}}", f"x.yaml:1: run.name: expected at most 200 bytes, got '{'n' * 76}..."),
    "long name in Chinese": (
        f"run: {{name: {'名' * 67}}}",
        f"x.yaml:1: run.name: expected at most 200 bytes, got '{'名' * 67}'",
    ),
    "few pairs": (
        "train: {batch_size: 2, num_ranks: 4}",
        "x.yaml:1: train.batch_size: expected at least train.num_ranks (4): a pair for every rank, got 2",
    ),
    "no room": (
        "vllm: {max_model_len: 96}\nrollout: {max_new_tokens: 96}\n",
        "x.yaml:2: rollout.max_new_tokens: expected less than vllm.max_model_len (96), which also holds the "
        "prompt, got 96",
    ),
    "fp32 on GPU": (
        "cluster: {device: cuda}\nds: {param_dtype: fp32}\n",
        "x.yaml:2: ds.param_dtype: expected bf16 when cluster.device is cuda, got 'fp32'",
    ),
    "offload on CPU": (
        "ds: {adam_offload: on}\n",
        "x.yaml:1: ds.adam_offload: expected false when cluster.device is cpu (nothing to offload to), got True",
    ),
    "mask policy": (
        "mask: {policy: maskdpo}",
        "x.yaml:1: mask.policy: expected mask_dpo, vanilla or {side: {label: weight}}, got 'maskdpo'",
    ),
    "mask side": (
        "mask: {policy: {chosen: {no_fact: 1}, reject: {no_fact: 1}}}",
        "x.yaml:1: mask.policy: expected the sides chosen and rejected, got ['chosen', 'reject']",
    ),
    "mask label": (
        "mask: {policy: {chosen: {wrong: 1}, rejected: {}}}",
        "x.yaml:1: mask.policy.chosen: expected one of no_fact, no_hallucination, contradictory, "
        "unverifiable, unparsed, got 'wrong'",
    ),
    "mask side without labels": (
        "mask: {policy: {chosen: 1}}",
        "x.yaml:1: mask.policy.chosen: expected a mapping {label: number}, got '1'",
    ),
    "mask label twice": (
        "mask: {policy: {chosen: {no_fact: 1, no_fact: 0}, rejected: {}}}",
        "x.yaml:1: mask.policy.chosen.no_fact: given twice",
    ),
    "mask weight that is none": (
        "mask: {policy: {chosen: {no_fact: .nan}, rejected: {}}}",
        "x.yaml:1: mask.policy.chosen.no_fact: expected a number, got '.nan'",
    ),
    "topics of nothing": (
        "data: {num_transfer_topics: 4}",
        "x.yaml:1: data.num_transfer_topics: expected none without data.transfer, got 4",
    ),
    "best of nothing": (
        "run: {keep: best}",
        "x.yaml:1: run.keep: expected last without data.num_dev_topics (the best policy is the best on development "
        "topics), got 'best'",
    ),
    "patience for the last": (
        "run: {patience: 2}",
        "x.yaml:1: run.patience: expected none unless run.keep is best, got 2",
    ),
    "kinds for the last": (
        "run: {keep_kinds: 0.7}",
        "x.yaml:1: run.keep_kinds: expected none unless run.keep is best, got 0.7",
    ),
    "mask weight": (
        "mask: {policy: {chosen: {no_fact: 2}, rejected: {}}}",
        "x.yaml:1: mask.policy.chosen.no_fact: expected 0 to 1, got 2.0",
    ),
}


@pytest.mark.parametrize("text, message", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_value_gives_one_line(folder, text, message):
    assert error_of(f"{text}\n{MINIMAL}") == message


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words"])
def test_file_that_is_no_mapping_names_the_sections(folder, text):
    assert "expected sections (run, model, data" in error_of(text)


def test_bad_bytes_and_missing_files(folder):
    Path("x.yaml").write_bytes(b"run: {name: \xff}")
    cases = {"x.yaml": "expected UTF-8 text, got byte 0xff", "y.yaml": "No such file", ".": "Is a directory"}
    for path, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            parse(["--config", path])


BAD_OVERRIDES = {
    "type": (["--train.beta", "abc"], "--train.beta: expected a number, got 'abc'"),
    "range": (["--train.beta", "-1"], "--train.beta: expected above 0, got -1.0"),
    "equals sign": (["--train.beta=abc"], "--train.beta: expected a number, got 'abc'"),
    "bool": (["--vllm.enforce_eager", "treu"], "--vllm.enforce_eager: expected true or false, got 'treu'"),
    "list": (["--adam.betas", "[0.9"], "--adam.betas: expected a list of 2 numbers, got '[0.9'"),
    "unknown": (["--train.bta", "1"], "--train.bta: unknown option; did you mean --train.beta? (see --help)"),
    "abbreviation": (
        ["--rollout.top", "1"],
        "--rollout.top: unknown option; did you mean --rollout.top_p? (see --help)",
    ),
    "option of another section": (
        ["--train.lr", "1"],
        "--train.lr: unknown option; did you mean --adam.lr? (see --help)",
    ),
    "no value": (["--train.beta"], "--train.beta: expected a number, got nothing (see --help)"),
    "bool alone": (
        ["--vllm.enforce_eager", "--dry_run"],
        "--vllm.enforce_eager: expected true or false, got nothing (see --help)",
    ),
    "negative exponent": (["--adam.lr", "-5e-6"], "--adam.lr: expected above 0, got -5e-06"),
    "negative infinity": (["--adam.lr", "-inf"], "--adam.lr: expected a number, got '-inf'"),
    "twice": (["--train.beta", "1", "--train.beta=2"], "--train.beta: expected one value, got '1' and '2'"),
    "config twice": (["--config", "y.yaml"], "--config: expected one value, got 'x.yaml' and 'y.yaml'"),
    "bytes that are no text": (
        ["--run.name", "a\udcff"],
        "--run.name: expected text, got 'a\\udcff', which holds unprintable characters",
    ),
    "value for a switch": (["--dry_run=1"], "--dry_run: expected no value, got '1' (see --help)"),
    "far off": (["--eval-n", "3"], "--eval-n: unknown option (see --help)"),
    "word": (["a.yaml"], "'a.yaml': expected options only, got a word without -- (see --help)"),
    "dash": (["--dry-run"], "--dry-run: unknown option; did you mean --dry_run? (see --help)"),
}


@pytest.mark.parametrize("overrides, message", BAD_OVERRIDES.values(), ids=BAD_OVERRIDES.keys())
def test_bad_override_gives_one_line(folder, overrides, message):
    assert error_of(MINIMAL, *overrides) == message


def test_config_is_required():
    with pytest.raises(ConfigError, match=r"^--config: expected a YAML file, got nothing"):
        parse(["--dry_run"])


def test_failure_is_one_line_on_stderr_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        fail(ConfigError("train.beta: expected a number,\n got 'abc'"))
    streams = capsys.readouterr()
    assert caught.value.code == 2 and streams.out == ""
    assert streams.err == "error: train.beta: expected a number, got 'abc'\n"


@pytest.mark.parametrize("written, value", [("5e-6", 5e-6), ("1E-5", 1e-5), ("6e-05", 6e-5), ("1", 1.0)])
def test_numbers_without_a_dot_are_numbers(folder, written, value):
    """YAML 1.1 reads `5e-6` as text."""
    assert load(f"{MINIMAL}adam: {{lr: {written}}}\n").adam.lr == value
    assert load(MINIMAL, "--adam.lr", written).adam.lr == value


@pytest.mark.parametrize("written, value", [("off", False), ("on", True), ("True", True), ("no", False)])
def test_booleans(folder, written, value):
    assert load(f"{MINIMAL}vllm: {{enforce_eager: {written}}}\n").vllm.enforce_eager is value
    assert load(MINIMAL, "--vllm.enforce_eager", written).vllm.enforce_eager is value


@pytest.mark.parametrize("name", ["off", "2024", "1e3", "yes"])
def test_text_stays_as_written(folder, name):
    """YAML 1.1 would make these a boolean and numbers."""
    assert load(f"{MINIMAL}run: {{name: {name}}}\n").run.name == name


def test_no_value_for_optional_fields(folder):
    for written in ("null", "~", "none", ""):
        config = load(f"{MINIMAL}data:\n  eval: {written}\n  transfer: builtin:elements\n")
        assert config.data.eval is None and config.data.transfer == "builtin:elements"
    assert load(MINIMAL + "data: {transfer: x.jsonl}\n", "--data.transfer", "none").data.transfer is None


def test_section_with_all_lines_commented_out_is_the_default(folder):
    assert load(MINIMAL + "train:\n#  beta: 1\n").train == TrainConfig()


def test_overrides_win_and_leave_the_rest(folder):
    text = MINIMAL + "train: {beta: 0.2, batch_size: 16}\n"
    config = load(text, "--train.beta", "0.05", "--adam.betas", "[0.8, 0.9]", "--run.name=other")
    assert (config.train.beta, config.train.batch_size) == (0.05, 16)
    assert (config.adam.betas, config.run.name) == ((0.8, 0.9), "other")


def test_override_mends_a_file_that_alone_would_be_refused(folder):
    assert (
        load(
            "train: {num_ranks: 4, batch_size: 2}", "--train.batch_size", "4", "--model.model_name_or_path", "m"
        ).train.batch_size
        == 4
    )


def test_mask_policy_as_mapping(folder):
    policy = {"chosen": {"no_fact": 0.5, "no_hallucination": 1.0}, "rejected": {"contradictory": 1.0}}
    block = "{chosen: {no_fact: .5, no_hallucination: 1}, rejected: {contradictory: 1}}"
    assert load(f"{MINIMAL}mask: {{policy: {block}}}\n").mask.policy == policy
    assert load(MINIMAL, "--mask.policy", block).mask.policy == policy


def test_environment_has_no_say(folder, monkeypatch):
    monkeypatch.setenv("TRAIN_BETA", "9")
    monkeypatch.setenv("MASKDPO_RAY_TRAIN__BETA", "9")
    assert load(MINIMAL) == Config(model=ModelConfig(model_name_or_path="m"))


def test_dry_run_and_path(folder):
    Path("x.yaml").write_text(MINIMAL)
    assert parse(["--config", "x.yaml"]).dry_run is False
    line = parse(["--config", "x.yaml", "--dry_run"])
    assert line.dry_run is True and line.config_path == Path("x.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_resolved_yaml_reads_back_as_the_same_config(folder, path):
    config = dataclasses.replace(read(path), run=dataclasses.replace(read(path).run, name="off", dir="läufe/ä: b"))
    Path("x.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert read(Path("x.yaml")) == config


def test_resolved_holds_every_option():
    plain = resolved(Config(model=ModelConfig(model_name_or_path="m")))
    assert [f"{section}.{name}" for section, fields in plain.items() for name in fields] == list(options())
    assert plain["adam"]["betas"] == [0.9, 0.95]


def test_every_field_has_a_meaning_and_a_default():
    count = sum(len(dataclasses.fields(kind)) for kind in typing.get_type_hints(Config).values())
    assert len(options()) == count
    for name, option in options().items():
        assert len(option.meaning) >= 10 and option.meaning.endswith((".", ")")), name
        assert option.default is not dataclasses.MISSING, name


def test_a_section_says_which_stages_it_affects():
    affected = {name: schema.affects(name) for name in options()}
    assert affected["pairs.cut_off"] == affected["mask.policy"] == ("collect",)
    assert affected["train.beta"] == ("train",) and affected["eval.top_k"] == ("evaluate",)
    assert affected["run.seed"] == schema.affects("newer.option") == ("collect", "train", "evaluate")
    assert schema.affects("annotation.options.file") == affected["annotation.options"] == ("collect", "evaluate")
    free = {name for name, stages in affected.items() if not stages}
    sections = {"cluster", "hub", "logger", "savings"}
    assert {name for name in options() if name.split(".")[0] in sections} <= free
    assert {name for name in free if name.split(".")[0] not in sections} == {
        "run.dir",
        "run.iterations",
        "run.keep",
        "run.keep_kinds",
        "run.patience",
        "run.max_failed",
        "model.gradient_checkpointing_enable",
        "data.max_dropped",
        "rollout.max_in_flight",
        "annotation.max_in_flight",
        "annotation.max_unparsed",
        "train.micro_batch_size",
        "train.max_tokens_per_gpu",
        "train.save_steps",
        "eval.max_in_flight",
        "eval.max_unparsed",
    }


def test_every_rule_holds_of_its_default():
    config = Config(model=ModelConfig("m"))
    for name, section in vars(config).items():
        for field in dataclasses.fields(section):
            for rule in schema._notes(name)[field.name]:
                if isinstance(rule, schema.Rule) and field.name != "model_name_or_path":
                    assert field.default is None or rule.holds(field.default), field.name


def test_schedules_are_transformers_own():
    # Read, not imported: transformers.trainer_utils takes seconds to import.
    (package,) = importlib.util.find_spec("transformers").submodule_search_locations
    source = (Path(package) / "trainer_utils.py").read_text(encoding="utf-8")
    enumeration = source.split("class SchedulerType(", 1)[1].split("\nclass ", 1)[0]
    schedules = typing.get_args(typing.get_type_hints(TrainConfig)["lr_scheduler"])
    assert set(schedules) <= set(re.findall(r'^    [A-Z_]+ = "(\w+)"', enumeration, flags=re.MULTILINE))


def test_help_lists_every_option_with_default_and_meaning_in_two_seconds():
    command = [sys.executable, "-m", "maskdpo_ray.run", "--help"]
    environment, seconds = {**os.environ, "COLUMNS": "9999"}, []
    for _ in range(2):  # the first may compile bytecode
        start = processor_seconds()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        seconds.append(processor_seconds() - start)
    shown = " ".join(done.stdout.split())
    for name, option in options().items():
        assert f"--{name} VALUE {option.meaning} [" in shown, name
        entry = shown.split(f"--{name} VALUE", 1)[1].split(" --", 1)[0]
        assert f"; default: {shown_default(option.default)}]" in entry, name
    assert "--dry_run" in shown and "--config FILE" in shown
    assert min(seconds) < 2


def test_config_of_an_iteration(folder):
    """SFT iterations have their own objective, epochs, rate and mask; all else, and later iterations, are the run's."""
    sft = ("--sft.iterations", "2", "--sft.lr", "2e-5", "--sft.max_epochs", "4")
    plain = load(MINIMAL, "--run.iterations", "3", *sft)
    assert plain.at(2) is plain
    for iteration in (0, 1):
        own = plain.at(iteration)
        assert (own.objective.name, own.train.max_epochs, own.adam.lr) == ("sft", 4, 2e-5)
        assert (own.mask.policy, own.mask.eos, own.atoms.n_samples_per_prompt) == ("vanilla", "keep", 0)
        same = dataclasses.replace(own, objective=plain.objective, train=plain.train, adam=plain.adam, mask=plain.mask)
        assert same == plain
    masked = dataclasses.replace(plain, sft=dataclasses.replace(plain.sft, masked=True))
    assert masked.at(0).mask == plain.mask
