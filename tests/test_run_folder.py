"""Runs keep their identity in the storage."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mipnet.config import Config, digest, from_dict, preset, to_yaml
from mipnet.errors import UserError
from mipnet.run_folder import default_name, load_run, locked, open_run
from mipnet.storage import Folder


@pytest.fixture
def storage(tmp_path: Path) -> Folder:
    return Folder.of(tmp_path)


def config(**sections: Any) -> Config:
    return from_dict(sections, preset("debug"))


def test_the_same_settings_are_the_same_run(storage: Folder) -> None:
    first = open_run(storage, config())
    assert first.name == default_name(config()) == f"debug-{digest(config())}"
    assert not first.finished
    first.note(step=7)
    first.note(best="step-00000007", finished=True)
    again = open_run(storage, config())
    assert (again.name, again.folder) == (first.name, first.folder)
    assert again.state == {"step": 7, "best": "step-00000007", "finished": True}
    assert again.finished
    assert storage.names("runs") == [first.name]


def test_other_settings_are_another_run(storage: Folder) -> None:
    names = {open_run(storage, c).name for c in (config(), config(train={"seed": 1}))}
    assert len(names) == 2
    assert storage.names("runs") == sorted(names)


class Remote(Folder):
    """An object store that has the configuration of every run."""

    def read(self, name: str, limit: int | None = None) -> bytes:
        return to_yaml(config()).encode()

    def exists(self, name: str = "") -> bool:
        return False


@pytest.mark.parametrize("storage", ["s3://bucket/mipnet?region=eu&scheme=http", "s3://bucket", "/data/a?b"])
def test_a_run_has_name_and_storage_without_losing_parameters(storage: str) -> None:
    run = load_run(Remote(Folder(storage).join("runs").path("single")))
    assert run.name == "single"
    assert run.storage == Folder(storage)


def test_resources_and_tracking_may_change_between_starts(storage: Folder) -> None:
    open_run(storage, config()).note(step=3)
    more = config(resources={"workers": 2}, tracking={"experiment": "other"})
    again = open_run(storage, more)
    assert again.state == {"step": 3}
    assert again.config == more


def test_a_name_with_other_settings_is_refused_and_named(storage: Folder) -> None:
    open_run(storage, config(), "mine")
    with pytest.raises(UserError) as caught:
        open_run(storage, config(train={"epochs": 4}), "mine")
    assert str(caught.value) == (
        "run mine exists with other settings (train.epochs: 3 -> 4); give another --name, or --new"
    )
    many = config(train={"epochs": 4, "seed": 1, "log_steps": 5, "ema": 0.9}, augment={"flip": 0.1})
    with pytest.raises(UserError, match=r"augment.flip: 0.5 -> 0.1, train.epochs: 3 -> 4, .* and 2 more\)"):
        open_run(storage, many, "mine")
    assert load_run(storage.join("runs/mine")).config == config()


def test_new_takes_the_next_free_name(storage: Folder) -> None:
    assert open_run(storage, config(), "mine", new=True).name == "mine"
    assert open_run(storage, config(), "mine", new=True).name == "mine-2"
    assert open_run(storage, config(train={"seed": 1}), "mine", new=True).name == "mine-3"
    base = default_name(config())
    assert [open_run(storage, config(), new=True).name for _ in range(2)] == [base, f"{base}-2"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "..", "a b", "a\n", "a:b", "*"])
def test_names_that_cannot_be_folders(storage: Folder, name: str) -> None:
    with pytest.raises(UserError, match=r"--name: .* cannot name a run; use letters, digits"):
        open_run(storage, config(), name)
    assert storage.names() == []


@pytest.mark.parametrize("name", ["mine", "mine_2.5-x", "größe"])
def test_names_that_can(storage: Folder, name: str) -> None:
    assert open_run(storage, config(), name).name == name
    assert load_run(storage.join(f"runs/{name}")).name == name


BROKEN = {
    "empty": ("config.yaml", ""),
    "list": ("config.yaml", "- 1"),
    "words": ("config.yaml", "nothing"),
    "not yaml": ("config.yaml", "a: [1\nb: }"),
    "not text": ("config.yaml", b"\xff\xfe\x00\x01\x80"),
    "other version": ("config.yaml", "train: {gone_in_this_version: 1}"),
    "state cut": ("run.json", '{"finished": tr'),
    "state list": ("run.json", "[]"),
    "state not text": ("run.json", b"\x80\x81"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_is_named_in_one_line(storage: Folder, kind: str) -> None:
    run = open_run(storage, config(), "mine")
    run.note(step=1)
    run.folder.write(*BROKEN[kind])
    with pytest.raises(UserError, match=r"runs/mine is not a run \(.+\); start another with --new") as caught:
        load_run(run.folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_run(storage: Folder) -> None:
    with pytest.raises(UserError, match="is not a run"):
        load_run(storage.join("runs/none"))


CHILD = """
import sys
from mipnet.run_folder import load_run, locked
from mipnet.storage import Folder
from mipnet.errors import UserError
try:
    with locked(load_run(Folder(sys.argv[1]))):
        print("got it")
except UserError as error:
    print(error)
"""


def child(folder: Folder) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, folder.uri]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_a_second_process_is_kept_off(storage: Folder) -> None:
    run = open_run(storage, config(), "mine")
    with locked(run):
        assert child(run.folder) == (
            "run mine is being worked on by another process; wait for it, or start another with --new"
        )
        with pytest.raises(UserError, match="being worked on"), locked(run):
            pass
    assert child(run.folder) == "got it"
    with pytest.raises(KeyError), locked(run):
        raise KeyError
    with locked(run):
        pass


def test_storage_that_cannot_lock_goes_without(storage: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(storage, config(), "mine")

    def refuse(number: int) -> Any:
        def flock(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return flock

    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    with locked(run):
        pass
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), locked(run):
        pass


def test_runs_on_a_store_that_is_not_a_file_system() -> None:
    pytest.importorskip("fsspec")
    storage = Folder.of("fsspec+memory://runs-test/storage")
    run = open_run(storage, config(), "mine", new=True)
    run.note(finished=True)
    with locked(run):
        assert open_run(storage, config(), "mine").finished


def test_threads_that_note_at_the_same_time_lose_nothing(storage: Folder) -> None:
    run = open_run(storage, config(), "mine")

    def note(thread: int) -> None:
        for number in range(20):
            run.note(**{f"{thread}-{number}": number})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(4)))
    assert len(load_run(run.folder).state) == 80
