"""The summary: the figures of the run folder, at 80 columns, and in words when a policy says less."""

import io
import json
import shutil

import pytest
import yaml

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation.choice import Candidate, Choice
from maskdpo_ray.evaluation.intervals import compare
from maskdpo_ray.evaluation.metrics import Evaluation, evaluate
from maskdpo_ray.records import Annotation, Question, Rollout, Sentence, from_json, to_json
from maskdpo_ray.report.summary import build, render, show
from maskdpo_ray.store.tracking import Tracker

FACT, WRONG, VAGUE, CHAT = "no_hallucination", "contradictory", "unverifiable", "no_fact"
QUESTIONS = [Question(f"q{i}", f"topic{i}", ({"role": "user", "content": "?"},)) for i in range(10)]
FULL = [("capital", FACT), ("continent", FACT), ("currency", WRONG), ("currency", WRONG)]
SHORT = [("capital", FACT), ("continent", FACT), ("currency", WRONG)]
CORRECTED = [("capital", FACT), ("continent", FACT), ("currency", FACT), ("currency", WRONG)]


def evaluation(labels):
    """Every question answered twice with `labels`; the second replication has one wrong sentence more."""

    def one(question, replication):
        mine = [*labels, *[("currency", WRONG)] * replication]
        sentences = tuple(Sentence(i, i + 1, label, kind=kind) for i, (kind, label) in enumerate(mine))
        return Rollout(question.id, replication, tuple(range(9 * len(mine))), "x" * len(mine), "stop", 0), Annotation(
            question.id, replication, sentences
        )

    return evaluate(QUESTIONS, [one(q, r) for q in QUESTIONS for r in range(2)], seed=3, bootstrap_samples=200)


def make(folder, *policies, transfer=()):
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"run": {"name": "facts [1]", "seed": 3}, "eval": {"bootstrap_samples": 200}})
    )
    for split, versions in (("heldout", policies), ("transfer", transfer)):
        for version, labels in enumerate(versions):
            path = folder / f"eval_{version:03d}" / f"{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(to_json(evaluation(labels))))
    for iteration in range(len(policies) - 1):
        path = folder / f"iter_{iteration:03d}" / "pairs-summary.json"
        path.parent.mkdir()
        path.write_text(
            json.dumps(
                {
                    "questions": 111,
                    "pairs": 100 - iteration,
                    "drops": {"same_score": 7, "unparsed": 4 + iteration},
                    "mixture": {"chosen_with_incorrect": 0.86, "rejected_with_correct": 0.88},
                }
            )
        )
    return folder


def write_evaluations(folder, *versions):
    """The remarks once `folder` holds these (rollout, annotation) of the first four questions."""
    for version, rows in enumerate(versions):
        path = folder / f"eval_{version:03d}" / "heldout.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(to_json(evaluate(QUESTIONS[:4], rows, seed=1, bootstrap_samples=500))))
    return build(folder)["remarks"]


def test_figures_are_those_of_the_evaluations(tmp_path):
    folder = make(tmp_path, FULL, SHORT)
    shutil.copytree(tmp_path / "eval_000", tmp_path / "eval_backup")  # the user's, and no version
    summary = build(folder)
    before, after = (evaluation(labels) for labels in (FULL, SHORT))
    gain = compare(before, after, seed=3, bootstrap_samples=200)
    versions = summary["evaluations"]["heldout"]
    assert [v["version"] for v in versions] == [0, 1]
    assert versions[0]["gain"] is None and versions[1]["gain"] == to_json(gain)["metrics"]
    assert versions[1]["metrics"]["score"]["mean"] == after.metrics["score"].mean
    assert list(summary["evaluations"]) == ["heldout"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    text = render(summary)
    score = after.metrics["score"]
    for figure in (
        f"{score.mean:.3f} ± {score.sd:.3f}",
        f"{gain.metrics['score'].gain:+.3f}",
        "10 topics, 10 questions, 2 answers each",
        f"{gain.metrics['score'].low:+.3f} to {gain.metrics['score'].high:+.3f}",
        "same score 7, unparsed 4",
        "facts [1]",
    ):
        assert figure in text
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["currency"])
    assert row == ["currency", "0.00", "0.00", "2.50", "1.50"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (FULL, CORRECTED, ["the score rose: 0.450 -> 0.675"]),
        (
            FULL,
            SHORT,  # only wrong facts are left out: no alarm
            [
                "the score rose: 0.450 -> 0.583",
                "fewer sentences: 4.500 -> 3.500 per answer",
                "stated less often: currency (2.50 -> 1.50)",
            ],
        ),
        (
            FULL,
            FULL[:1],
            [
                "the score rose: 0.450 -> 0.750",
                "FEWER CORRECT FACTS: 2.000 -> 1.000 per answer",
                "fewer sentences: 4.500 -> 1.500 per answer",
                "stated less often: currency (2.50 -> 0.50), continent (1.00 -> 0.00)",
            ],
        ),
        (
            FULL,
            [*FULL, *FULL[:1] * 5, *FULL[-1:]],
            [
                "the score rose: 0.450 -> 0.668",
                "more contradictory facts: 2.500 -> 3.500 per answer",
                "more incorrect facts: 2.500 -> 3.500 per answer",
            ],
        ),
        (
            [("capital", label) for label in (FACT, VAGUE, VAGUE, VAGUE)],
            [("capital", label) for label in (FACT, FACT, WRONG, VAGUE)],
            ["the score rose: 0.225 -> 0.450", "more contradictory facts: 0.500 -> 1.500 per answer"],
        ),
        (
            CORRECTED,
            FULL,
            [
                "the score fell: 0.675 -> 0.450",
                "FEWER CORRECT FACTS: 3.000 -> 2.000 per answer",
                "more contradictory facts: 1.500 -> 2.500 per answer",
                "more incorrect facts: 1.500 -> 2.500 per answer",
            ],
        ),
    ],
)
def test_what_a_score_hides_is_said_in_words(tmp_path, before, after, expected):
    summary = build(make(tmp_path, before, after, transfer=(before, after)))
    assert summary["remarks"] == [f"{split}, after 1: {r}" for split in ("heldout", "transfer") for r in expected]
    assert expected[-1] in " ".join(render(summary).split())


def test_silence_is_said_in_words(tmp_path):
    make(tmp_path, FULL)
    rows = [
        [
            (Rollout(f"q{i}", 0, (1,), "x", reason, version), Annotation(f"q{i}", 0, (Sentence(0, 1, label),)))
            for i in range(4)
        ]
        for version, (reason, label) in enumerate((("stop", WRONG), ("length", CHAT)))
    ]
    assert write_evaluations(tmp_path, *rows) == [
        "heldout, after 1: the score rose: 0.000 -> 1.000",
        "heldout, after 1: more answers say nothing checkable: 0.000 -> 1.000 per answer",
        "heldout, after 1: more answers are cut off at the length limit: 0.000 -> 1.000 per answer",
        "heldout, after 1: stated less often: other (1.00 -> 0.00)",
    ]


def test_what_the_annotator_could_not_read_is_shown(tmp_path):
    make(tmp_path, FULL)
    labels = [Sentence(0, 2, FACT), Sentence(2, 4, "unparsed", evidence="verdict: 'Maybe'")]
    rows = [(Rollout(f"q{i}", 0, (1,), "abcd", "stop", 0), Annotation(f"q{i}", 0, tuple(labels))) for i in range(4)]
    assert write_evaluations(tmp_path, rows) == [
        "heldout, before: 50.0% of the sentences are unparsed, such as 'cd' (verdict: 'Maybe')"
    ]


@pytest.mark.parametrize("direction", [1, -1])
def test_change_within_noise_is_called_that_and_no_alarm(tmp_path, direction):
    make(tmp_path, FULL)
    wrong = ((1, 4, 2, 2), (4, 1, 2, 1))[::direction]
    rows = [
        [
            (
                Rollout(f"q{i}", 0, (1,), "xxxxxx", "stop", 0),
                Annotation(f"q{i}", 0, tuple(Sentence(j, j + 1, WRONG if j < n else FACT) for j in range(6))),
            )
            for i, n in enumerate(counts)
        ]
        for counts in wrong
    ]
    moved = {1: "rose: 0.625 -> 0.667", -1: "fell: 0.667 -> 0.625"}[direction]
    assert write_evaluations(tmp_path, *rows) == [
        f"heldout, after 1: the score {moved} (within noise: the 95% interval holds 0)"
    ]


def test_stages_add_up_over_a_resume_and_idle_is_the_last(tmp_path):
    make(tmp_path, FULL)
    for seconds, idle in ((60.0, 0.5), (30.0, 0.25)):
        with Tracker(tmp_path, LoggerConfig(), {}) as tracker:
            tracker.log(
                {"timing/collect_s": seconds, "tokens/collect": 900, "idle/rollout": idle, "train/loss": 1.0}, 1
            )
            tracker.log({"timing/train_s": float("nan")}, 1)
    summary = build(tmp_path)
    assert summary["stages"] == [{"step": 1, "stage": "collect", "seconds": 90.0, "tokens": 1800}]
    assert summary["idle"] == [{"iteration": 1, "rollout": 0.25}]
    lines = [line.split() for line in render(summary).splitlines()]
    assert ["1", "collect", "90.0", "1,800", "20"] in lines and ["1", "25.0%"] in lines


@pytest.mark.parametrize("policies", [(FULL,), (FULL, SHORT), (FULL,) * 12])
def test_eighty_columns_without_colour(tmp_path, policies):
    summary = build(make(tmp_path, *policies, transfer=policies))
    summary["folder"] = "runs/x"
    text = render(summary)
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text and "…" not in text
    assert text.count("before") >= 2
    assert ("gain" in text) == ("interval" in text) == (len(policies) > 1)
    for header in ("correct", "incorrect", "sentences", "tokens", "nothing", "cut off"):
        assert header in text
    assert "\x1b" in render(summary, color=True)
    file = io.StringIO()
    show(summary, file)
    assert "\x1b" not in file.getvalue()


def test_a_run_without_pairs_or_metrics_still_has_a_summary(tmp_path):
    summary = build(make(tmp_path, FULL))
    assert summary["pairs"] == summary["stages"] == summary["idle"] == summary["remarks"] == []
    assert "before" in render(summary)


@pytest.mark.parametrize("ahead", [None, 0, 1])
def test_a_run_that_was_not_on_policy_says_so(tmp_path, ahead):
    make(tmp_path, FULL)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["rollout"] = {} if ahead is None else {"ahead": ahead}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert ("NOT ON-POLICY" in render(build(tmp_path))) == bool(ahead)


def test_policies_are_listed(tmp_path):
    make(tmp_path, FULL)
    for iteration in range(2):
        policy = tmp_path / f"iter_{iteration:03d}" / "policy"
        policy.mkdir(parents=True)
        (policy / "config.json").write_text("{}")
    write_choice(tmp_path, "last", 0)
    summary = build(tmp_path)
    assert f"kept:   {tmp_path}/policy (policy 0)" in render(summary)
    assert summary["policies"] == [str(tmp_path / f"iter_{i:03d}" / "policy") for i in range(2)]
    assert f"policy: {summary['policies'][1]}" in render(summary)


def test_an_evaluation_of_another_schema_is_an_error(tmp_path):
    make(tmp_path, FULL)
    (tmp_path / "eval_000" / "heldout.json").write_text('{"questions": 1}')
    with pytest.raises(RunFolderError, match="heldout.json: missing field"):
        build(tmp_path)
    assert from_json(Evaluation, to_json(evaluation(FULL))) == evaluation(FULL)


def without(section, name):
    """An evaluation that lacks an entry of one of its fields."""
    value = to_json(evaluation(FULL))
    inner = value[section] if section == "metrics" else value[section]["topic0"]
    del inner[name]
    return json.dumps(value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("eval_000/heldout.json", "{", "eval_000/heldout.json: expected JSON, got: "),
        ("eval_000/heldout.json", "[" * 100_000, "eval_000/heldout.json: expected JSON, got: "),
        ("eval_001/heldout.json", "[]", "eval_001/heldout.json: expected an object with the fields of the evaluation"),
        ("eval_001/heldout.json", without("metrics", "score"), "eval_001/heldout.json: field 'metrics': expected "),
        (
            "eval_001/heldout.json",
            without("topic_sums", "facts"),
            "heldout.json: field 'topic_sums.topic0': expected 2",
        ),
        (
            "iter_000/pairs-summary.json",
            "[]",
            "pairs-summary.json: expected an object with the fields of the pairs summary",
        ),
        ("iter_000/pairs-summary.json", '{"questions": 1}', "pairs-summary.json: missing field "),
        ("metrics.jsonl", "garbage\n", "metrics.jsonl, line 1: expected JSON, got b'garbage'"),
        ("config.yaml", "run: {name: x}\n", "config.yaml: run.seed: expected int, got None"),
        ("config.yaml", "run: [1]\n", "config.yaml: run.name: expected str, got None"),
        ("config.yaml", "{", "config.yaml:1: can't be read as YAML: "),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content, expected):
    make(tmp_path, FULL, SHORT)
    (tmp_path / name).write_text(content)
    with pytest.raises(RunFolderError) as caught:
        build(tmp_path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_evaluations_of_different_topics_and_a_missing_config_are_one_line(tmp_path):
    make(tmp_path, FULL, SHORT)
    value = to_json(evaluation(SHORT))
    value["topic_sums"]["elsewhere"] = value["topic_sums"].pop("topic0")
    (tmp_path / "eval_001/heldout.json").write_text(json.dumps(value))
    with pytest.raises(RunFolderError, match="eval_001/heldout.json: the evaluations are of different topics"):
        build(tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(RunFolderError, match="config.yaml: expected the config of a run, got none"):
        build(tmp_path)


def write_choice(folder, keep, version, *dev):
    """Policy kept as of the newest one, and the choice among these (score, told) of development topics."""
    newest = max(int(path.name[5:]) for path in folder.glob("eval_00*"))
    rows = tuple(Candidate(i, score, told, (score + told) / 2, ()) for i, (score, told) in enumerate(dev))
    best = max(range(len(dev)), key=lambda i: rows[i].balance) if dev else None
    choice = Choice(keep, version, best, "recall" if dev else None, rows)
    (folder / f"eval_{newest:03d}/choice.json").write_text(json.dumps(to_json(choice)))


def test_the_first_line_names_the_kept_policy(tmp_path):
    folder = make(tmp_path, FULL, CORRECTED, FULL)
    write_choice(folder, "best", 1, (0.4, 0.5), (0.7, 0.6), (0.5, 0.4))
    summary = build(folder)
    kept, versions = summary["kept"], summary["evaluations"]["heldout"]
    assert (kept["version"], kept["name"], kept["policy"]) == (1, "after 1", f"{folder}/policy")
    assert kept["score"] == versions[1]["metrics"]["score"]["mean"]
    assert kept["gain"] == versions[1]["gain"]["score"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    text = render(summary)
    gain = kept["gain"]
    assert " ".join(text.split()).startswith(
        f"Run facts [1]: policy 1, the best on development topics: score {kept['score']:.3f} (gain "
        f"{gain['gain']:+.3f}, 95% {gain['low']:+.3f} to {gain['high']:+.3f}), correct facts 3.00"
    )
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "0.700", "0.600", "0.650", "best"] in rows and ["2", "0.500", "0.400", "0.450"] in rows
    assert max(map(len, text.splitlines()[:20])) <= 80
    # Tables and remarks compare the first policy with the kept one, not with the last.
    assert "Change from before to after 1, per answer" in text
    assert summary["remarks"] == ["heldout, after 1: the score rose: 0.450 -> 0.675"]


def test_the_last_policy_is_kept_without_a_choice(tmp_path):
    folder = make(tmp_path, FULL, CORRECTED)
    write_choice(folder, "last", 1)
    text = render(build(folder))
    assert text.startswith("Run facts [1]: policy 1, the last: score 0.675 (gain +0.225, ")
    assert "Choice on development topics" not in text


def test_where_policy_0_is_kept_the_last_is_compared(tmp_path):
    folder = make(tmp_path, FULL, SHORT[:1])
    write_choice(folder, "best", 0, (0.5, 0.6), (0.9, 0.1))
    summary = build(folder)
    line = "policy 0 (before training), the best on development topics: score 0.450, correct facts 2.00"
    assert line in " ".join(render(summary).split())
    assert any("FEWER CORRECT FACTS" in remark for remark in summary["remarks"])


def test_an_evaluation_of_the_kept_policy_must_be_there(tmp_path):
    folder = make(tmp_path, FULL, SHORT)
    write_choice(folder, "last", 2)
    with pytest.raises(RunFolderError, match="expected the evaluation of policy 2, which is kept, got none"):
        build(folder)


@pytest.mark.parametrize(("iterations", "is_said"), [(1, False), (4, True)])
def test_an_early_end_is_said(tmp_path, iterations, is_said):
    folder = make(tmp_path, FULL, SHORT)
    write_choice(folder, "best", 0, (0.5, 0.6), (0.5, 0.5))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["run"] |= {"iterations": iterations, "patience": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    said = "the run ended after 1 of 4 iterations: 1 in a row without a better policy on development topics"
    assert any(said in remark for remark in build(folder)["remarks"]) == is_said


def test_greedy_answers_stand_beside_sampled_ones(tmp_path):
    folder = make(tmp_path, FULL, SHORT)
    for version, labels in enumerate((SHORT, CORRECTED)):
        file = folder / f"eval_{version:03d}/heldout-greedy.json"
        file.write_text(json.dumps(to_json(evaluation(labels))))
    summary = build(folder)
    before, after = summary["evaluations"]["heldout"]
    assert before["greedy"]["gain"] is None
    assert after["greedy"]["metrics"]["score"]["mean"] == evaluation(CORRECTED).metrics["score"].mean
    rows = [line.split() for line in render(summary).splitlines()]
    place = rows.index("Greedy answers beside sampled ones".split())
    assert rows[place + 4] == ["before", "0.450", "0.583", "-", "-"]
    assert rows[place + 5][:5] == ["after", "1", "0.583", "0.675", "+0.092"]


def test_development_topics_are_in_the_json_and_not_in_the_tables(tmp_path):
    folder = make(tmp_path, FULL, SHORT)
    write_choice(folder, "best", 1, (0.5, 0.6), (0.6, 0.6))
    for version, labels in enumerate((FULL, SHORT)):
        (folder / f"eval_{version:03d}/dev.json").write_text(json.dumps(to_json(evaluation(labels))))
    summary = build(folder)
    assert len(summary["evaluations"]["dev"]) == 2
    assert "Development topics" not in render(summary)
    assert not [remark for remark in summary["remarks"] if remark.startswith("dev")]
