"""`python -m maskdpo_ray.analyze`: each analysis of a run of fakes, whose model knows a token for each character."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fake_run
import pytest

from maskdpo_ray import analyze
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation.analyses import affinity
from maskdpo_ray.evaluation.analyses.trained_run import TrainedRun

pytestmark = pytest.mark.usefixtures("no_fsync")


def write_model(folder: Path, seed: int) -> None:
    """A one-layer model whose token ids are code points, 0 being EOS, as those of `fakes`."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"</s>": 0, **{chr(code): code for code in range(1, 128)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\x01"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", chat_template=template).save_pretrained(
        folder
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=128, max_position_embeddings=256, eos_token_id=0, bos_token_id=0, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> Path:
    """Folder of a finished run: two iterations, four held-out questions and five of another domain."""
    folder = tmp_path_factory.mktemp("analysed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_run, "HELDOUT", ("h1", "h2", "h3", "h4"))
        patch.setattr(fake_run, "TRANSFER", ("t1", "t2", "t3", "t4", "t5"))
        fake_run.run(folder, keep="last")
    for place, seed in (
        (folder / "model", 0),
        (folder / "run/iter_000/policy", 1),
        (folder / "run/iter_001/policy", 2),
    ):
        write_model(place, seed)
    (folder / "run/summary.json").write_text('{"kept": {"version": 2}}')
    return folder / "run"


def result(output: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / f"{name}.json").read_text())
    return found


def test_token_shift(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    analyze.main(["token_shift", str(run), "-o", str(tmp_path / "new/place")])
    assert {file.name for file in (tmp_path / "new/place").iterdir()} == {
        f"token_shift.{suffix}" for suffix in ("md", "json", "svg", "png")
    }
    found = result(tmp_path / "new/place", "token_shift")
    assert (found["run"], found["after"]) == ("run", 2) and list(found["splits"]) == ["heldout", "transfer"]
    heldout = found["splits"]["heldout"]
    assert (heldout["answers"], heldout["topics"], heldout["left_out"]) == (4, 4, 0)
    assert 0 < heldout["levels"]["any"]["share"] < 1, "the two models have nothing in common"
    text = (tmp_path / "new/place/token_shift.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("## Token shift (APEFT, figure 3)\n\n") and "\n| heldout | heldout" in text


def test_mutual_knn(run: Path, tmp_path: Path) -> None:
    analyze.main(["mutual_knn", str(run), "--k", "2", "--reference", str(run.parent / "model"), "-o", str(tmp_path)])
    found = result(tmp_path, "mutual_knn")["splits"]
    assert (found["heldout"]["prompts"], found["transfer"]["prompts"]) == (4, 5)
    assert found["heldout"]["alignment"]["before"] == 1.0, "the start is the reference"
    assert found["heldout"]["by_chance"] == pytest.approx(2 / 3)


def test_affinity(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The fakes' answers hold no names.
    monkeypatch.setattr(affinity, "names", lambda text, topic: tuple(dict.fromkeys(text.replace(".", "").split())))
    analyze.main(["affinity", str(run), "--num_pairs", "3", "-o", str(tmp_path)])
    found = result(tmp_path, "affinity")
    assert found["pairs"] == 3 and list(found["changes"]) == ["word embeddings", "last hidden layer"]
    assert all(change["chosen"]["gain"] for change in found["changes"].values())


def test_perplexity(run: Path, tmp_path: Path) -> None:
    found = []
    for reference in ("start", str(run / "iter_001/policy")):
        analyze.main(["perplexity", str(run), "--reference", reference, "-o", str(tmp_path)])
        found.append(result(tmp_path, "perplexity"))
    assert [each["reference"] for each in found] == ["start", "policy"] and found[0]["answers"] == 4
    assert found[0]["nats_per_token"] != found[1]["nats_per_token"]


def test_best_of(run: Path, tmp_path: Path) -> None:
    analyze.main(["best_of", str(run), "--policy", "1", "-o", str(tmp_path)])
    found = result(tmp_path, "best_of")
    assert (found["after"], found["samples"], found["questions"]) == (1, 2, 4) and list(found["best"]) == ["1", "2"]


@pytest.fixture
def config(run: Path, tmp_path: Path) -> Path:
    """A config of ten questions, one of them about the topic of another."""
    questions = [{"id": f"q{n}", "topic": f"T{n}", "prompt": f"What is {n}?"} for n in range(9)]
    questions.append({"id": "again", "topic": "T8", "prompt": "What is 8 again?"})
    held_out = [{"id": f"h{n}", "topic": f"H{n}", "prompt": f"What is {n}, held out?"} for n in range(2)]
    for name, rows in (("train", questions), ("eval", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "config.yaml"
    data = f"{{train: {tmp_path}/train.jsonl, eval: {tmp_path}/eval.jsonl}}"
    file.write_text(f"model: {{model_name_or_path: {run.parent / 'model'}}}\ndata: {data}\n")
    return file


def test_topic_neighbours(run: Path, config: Path, tmp_path: Path) -> None:
    other = str(run / "iter_000/policy")
    analyze.main(["topic_neighbours", str(config), "--embeddings", "policy", other, "random", "-o", str(tmp_path)])
    found = result(tmp_path, "topic_neighbours")
    assert [each["embedding"] for each in found["halves"]] == ["policy", "policy-1", "random"]
    assert found["held_out"] == 2
    for each in found["halves"]:
        sides = {name: (tmp_path / f"topics-{each['embedding']}-{name}.txt").read_text() for name in ("near", "far")}
        assert sides == {name: "".join(f"{topic}\n" for topic in each[name]) for name in sides}
        assert sorted("".join(sides.values()).split()) == [f"T{n}" for n in range(9)]


def test_question_neighbours(config: Path, tmp_path: Path) -> None:
    from maskdpo_ray.data import questions

    analyze.main(["topic_neighbours", str(config), "--by", "question", "--embeddings", "policy", "-o", str(tmp_path)])
    sides = [questions.load(str(tmp_path / f"questions-policy-{name}.jsonl")) for name in ("near", "far")]
    assert [len(side) for side in sides] == [5, 5]
    assert sorted(question.id for side in sides for question in side) == ["again", *(f"q{n}" for n in range(9))]
    held_out = questions.load(str(tmp_path / "questions-heldout.jsonl"))
    assert held_out == questions.load(str(tmp_path / "eval.jsonl"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["token_shift", "RUN/no"], "RUN/no: expected the folder of a run, got none"),
        (["tokenshift", "RUN"], "ANALYSIS: expected one of affinity, best_of, .*, got 'tokenshift'"),
        ([], "ANALYSIS: expected a value, got nothing"),
        (["best_of", "RUN", "--policy", "3"], r"RUN: .*, of version 1 to 2 \(--policy\), got version 3"),
        (["best_of", "RUN", "--policy", "0"], "expected a trained policy, of .*, got version 0"),
        (["best_of", "RUN", "--k", "3"], "--k: expected with mutual_knn only, got it with best_of"),
        (["mutual_knn", "RUN", "--k", "0"], "--k: expected a whole number above 0, got '0'"),
        (["affinity", "RUN", "--by", "topic"], "--by: expected with topic_neighbours only, got it with affinity"),
        (["best_of", "RUN", "-o", "RUN/analyses"], "expected a place outside of run folders, got one in that of"),
        (["perplexity", "RUN", "--reference", "RUN"], "--reference: expected the folder of a model"),
        (["mutual_knn", "RUN", "--reference", "RUN"], "--reference: expected the folder of a model"),
        (["mutual_knn", "RUN", "--reference", "RUN/../model"], "k: expected fewer than the other prompts, 3, got 10"),
        (["topic_neighbours", "RUN/none.yaml"], "none.yaml"),
    ],
)
def test_mistake_is_one_line_and_nothing_is_written(run: Path, words: list[str], expected: str) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    with pytest.raises(UserError, match=expected.replace("RUN", str(run))) as caught:
        analyze.main([word.replace("RUN", str(run)) for word in words])
    assert "\n" not in str(caught.value)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_an_output_that_is_no_folder_is_refused_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output: expected a folder, got .*file: "):
        analyze.main(["best_of", str(run), "-o", str(tmp_path / "file")])
    assert capsys.readouterr().out == "", "no table"


def test_damaged_runs(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(run, folder)
    assert TrainedRun.read(folder).policy(2) == folder / "iter_001/policy", "a run can be moved"
    shutil.rmtree(folder / "iter_001/policy")
    (folder / "eval_000/heldout-asked.jsonl").unlink()
    (folder / "eval_001/transfer-questions.jsonl").unlink()
    for log in folder.glob("iter_*/questions.jsonl"):
        log.write_text("")
    found = TrainedRun.read(folder)
    for attempt, expected in (
        (lambda: found.policy(2), "iter_001/policy: expected the model's folder of policy 2, got none"),
        (lambda: found.asked("heldout"), "heldout-asked.jsonl: expected the questions of an evaluation, got none"),
        (
            lambda: list(found.answered("transfer", 1)),
            "transfer-questions.jsonl: expected a policy's answers, got none",
        ),
        (found.pairs, "moved: expected pairs of training questions, got none"),
    ):
        with pytest.raises(UserError, match=expected):
            attempt()
    (folder / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"summary.json: expected a finished run, with kept.version, got none"):
        TrainedRun.read(folder)
    assert TrainedRun.read(folder, 1).after == 1
