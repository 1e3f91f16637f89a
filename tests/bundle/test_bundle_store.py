"""Bundles are published whole or not at all, verified file by file, kept in number, and rolled back to."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from support import bundles
from support.killing import Killer

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.manifest import MANIFEST_FILE, FileEntry, Manifest, checksum, inventory, verify
from feast_recsys.bundle.store import current, history, next_id, open_bundle, point, publish, stage


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return bundles.publish_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def broken(published, tmp_path):
    return bundles.copy_bundle(published, tmp_path / published.name)


def publish_second(root):
    """What the killed children do."""
    bundles.publish_bundle(root, seed=1, keep=2)


def test_a_manifest_comes_back_as_it_was(published, tmp_path):
    manifest = Manifest.load(published)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert manifest.bundle_id == published.name
    assert manifest.metadata == {"seed": 0}
    assert sorted(manifest.files) == sorted(
        p.relative_to(published).as_posix() for p in published.rglob("*") if p.is_file() and p.name != MANIFEST_FILE
    )


def test_an_opened_bundle_answers(published):
    bundle = open_bundle(published)
    assert bundle.id == published.name
    assert bundle.snapshot.ids_of(np.arange(4)) == bundles.IDS
    recommender = bundle.recommenders["m"]
    query = recommender.query_encoder.run({"age": np.array([3])})
    rows, scores = recommender.index.search(query, 2)
    assert rows.shape == scores.shape == (1, 2)
    assert recommender.ranker is not None and recommender.ranking is not None


def test_an_empty_catalogue_can_be_published(tmp_path):
    bundle = open_bundle(bundles.publish_bundle(tmp_path, ids=[]))
    assert (len(bundle.snapshot), len(bundle.recommenders["m"].index)) == (0, 0)


def test_an_opened_bundle_survives_the_removal_of_its_folder(tmp_path):
    folder = bundles.publish_bundle(tmp_path)
    bundle = open_bundle(folder)
    shutil.rmtree(folder)
    assert bundle.snapshot.column("movie:year").to_list() == [1, 2, None, 4]
    assert bundle.recommenders["m"].index.search(np.ones((1, 4), np.float32), 1)[0].tolist() == [[3]]


def test_nothing_published_is_nothing_current(tmp_path):
    assert current(tmp_path) is None
    assert current(tmp_path / "absent") is None
    assert history(tmp_path / "absent") == []


def test_the_last_published_is_current_and_a_number_is_kept(tmp_path):
    names = [bundles.publish_bundle(tmp_path, seed=seed, keep=2).name for seed in range(4)]
    assert current(tmp_path) == names[-1]
    assert history(tmp_path) == names[-2:]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["CURRENT", *names[-2:]])


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    for seed in range(3):
        bundles.publish_bundle(tmp_path, seed=seed, keep=1)
    assert (tmp_path / "notes").is_dir()
    assert len(history(tmp_path)) == 1


def test_rolling_back_is_pointing_at_an_older_bundle(tmp_path):
    first, second = (bundles.publish_bundle(tmp_path, seed=seed) for seed in range(2))
    point(tmp_path, first.name)
    assert current(tmp_path) == first.name
    assert history(tmp_path) == [second.name, first.name]
    third = bundles.publish_bundle(tmp_path, seed=2)
    assert history(tmp_path) == [first.name, second.name, third.name]


def test_what_servers_have_goes_before_no_other_bundle(tmp_path):
    """After going back from a bundle, the next one is published beside the one that is being served."""
    first, _ = (bundles.publish_bundle(tmp_path, seed=seed, keep=2) for seed in range(2))
    point(tmp_path, first.name)
    third = bundles.publish_bundle(tmp_path, seed=2, keep=2)
    assert history(tmp_path) == [first.name, third.name]


def test_pointing_at_nothing_names_what_there_is(tmp_path):
    folder = bundles.publish_bundle(tmp_path)
    with pytest.raises(CorruptArtifact, match=rf"no bundle 'other'; there are: {folder.name}"):
        point(tmp_path, "other")
    assert current(tmp_path) == folder.name


def test_names_ascend_even_if_the_clock_does_not(tmp_path):
    now = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    assert next_id(tmp_path, now, "abcdef0123") == "20260101T120000Z-abcdef01"
    one = bundles.publish_bundle(tmp_path, seed=0).name
    two = bundles.publish_bundle(tmp_path, seed=1).name  # created at the same second
    assert one < two < next_id(tmp_path, now - timedelta(days=1), "0")
    assert next_id(tmp_path, now + timedelta(days=1), "0" * 64) == "20260102T120000Z-00000000"


def test_a_name_is_given_once(tmp_path):
    first = bundles.publish_bundle(tmp_path)
    staged = stage(tmp_path)
    again = replace(bundles.manifest(tmp_path, staged, bundles.fill(staged)), bundle_id=first.name)
    with pytest.raises(FileExistsError, match=first.name):
        publish(tmp_path, staged, again, keep=2)


def test_staging_removes_what_dead_jobs_left(tmp_path):
    left = stage(tmp_path)
    (left / "half").write_text("x")
    fresh = stage(tmp_path)
    assert not left.exists()
    assert list(fresh.iterdir()) == []
    assert history(tmp_path) == []


def test_a_bundle_that_does_not_open_is_never_published(tmp_path):
    first = bundles.publish_bundle(tmp_path)
    staged = stage(tmp_path)
    entries = bundles.fill(staged)
    manifest = bundles.manifest(tmp_path, staged, entries, items=5)
    with pytest.raises(CorruptArtifact, match="4 items, its manifest says 5"):
        publish(tmp_path, staged, manifest, keep=2)
    assert current(tmp_path) == first.name
    assert history(tmp_path) == [first.name]


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_every_altered_file_is_refused_by_name(published, tmp_path):
    manifest = Manifest.load(published)
    for n, name in enumerate(manifest.files):
        folder = bundles.copy_bundle(published, tmp_path / str(n))
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(CorruptArtifact, match=f"{name} differs from its checksum"):
            open_bundle(folder)
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(CorruptArtifact, match=f"{name} differs from its checksum"):
            open_bundle(folder)
        (folder / name).unlink()
        with pytest.raises(CorruptArtifact, match=f"lacks {name}"):
            open_bundle(folder)
    assert len(manifest.files) == 11


def test_a_file_that_nobody_listed_is_refused(broken):
    (broken / "models" / "extra.bin").write_text("x")
    with pytest.raises(CorruptArtifact, match=r"models/extra\.bin is not in its manifest"):
        verify(broken, Manifest.load(broken))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "files": 3}'])
def test_a_broken_manifest_is_refused_by_name(broken, content):
    (broken / MANIFEST_FILE).write_text(content)
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        open_bundle(broken)


def test_a_missing_manifest_is_refused_by_name(broken):
    (broken / MANIFEST_FILE).unlink()
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        open_bundle(broken)


def test_another_format_says_what_to_do(broken):
    document = json.loads((broken / MANIFEST_FILE).read_text()) | {"format": 2}
    (broken / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(CorruptArtifact, match="format 2; this version reads 1: materialize again"):
        open_bundle(broken)


def test_vectors_of_another_encoder_are_refused(broken, tmp_path):
    """A query encoder can't meet the item vectors of another training run, even where every checksum is right."""
    other = tmp_path / "other"
    other.mkdir()
    bundles.fill(other, seed=1)
    shutil.rmtree(broken / "models/m_retrieval")
    shutil.copytree(other / "models/m_retrieval", broken / "models/m_retrieval")
    bundles.remake_manifest(broken)
    with pytest.raises(CorruptArtifact, match="made by another item encoder"):
        open_bundle(broken)


def test_vectors_of_another_number_or_width_are_refused(broken):
    np.save(broken / "vectors/m.npy", np.zeros((3, 4), np.float32))
    bundles.remake_manifest(broken)
    with pytest.raises(CorruptArtifact, match="has 3 rows for 4 items"):
        open_bundle(broken)
    np.save(broken / "vectors/m.npy", np.zeros((4, 5), np.float32))
    bundles.remake_manifest(broken)
    with pytest.raises(CorruptArtifact, match="has width 5"):
        open_bundle(broken)


def test_models_change_places_in_vain(broken):
    retrieval, ranking = broken / "models/m_retrieval", broken / "models/m_ranking"
    retrieval.rename(broken / "models/x")
    ranking.rename(retrieval)
    (broken / "models/x").rename(ranking)
    bundles.remake_manifest(broken)
    with pytest.raises((CorruptArtifact, InvalidSignature), match="is no retrieval model"):
        open_bundle(broken)


def test_an_inventory_lists_every_file_with_size_and_checksum(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"abc")
    (tmp_path / MANIFEST_FILE).write_text("{}")
    entries = inventory(tmp_path)
    assert list(entries) == ["a/x"]
    assert entries["a/x"].bytes == 3
    assert entries["a/x"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_inventory_takes_over_what_is_linked_from_a_verified_bundle_and_reads_the_rest(published, tmp_path):
    manifest, fresh = Manifest.load(published), tmp_path / "fresh"
    told = FileEntry(manifest.files["vectors/m.npy"].bytes, "as told")
    manifest = replace(manifest, files={**manifest.files, "vectors/m.npy": told})
    fresh.mkdir()
    os.link(published / "vectors/m.npy", fresh / "linked.npy")
    shutil.copyfile(published / "vectors/m.npy", fresh / "copied.npy")
    entries = inventory(fresh, (published, manifest))
    assert entries["linked.npy"] == told
    assert entries["copied.npy"] == checksum(published / "vectors/m.npy")


def test_files_are_held_against_the_inventory_unless_it_was_just_taken(tmp_path):
    staged = stage(tmp_path)
    manifest = bundles.manifest(tmp_path, staged, bundles.fill(staged))
    wrong = replace(manifest, files={**manifest.files, "vectors/m.npy": FileEntry(1, "0" * 64)})
    with pytest.raises(CorruptArtifact, match=r"vectors/m\.npy differs"):
        publish(tmp_path, staged, wrong, keep=2)
    assert current(tmp_path) is None
    assert publish(tmp_path, staged, manifest, keep=2, verified=True).name == current(tmp_path)
    assert open_bundle(tmp_path / manifest.bundle_id).id == manifest.bundle_id


def test_killed_at_any_step_a_whole_bundle_is_current(tmp_path):
    """SIGKILL before every single change that publishing makes below the folder, each time followed by a good run."""
    template = tmp_path / "template"
    old = bundles.publish_bundle(template).name
    outcomes = []
    with Killer(__name__, "publish_second") as killer:
        for step in range(1, 1000):
            root = tmp_path / str(step)
            shutil.copytree(template, root)
            killed = killer.attempt(root, step)
            now = current(root)
            assert now is not None
            open_bundle(root / now)
            outcomes.append("old" if now == old else "new")
            for name in history(root):
                open_bundle(root / name)
            again = bundles.publish_bundle(root, seed=2, keep=2)
            assert current(root) == again.name
            assert [p.name for p in root.iterdir() if p.name.startswith(".")] == []
            shutil.rmtree(root)
            if not killed:
                break
    assert not killed
    assert step > 15
    assert outcomes == sorted(outcomes, reverse=True)  # old, old, ..., new
    assert set(outcomes) == {"old", "new"}
