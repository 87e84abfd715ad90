"""Class Word: the word for a person in a prompt, read off a face or chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

PROMPT = "photo of a <class word>, a <class word> at work"


@pytest.fixture
def faces():
    """`faces("red", "green")`: pictures of these colours, with a face in each; the last one's is the largest."""
    from likeness.faces.alignment import TEMPLATE_112
    from likeness.faces.types import Face, Faces, largest_first

    def make(*colours):
        red_green = {"red": (200, 50, 0), "green": (50, 200, 0)}
        pictures = tuple(np.full((200, 200, 3), red_green[colour], np.uint8) for colour in colours)
        found = [
            Face((50.0, 50.0, 100.0 + 20 * number, 100.0), TEMPLATE_112.astype(np.float32), 1.0, number)
            for number in range(len(colours))
        ]
        return Faces(pictures, largest_first(found), "bundled")

    return make


@pytest.fixture
def gender_file(node_classes):
    """A network in models/insightface that says "man" to what is more green than red."""
    import folder_paths

    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
            onnx.helper.make_node("Flatten", ["mean"], ["answers"]),
        ],
        "genderage",
        [onnx.helper.make_tensor_value_info("data", kind, [1, 3, 96, 96])],
        [onnx.helper.make_tensor_value_info("answers", kind, [1, 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = Path(folder_paths.models_dir) / "insightface" / "models" / "buffalo_l" / "genderage.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    yield path
    path.unlink()


def test_the_largest_face_decides(call, shown, faces, gender_file):
    inputs = dict(prompt=PROMPT, word={"word": "auto"})
    assert call("ClassWord", faces=faces("green"), **inputs) == ("photo of a man, a man at work", "man")
    assert call("ClassWord", faces=faces("green", "red"), **inputs)[1] == "woman"
    text = shown("ClassWord", faces=faces("red"), **inputs)
    assert text == f"woman, guessed by genderage.onnx in {gender_file.parent}"


def test_without_a_face_or_a_network_it_is_a_person(shown, call, faces):
    inputs = dict(prompt=PROMPT, word={"word": "auto"})
    assert call("ClassWord", **inputs) == ("photo of a person, a person at work", "person")
    assert shown("ClassWord", **inputs) == "person, because no faces are connected"
    assert shown("ClassWord", faces=faces("red").select([]), **inputs) == "person, because no face was found"
    text = shown("ClassWord", faces=faces("red"), **inputs)
    assert text.startswith("person, because genderage.onnx (pack buffalo_l or antelopev2) is not in models/insightface")


@pytest.mark.parametrize(
    ("word", "chosen"),
    [
        ({"word": "woman"}, "woman"),
        ({"word": "man"}, "man"),
        ({"word": "person"}, "person"),
        ({"word": "custom", "custom_word": " old man "}, "old man"),
    ],
)
def test_a_word_that_is_chosen_counts_more_than_the_face(call, faces, gender_file, word, chosen):
    prompt, used = call("ClassWord", prompt=PROMPT, word=word, faces=faces("red"))
    assert used == chosen and prompt == f"photo of a {chosen}, a {chosen} at work"


def test_an_empty_word_is_refused(call):
    with pytest.raises(ValueError, match="Class Word: custom_word is empty"):
        call("ClassWord", prompt=PROMPT, word={"word": "custom", "custom_word": " "})


def test_a_prompt_without_the_place_stays_as_it_is(call, shown):
    inputs = dict(prompt="photo of a dog", word={"word": "man"})
    assert call("ClassWord", **inputs)[0] == "photo of a dog"
    assert "Warning: the prompt has no <class word>, so it stays as it is" in shown("ClassWord", **inputs)
