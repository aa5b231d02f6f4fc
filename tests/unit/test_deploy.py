"""docker/, deploy/ and the shell scripts: each passes its linter or schema, and Slurm's script does what it says."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
BUNDLED = ["scripts", "deploy", "docker", ".ci", "benchmarks"]


def lint(tool: str, *arguments: str | Path) -> str:
    """Return what a linter of the environment says: nothing, when all is well."""
    done = subprocess.run([SCRIPTS / tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / name).read_text(encoding="utf-8"))


def shell_scripts() -> list[Path]:
    """Every file of these folders that begins as a shell script."""
    files = [file for folder in BUNDLED for file in sorted((ROOT / folder).rglob("*")) if file.is_file()]
    return [file for file in files if re.match(rb"#!.*\b(ba)?sh\b", file.read_bytes()[:64])]


def test_shell_scripts_pass_shellcheck() -> None:
    scripts = shell_scripts()
    assert {"install.sh", "test.sh", "slurm.sh", "run"} <= {script.name for script in scripts}
    assert not lint("shellcheck", "--severity=style", *scripts)


def test_the_linters_find_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\ncd $1\nrm -rf $2/*\n", encoding="utf-8")
    assert "SC2086" in lint("shellcheck", tmp_path / "bad.sh")
    (tmp_path / "Dockerfile").write_text("FROM ubuntu\nRUN cd /tmp && sudo make\n", encoding="utf-8")
    assert "DL3004" in lint("hadolint", tmp_path / "Dockerfile")


def test_the_image_passes_hadolint() -> None:
    assert not lint("hadolint", "docker/Dockerfile")


def instructions() -> list[str]:
    """Return the Dockerfile's instructions, each on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docker/Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_image_runs_as_a_user_and_says_whether_it_is_well() -> None:
    lines = instructions()
    user = next(line for line in lines if line.startswith("USER "))
    assert user != "USER 0" and f"--uid {user.removeprefix('USER ')} " in " ".join(lines)
    assert lines.index(user) < next(
        number for number, line in enumerate(lines) if line.startswith("RUN bash scripts/install.sh ")
    )
    assert sum(line.startswith("USER ") for line in lines) == 1
    assert any(line.startswith("HEALTHCHECK ") for line in lines)


def test_what_the_image_copies_is_there() -> None:
    for line in instructions():
        if line.startswith("COPY "):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source


def test_the_image_copies_no_keys_and_no_environment() -> None:
    ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv", ".env", "runs", "models"} <= set(ignored)


def kuberay_problems(job: Any) -> list[str]:
    schema = json.loads((ROOT / "tests/fixtures/rayjob.schema.json").read_text(encoding="utf-8"))
    errors = jsonschema.Draft202012Validator(schema).iter_errors(job)
    return [f"{error.json_path}: {error.message}" for error in errors]


def test_the_kubernetes_job_has_kuberays_schema() -> None:
    assert kuberay_problems(load("kuberay-job.yaml")) == []


def test_kuberays_schema_refuses_what_it_does_not_know() -> None:
    job = load("kuberay-job.yaml")
    job["spec"]["backoffLimit"] = "5"
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    problems = kuberay_problems(job)
    assert len(problems) == 2
    assert any("'volumeMount' was unexpected" in problem for problem in problems)


def test_the_kubernetes_job_has_gpus_a_shared_volume_and_the_pinned_ray() -> None:
    spec = load("kuberay-job.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        claims = [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        assert [m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims] == ["/shared"]
        assert pod["securityContext"]["runAsNonRoot"]
    assert int(pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) > 0
    assert f"ray[default]=={cluster['rayVersion']} " in (ROOT / "requirements/common.in").read_text(encoding="utf-8")


def test_the_launchers_cluster_has_rays_schema() -> None:
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler/ray-schema.json").read_text(encoding="utf-8"))
    cluster = load("ray-cluster.yaml")
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_worker": 2}, schema)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    # A run is refused by a cluster that is smaller than what it reserves.
    assert types["gpu"]["min_workers"] == types["gpu"]["max_workers"] == cluster["max_workers"]


@pytest.mark.parametrize("name", ["kuberay-job.yaml", "ray-cluster.yaml", "slurm.sh"])
def test_options_that_the_files_give_exist(name: str) -> None:
    from maskdpo_ray.config.schema import Config

    text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
    given = re.findall(r"--([a-z]+)\.([a-z_]+)", text)
    assert given
    for section, option in given:
        assert hasattr(Config.__dataclass_fields__[section].default_factory(), option), option


RAY = """\
#!/usr/bin/env bash
echo "ray $*" >>calls
case "$1 $2" in "start --head") touch up; exec sleep 60 ;; "start "*) exec sleep 60 ;; *) test -e up ;; esac
"""
SRUN = """\
#!/usr/bin/env bash
echo "srun $*" >>calls
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/usr/bin/env bash
echo "scontrol $*" >>calls
if [ "$1" = show ]; then printf 'node7\\nnode8\\n'; fi
"""
PYTHON = """\
#!/usr/bin/env bash
echo "python $*" >>calls
trap 'echo stopped >>calls; exit 143' TERM
touch running
while [ -e wait ]; do sleep 0.05; done
exit "$(cat code)"
"""


class Job:
    """A Slurm job of two nodes, whose commands are stand-ins that write down their calls."""

    def __init__(self, folder: Path, code: int) -> None:
        self.folder = folder
        commands = folder / ".venv/bin"
        commands.mkdir(parents=True)
        for name, text in {"ray": RAY, "srun": SRUN, "scontrol": SCONTROL, "python": PYTHON, "activate": ""}.items():
            (commands / name).write_text(text, encoding="utf-8")
            (commands / name).chmod(0o755)
        (folder / "code").write_text(str(code), encoding="utf-8")
        shutil.copy(ROOT / "deploy/slurm.sh", folder / "slurm.sh")
        self.variables = {
            "PATH": f"{commands}:/usr/bin:/bin",
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_ID": "31234",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
        }

    def start(self) -> subprocess.Popen[str]:
        """Start the script as sbatch does, in a session of its own."""
        return subprocess.Popen(
            ["bash", "slurm.sh", "--config", "mine.yaml"],
            cwd=self.folder,
            env=self.variables,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text(encoding="utf-8").splitlines()


def ended(process: subprocess.Popen[str]) -> int:
    """Wait for the script, then end what it left, as Slurm ends a job's steps."""
    try:
        return process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("code", [0, 2])
def test_slurm_starts_a_node_each_and_passes_on_how_the_run_ended(code: int, tmp_path: Path) -> None:
    job = Job(tmp_path, code)
    assert ended(job.start()) == code
    calls = job.calls()
    assert "ray start --head --port=21234 --block" in calls
    assert any("--nodelist=node7 ray start --head" in call for call in calls)
    assert any("--nodes=1 --ntasks=1 --exclude=node7 bash" in call for call in calls)
    assert (
        "python -m maskdpo_ray.run --config mine.yaml --cluster.address node7:21234 --cluster.nodes_timeout_s 600"
        in calls
    )
    assert "scontrol requeue 31234" not in calls


def test_a_pre_empted_slurm_job_stops_its_run_and_queues_again(tmp_path: Path) -> None:
    job = Job(tmp_path, 0)
    (tmp_path / "wait").touch()
    process = job.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 143
    assert job.calls()[-2:] == ["stopped", "scontrol requeue 31234"]
