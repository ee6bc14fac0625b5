"""The data folder of a local stack: secrets, the lock, and what `stack.json` says."""

import json
import os
from pathlib import Path

import pytest

from deploy.local.binaries import ServerBinary
from deploy.local.engine_record import EngineRecord, write_private
from deploy.local.folder import DataFolder, FolderLock, stack_process
from deploy.local.guarded import StartFailure


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.make(tmp_path / "var")


def test_a_secret_is_made_once_and_kept_private(folder: DataFolder) -> None:
    first = folder.secret("secret_key")

    assert folder.secret("secret_key") == first
    assert folder.secret("another") != first
    assert len(first) >= 32
    assert (folder.path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_no_secret_reads_as_json(folder: DataFolder) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(folder.secret("secret_key"))


def test_a_second_stack_is_kept_out_and_told_the_way_out(folder: DataFolder) -> None:
    lock = FolderLock.take(folder)

    with pytest.raises(StartFailure, match=rf"process {os.getpid()}\).*millrace down --dir {folder.path}.*--dir"):
        FolderLock.take(folder)

    assert stack_process(folder) == os.getpid()
    lock.release()


def test_a_released_folder_takes_the_next_stack(folder: DataFolder) -> None:
    FolderLock.take(folder).release()

    assert stack_process(folder) is None
    FolderLock.take(folder).release()


def test_no_stack_runs_on_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert stack_process(DataFolder(tmp_path / "nowhere")) is None


def test_a_number_that_a_killed_supervisor_left_is_nobodys(folder: DataFolder) -> None:
    guarded = FolderLock.take(folder)
    held_by_guards = os.dup(guarded.descriptor)
    guarded.release()
    (folder.path / "supervisor.lock").write_text(str(os.getpid()))  # taken by another program since

    assert stack_process(folder) == 0
    os.close(held_by_guards)
    assert stack_process(folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"api_key": 1}'])
def test_damaged_secrets_are_refused_with_the_way_out(folder: DataFolder, text: str) -> None:
    (folder.path / "secrets.json").write_text(text)

    with pytest.raises(StartFailure, match=r"secrets\.json is damaged\. Restore it, or remove it") as raised:
        folder.secret("secret_key")

    assert "\n" not in str(raised.value)


def test_a_half_written_stack_file_counts_as_none(folder: DataFolder) -> None:
    folder.stack_file.write_text('{"api_url": "http')

    assert folder.read_stack() is None


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(StartFailure, match=r"Cannot write the data folder .*--dir") as raised:
        DataFolder.make(file / "var")

    assert "\n" not in str(raised.value)


def test_the_engine_record_keeps_one_entry_per_server(folder: DataFolder) -> None:
    record = EngineRecord(folder.engine_record)

    record.write("postgres", ServerBinary("postgresql", 18, Path("postgres")))
    record.write("redis", ServerBinary("valkey", 9, Path("valkey-server")))

    assert record.read("postgres") == ("postgresql", 18)
    assert record.read("redis") == ("valkey", 9)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"redis": {"engine": "valkey"}}', '{"redis": {"engine": 1, "major": "x"}}']
)
def test_a_garbled_engine_record_is_refused_with_the_way_out(folder: DataFolder, text: str) -> None:
    folder.engine_record.write_text(text)

    with pytest.raises(StartFailure, match=r"engine\.json does not say which engine.*--dir"):
        EngineRecord(folder.engine_record).read("redis")


def test_private_files_are_private_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "private"
    write_private(file, "old")

    write_private(file, "new")

    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
