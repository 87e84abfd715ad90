"""The whole evaluation in a world whose scores are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from likeness.evaluation.evaluate import AT_ONCE, Extras, evaluate
from likeness.evaluation.metrics.frechet import FidReference
from likeness.evaluation.results import results_json

COS = 0.6  # of eve and ann


@pytest.fixture
def judge(make_judge):
    return make_judge(eve=(COS, 0, 0, 0.8))


def mean(results, row, metric):
    return results.rows[row].scores[metric].mean


def test_one_person_rows(make_picture, judge, detector):
    pictures = [
        make_picture("good", ["ann"], "ann"),
        make_picture("good", ["eve"], "ann"),
        make_picture("bad", ["bob"], "ann"),
        make_picture("bad", [], "bob"),
        make_picture("beside", ["bob", "ann"], "ann"),
    ]
    results = evaluate(pictures, judge, detector)
    assert mean(results, "good", "face_sim/colours") == pytest.approx((1 + COS) / 2)
    assert mean(results, "good", "unmatched/colours") == 0
    assert mean(results, "bad", "face_sim/colours") == 0 and mean(results, "bad", "unmatched/colours") == 1
    assert mean(results, "bad", "detected") == 0.5 and mean(results, "bad", "faces") == 0.5
    assert mean(results, "beside", "face_sim/colours") == pytest.approx(0)  # bob is the largest face
    assert "blending/colours" not in results.rows["good"].scores
    assert results.rows["good"].scores["face_sim/colours"].clusters == 1
    assert results.rows["bad"].scores["face_sim/colours"].clusters == 2


def test_rows_of_several_people(make_picture, judge, detector):
    pictures = [
        make_picture("right", ["ann", "bob"], "ann", "bob"),
        make_picture("right", ["bob", "cat"], "cat", "bob"),
        make_picture("blended", ["eve", "ann"], "ann", "bob"),
        make_picture("one missing", ["ann"], "ann", "bob"),
        make_picture("crowd", ["cat", "ann", "eve"], "ann", "cat"),
    ]
    results = evaluate(pictures, judge, detector)
    assert mean(results, "right", "face_sim/colours") == pytest.approx(1)
    assert mean(results, "right", "blending/colours") == pytest.approx(0)
    assert mean(results, "blended", "face_sim/colours") == 0
    assert mean(results, "blended", "blending/colours") == pytest.approx(COS)
    assert mean(results, "blended", "duplicates/colours") == 1 and mean(results, "right", "duplicates/colours") == 0
    assert mean(results, "blended", "unmatched/colours") == 0.5
    assert mean(results, "one missing", "face_sim/colours") == 0
    assert "blending/colours" not in results.rows["one missing"].scores
    assert mean(results, "one missing", "detected") == 0 and mean(results, "one missing", "duplicates/colours") == 0
    assert mean(results, "crowd", "face_sim/colours") == pytest.approx(1)


def test_each_face_says_whom_it_was_taken_for(make_picture, judge, detector, people):
    picture = make_picture("row", ["bob", "eve"], "ann", "bob", others=(people["cat"],))
    (scored,) = evaluate([picture], judge, detector).pictures
    assert [face.matches["colours"] for face in scored.faces] == [("bob", 1.0), ("ann", pytest.approx(COS))]
    assert scored.cosines["colours"] == {"ann": 0, "bob": 1, "cat": 0}  # of the largest face, bob's
    assert scored.people == ("ann", "bob")


def test_levels_come_from_the_references(make_picture, judge, detector, draw):
    from likeness.evaluation.pictures import Reference

    ann = Reference("ann", (draw("ann"), draw("eve")))
    picture = make_picture("row", ["ann"], "bob")
    results = evaluate([picture, replace(picture, row="other", references=(ann,))], judge, detector)
    level = results.levels["colours"]
    assert level.same == pytest.approx(COS) and level.strangers == pytest.approx(0) and level.auc == 1
    assert mean(results, "other", "face_sim/colours") == pytest.approx((1 + COS) / 2)  # mean over photos


def test_routing_is_judged_by_masks_or_by_the_faces_that_were_found(make_picture, judge, detector):
    right = np.repeat([[0, 0, 1, 1]], 4, axis=0).astype(np.uint8)
    halves = np.zeros((2, 64, 128), bool)
    halves[0, :, :64], halves[1, :, 64:] = True, True
    routing = {17: right, 3: np.zeros((4, 4), np.uint8)}
    pictures = [
        make_picture("masks", ["ann", "bob"], "ann", "bob", routing=routing, masks=halves),
        make_picture("found", ["ann", "bob"], "ann", "bob", routing=routing),
        make_picture("swapped", ["bob", "ann"], "ann", "bob", routing=routing),
        make_picture("nobody", [], "ann", "bob", routing=routing),
    ]
    results = evaluate(pictures, judge, detector)
    assert mean(results, "masks", "routing_accuracy") == 0.75
    assert mean(results, "masks", "routing_accuracy/layer 3") == 0.5
    assert mean(results, "masks", "routing_accuracy/layer 17") == 1
    assert mean(results, "found", "routing_agreement/layer 17") == 1
    assert mean(results, "swapped", "routing_agreement/layer 17") == 0
    assert not any(metric.startswith("routing") for metric in results.rows["nobody"].scores)
    with pytest.raises(ValueError, match=r"has masks of shape \(1, 64, 128\) for 2 people"):
        evaluate([replace(pictures[0], masks=halves[:1])], judge, detector)


def test_attributes_are_read_from_the_picture_and_its_faces(make_picture, judge, detector):
    def read(image, faces):
        assert image.dtype == np.uint8
        return {"people": len(faces), "wide": image.shape[1] > image.shape[0]}

    pictures = [
        make_picture("row", ["ann", "bob"], "ann", "bob", expected={"people": 2, "wide": False, "hat": "red"}),
        make_picture("row", ["ann"], "ann", "bob", expected={"people": 2}),
        make_picture("row", ["ann"], "ann", "bob"),
    ]
    results = evaluate(pictures, judge, detector, extras=Extras(read_attributes=read))
    scores = results.rows["row"].scores
    assert scores["attributes"].mean == pytest.approx((1 / 3 + 0) / 2) and scores["attributes"].n == 2
    assert scores["attributes/people"].mean == 0.5 and scores["attributes/hat"].mean == 0


class MeanColour:
    """A feature network with a closed form."""

    def describe(self):
        return {"name": "mean colour"}

    def features(self, images):
        return np.stack([image.reshape(-1, 3).mean(axis=0) for image in images])


def test_fid_compares_with_another_row_or_with_files(make_picture, judge, detector, tmp_path, draw):
    pytest.importorskip("torchmetrics.image.fid", exc_type=ImportError)
    from PIL import Image

    drawn = [["ann"], ["bob"], ["cat"]]
    pictures = [make_picture(row, one, "ann") for row in ("base", "same") for one in drawn]
    pictures += [make_picture("red", ["ann"], "ann") for _ in range(3)]
    results = evaluate(pictures, judge, detector, extras=Extras(fid=FidReference(MeanColour(), row="base")))
    assert results.rows["base"].fid is None
    assert results.rows["same"].fid == pytest.approx(0, abs=1e-3)  # rounding of sums of squares of colours
    files = []
    for number, one in enumerate(drawn):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(draw(*one)).save(files[-1])
    from_files = evaluate(pictures, judge, detector, extras=Extras(fid=FidReference(MeanColour(), tuple(files))))
    assert from_files.rows["red"].fid == pytest.approx(results.rows["red"].fid) and results.rows["red"].fid > 100
    assert from_files.tools["fid"] == {"name": "mean colour", "reference": "3 pictures"}
    with pytest.raises(ValueError, match="compares to the row 'nothing', which is not among base, same, red"):
        evaluate(pictures, judge, detector, extras=Extras(fid=FidReference(MeanColour(), row="nothing")))
    with pytest.raises(ValueError, match="at least two reference pictures, .* got 1"):
        evaluate(pictures, judge, detector, extras=Extras(fid=FidReference(MeanColour(), tuple(files[:1]))))


def test_many_pictures_are_measured_in_parts_as_in_one(make_picture, judge, detector):
    names = ["ann", "bob", "eve"] * (AT_ONCE // 2)
    pictures = [make_picture("row", [name], "ann") for name in names]
    results = evaluate(pictures, judge, detector)
    assert [scored.scores["face_sim/colours"] for scored in results.pictures] == pytest.approx(
        [{"ann": 1, "bob": 0, "eve": COS}[name] for name in names]
    )


def test_a_second_opinion_may_condition_and_a_judge_may_not(make_picture, judge, make_judge, detector):
    pictures = [make_picture("row", ["ann"], "ann")]
    backbone = make_judge(name="backbone", fingerprint="b" * 64, ann=(1, 1, 0, 0))
    with pytest.raises(ValueError, match="the judge backbone .* conditions these pictures"):
        evaluate(pictures, [judge, backbone], detector, conditioned_by=["b" * 64])
    results = evaluate(pictures, judge, detector, second_opinions=[backbone], conditioned_by=["b" * 64])
    assert set(results.rows["row"].scores) >= {"face_sim/colours", "face_sim/backbone"}
    assert [tool["name"] for tool in results.tools["second_opinions"]] == ["backbone"]
    assert results.tools["conditioned_by"] == ["b" * 64]
    with pytest.raises(ValueError, match="a second opinion alone is no measurement"):
        evaluate(pictures, [], detector, second_opinions=[backbone])
    with pytest.raises(ValueError, match="every judge needs a name of its own, got colours, colours"):
        evaluate(pictures, [judge, judge], detector)


def test_what_makes_no_sense_is_refused(make_picture, judge, detector):
    with pytest.raises(ValueError, match="no pictures to measure"):
        evaluate([], judge, detector)
    twice = [make_picture("row", ["ann"], "ann", name="a.png")] * 2
    with pytest.raises(ValueError, match="two pictures of the row 'row' are called 'a.png'"):
        evaluate(twice, judge, detector)
    mixed = [make_picture("row", ["ann"], "ann"), make_picture("row", ["ann"], "ann", "bob")]
    with pytest.raises(ValueError, match="the row 'row' mixes pictures of one person and of several"):
        evaluate(mixed, judge, detector)


def test_results_name_everything_and_are_the_same_bytes_twice(make_picture, judge, detector):
    def run():
        pictures = [
            make_picture("row", [drawn], wanted, name=f"{drawn}-{wanted}.png")
            for drawn in ("ann", "bob", "eve")
            for wanted in ("ann", "bob", "cat")
        ]
        return results_json(evaluate(pictures, judge, detector, seed=3))

    assert run() == run()
    content = json.loads(run())
    assert content["tools"]["judges"][0] | {"centre": None} == content["tools"]["judges"][0]
    assert content["tools"]["judges"][0]["sha256"] == "a" * 64 and content["tools"]["detector"] == "colours"
    assert set(content["definitions"]) == {name.split("/")[0] for name in content["rows"]["row"]["scores"]}
    score = content["rows"]["row"]["scores"]["face_sim/colours"]
    assert score["n"] == 9 and score["clusters"] == 3 and score["low"] <= score["mean"] <= score["high"]
    assert len(content["pictures"]) == 9 and content["pictures"][0]["faces"][0]["box"]
    assert "2000 replicates, seed 3" in content["interval"]


def test_a_row_gives_its_values_back(make_picture, judge, detector):
    pictures = [make_picture("row", [name], "ann") for name in ("ann", "bob")]
    results = evaluate(pictures, judge, detector)
    assert results.values("row", "face_sim/colours") == ([pytest.approx(1), pytest.approx(0)], [("ann",), ("ann",)])
