"""A process with a judge on a real engine: asks it, prints a line of JSON, and waits to be killed.

`python judging.py MODEL CONTEXT`, of a model of `scripted_model`.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from maskdpo_ray.annotation import protocol
from maskdpo_ray.records import Question, Rollout

MAX_TOKENS = 8
LONG = "Rwanda is a country in Africa. " * 40
CONVERSATIONS = [[{"role": "user", "content": f"{LONG}Of {name}?"}] for name in ("Kenya", "Peru", "Fiji")]
TOO_LONG = [{"role": "user", "content": LONG * 20}]
QUESTION = Question("q", "Kenya", ({"role": "user", "content": "What of Kenya?"},), document="Kenya: capital Nairobi.")
TEXTS = ("Its capital is Nairobi. It is large. It lies in Africa.", "Nobody knows. It is in Asia.")


def main() -> None:
    options = {"device": "cpu", "dtype": "float32", "enforce_eager": True, "cpu_kv_cache_gib": 1}
    judge_options = {"model": sys.argv[1], "max_model_len": int(sys.argv[2]), **options}
    limits = {"max_reply_tokens": MAX_TOKENS, "max_reference_tokens": MAX_TOKENS}
    annotator = protocol.build("anah", {"judge_options": judge_options, **limits})
    annotator.start()
    rollouts = [Rollout("q", sample, (), text, "stop", 0) for sample, text in enumerate(TEXTS)]
    labelled = annotator.annotate([(QUESTION, rollout) for rollout in rollouts])

    judge = annotator.judge
    with ThreadPoolExecutor(3) as pool:
        each = [reply for (reply,) in pool.map(lambda one: judge.ask([one], MAX_TOKENS), CONVERSATIONS)]
    before = judge.cached_tokens
    again = judge.ask(CONVERSATIONS, MAX_TOKENS)
    (refused,) = judge.ask([TOO_LONG], MAX_TOKENS)
    (cut,) = judge.ask(CONVERSATIONS[:1], 2)
    found = {
        "sentences": [
            [text[s.start : s.end], s.label, s.evidence, s.confidence]
            for text, annotation in zip(TEXTS, labelled, strict=True)
            for s in annotation.sentences
        ],
        "each": [[reply.text, reply.logprob] for reply in each],
        "again": [[reply.text, reply.logprob] for reply in again],
        "cached": [before, judge.cached_tokens],
        "refused": refused.fault,
        "cut": cut.fault,
    }
    print(json.dumps(found), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
