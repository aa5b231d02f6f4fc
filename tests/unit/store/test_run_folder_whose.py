"""Which folders a run takes for its own, or for a new one, and which it leaves alone."""

import os
from pathlib import Path

import pytest
import yaml
from test_run_folder import CONFIG, fill, open_folder

from maskdpo_ray.config.file import flatten
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store import fingerprint
from maskdpo_ray.store.ledger import Ledger
from maskdpo_ray.store.run_folder import RunFolder


def test_check_refuses_without_writing(tmp_path):
    RunFolder.check(tmp_path / "new" / "run", CONFIG)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text(yaml.safe_dump(flatten({"run": {"seed": 1}})))
    (tmp_path / "broken" / "ledger.jsonl").write_text('garbage\n{"stage": "open"}\n')
    before = sorted(tmp_path.rglob("*"))
    for path, message in [
        (tmp_path, "expected an empty folder, or one of a run, got 'broken'"),
        (tmp_path / "file", "expected a folder, .*file is a file"),
        (tmp_path / "file" / "run", "expected a folder, .*file is a file"),
        (tmp_path / "link", "link: expected a folder, .*link is a link to nothing"),
        (tmp_path / "link" / "run", "run: expected a folder, .*link is a link to nothing"),
        (Path("/proc/x"), r"^/proc/x: expected a place to write to, got: .* \(/proc\)$"),
        (tmp_path / ("n" * 300), "can't be used: File name too long"),
        (tmp_path / "broken", "ledger.jsonl, line 1: expected a JSON object with a stage, got 'garbage'"),
    ]:
        with pytest.raises(RunFolderError, match=message) as caught:
            RunFolder.check(path, CONFIG)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml", "config.yaml.tmp"])
def test_somebody_elses_folder_is_refused(tmp_path, name):
    (tmp_path / name).write_text("foo: bar\n")
    for attempt in (RunFolder.check, open_folder):
        with pytest.raises(RunFolderError, match=f"got '{name}' and no ledger.jsonl"):
            attempt(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "foo: bar\n"
    with pytest.raises(RunFolderError, match="can't be written"):
        open_folder(tmp_path / name)


@pytest.mark.parametrize("at", ["lock", "ledger", "config", "line"])
def test_a_kill_while_the_folder_is_made_leaves_one_to_go_on_in(tmp_path, monkeypatch, at):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "lock":
            patch.setattr("maskdpo_ray.store.run_folder.Ledger", kill)
        elif at == "ledger":
            patch.setattr(fingerprint, "config_text", kill)
        elif at == "config":
            patch.setattr(Path, "replace", kill)
        else:
            patch.setattr(Ledger, "append", kill)
        with pytest.raises(KeyboardInterrupt):
            open_folder(tmp_path / "r")
    assert os.listdir(tmp_path / "r")
    RunFolder.check(tmp_path / "r", CONFIG)
    with open_folder(tmp_path / "r") as folder:
        fill(folder, 1)
