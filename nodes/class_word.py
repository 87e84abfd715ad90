"""The node Class Word."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..faces.gender import CLASS_WORDS, load_gender_network
from ..faces.insightface_packs import GENDER
from ..faces.types import Faces
from .model_folders import INSIGHTFACE, model_folders
from .previews import shown
from .types import FacesType

PLACEHOLDER = "<class word>"  # as in the published prompts
AUTO, PERSON, CUSTOM = "auto", "person", "custom"


class ClassWord(io.ComfyNode):
    """Puts the word for a person into a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        custom = io.String.Input(
            "custom_word", default="", tooltip="Any word or words for this person, such as old man or girl."
        )
        return io.Schema(
            node_id="Likeness_ClassWord",
            display_name="Class Word",
            category="Likeness/UniID",
            description=f"Puts man, woman or another word into a prompt in place of {PLACEHOLDER}. UniID was trained "
            "with such prompts.",
            search_aliases=["class word", "gender", "uniid", "man or woman", "prompt word"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default=f"photo of a {PLACEHOLDER}",
                    multiline=True,
                    tooltip=f"The prompt, with {PLACEHOLDER} wherever the word belongs.",
                ),
                io.DynamicCombo.Input(
                    "word",
                    options=[
                        *(io.DynamicCombo.Option(word, []) for word in (AUTO, *sorted(CLASS_WORDS), PERSON)),
                        io.DynamicCombo.Option(CUSTOM, [custom]),
                    ],
                    tooltip="auto: read off the largest face by genderage.onnx of an insightface pack; person where "
                    "there is none. custom: your own word.",
                ),
                FacesType.Input(
                    "faces",
                    optional=True,
                    tooltip="The person's photos, from Detect Faces or Pick Faces. Only auto looks at them.",
                ),
            ],
            outputs=[
                io.String.Output("prompt", display_name="prompt", tooltip="The prompt with the word, to be encoded."),
                io.String.Output("word", display_name="word", tooltip="The word alone."),
            ],
        )

    @classmethod
    def execute(cls, prompt: str, word: dict[str, Any], faces: Faces | None = None) -> io.NodeOutput:
        warnings = []
        choice = word["word"]
        if choice == AUTO:
            chosen, source = _detected(faces)
        elif choice == CUSTOM:
            chosen, source = word["custom_word"].strip(), "as written"
            if not chosen:
                raise ValueError("Class Word: custom_word is empty. Write a word, or choose person.")
        else:
            chosen, source = choice, "as chosen"
        if PLACEHOLDER not in prompt:
            warnings.append(f"the prompt has no {PLACEHOLDER}, so it stays as it is")
        text = f"{chosen}, {source}"
        return io.NodeOutput(prompt.replace(PLACEHOLDER, chosen), chosen, ui=shown(cls, text, warnings))


def _detected(faces: Faces | None) -> tuple[str, str]:
    """The word for the largest face, and where it comes from; "person" if nothing can be read off one."""
    if faces is None or not len(faces):
        missing = "no faces are connected" if faces is None else "no face was found"
        return PERSON, f"because {missing}"
    network = load_gender_network(model_folders(INSIGHTFACE))
    if network is None:
        packs = " or ".join(GENDER.files)
        (file,) = set(GENDER.files.values())
        return PERSON, f"because {file} (pack {packs}) is not in models/insightface; choose a word yourself"
    largest = max(faces, key=lambda face: face.area)
    return network.class_word(faces.images[largest.image_index], largest.box), f"guessed by {network.name}"
