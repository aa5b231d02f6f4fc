"""A run folder whose ledger is gone is refused, not emptied."""

import shutil

import pytest
from test_run_folder import CONFIG, data_files, fill, open_folder

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.run_folder import RunFolder


@pytest.mark.parametrize("lose", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_answers_without_a_ledger_are_refused_and_stay(tmp_path, lose) -> None:
    path = tmp_path / "run"
    with open_folder(path) as folder:
        fill(folder, 3)
    before = data_files(path)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    lose(copy / "ledger.jsonl")
    for attempt in (lambda: RunFolder.check(copy, CONFIG), lambda: open_folder(copy)):
        with pytest.raises(RunFolderError, match="ledger.jsonl: expected the ledger of the 3 files of answers"):
            attempt()
    assert data_files(copy) == before
