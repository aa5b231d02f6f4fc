"""The least run that still has real engines, ranks and actors: what it costs is their start.

Its model has one layer and knows letters only, so answers are letters, and so are facts: figures mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import bad_input

NUM_QUESTIONS, NUM_EVAL_TOPICS = 12, 4
_CONFIG = """\
model: {{model_name_or_path: {folder}/model}}
data: {{train: {folder}/questions.jsonl, num_eval_topics: {num_eval_topics}}}
rollout:
  n_samples_per_prompt: 4
  max_new_tokens: 128
  max_in_flight: 2  # questions finish one after the other, so that a run can be stopped among them
vllm:
  dtype: float32  # in bfloat16 an answer depends on those decoded beside it
  enforce_eager: true
  cpu_kv_cache_gib: 1
annotation: {{annotator: "python:docs.numbers_annotator:NumbersAnnotator"}}
train: {{batch_size: 2, save_steps: 1}}
eval: {{n_samples_per_prompt: 2, bootstrap_samples: 100, perplexity_model: {folder}/model}}
"""


def write_config(folder: Path) -> Path:
    """The config of a run on a model and questions of `folder`, made too."""
    bad_input.small_model(folder / "model")
    digits = "012345678"  # every number with a 9 is wrong
    document = " ".join([*digits, *(tens + ones for tens in digits for ones in digits)])
    questions = [
        {"id": f"q{number}", "topic": f"t{number}", "prompt": f"What is {number}?", "document": document}
        for number in range(NUM_QUESTIONS)
    ]
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    config = folder / "config.yaml"
    config.write_text(_CONFIG.format(folder=folder, num_eval_topics=NUM_EVAL_TOPICS))
    return config
