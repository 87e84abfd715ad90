"""What kind of model a file holds, by its keys and shapes; so that an error can say what was given instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A kind of model file."""

    name: str  # stable, for programs
    base: str  # "SD 1.5", "SDXL", "FLUX", or "" where it depends on none
    label: str  # "a UniPortrait router file", for messages
    use: str  # where it belongs, ends such a message: "put it in router"


UNIPORTRAIT_FACEID = Family("uniportrait-faceid", "SD 1.5", "a UniPortrait faceid file", "put it in faceid")
UNIPORTRAIT_ROUTER = Family("uniportrait-router", "SD 1.5", "a UniPortrait router file", "put it in router")
UNIPORTRAIT_PART = Family(
    "uniportrait-part", "SD 1.5", "a UniPortrait file without faceid_proj and without router keys", "it is incomplete"
)
FACE_BACKBONE = Family(
    "curricular-face", "", "a CurricularFace IR backbone", "put it in the face recognition backbone's place"
)
IP_ADAPTER_SD15 = Family("ip-adapter-sd15", "SD 1.5", "an IP-Adapter for SD 1.5", "put it in image_prompt")
LIKENESS_IDENTITY = Family("likeness-identity", "", "a saved Likeness identity", "open it with Load Identity")
PULID_V1 = Family("pulid-v1", "SDXL", "a PuLID v1 file", "open it with Load PuLID and use it with an SDXL model")
PULID_V1_1 = Family("pulid-v1.1", "SDXL", "a PuLID v1.1 file", "open it with Load PuLID and use it with an SDXL model")
PULID_FLUX = Family(
    "pulid-flux", "FLUX", "a PuLID file for FLUX", "open it with Load PuLID and use it with a FLUX model"
)
_UNIID_USE = "open it with Load UniID and use it with an SDXL model"
UNIID_TEXT = Family("uniid-text", "SDXL", "a UniID text branch", _UNIID_USE)
UNIID_ADAPTER = Family("uniid-adapter", "SDXL", "a UniID adapter branch", _UNIID_USE)
UNIID = Family("uniid", "SDXL", "a UniID file with both branches", _UNIID_USE)
UNIID_PART = Family("uniid-part", "SDXL", "a part of a UniID file", "it is incomplete")
PULID_PART = Family("pulid-part", "SDXL", "a PuLID file without its ID encoder", "it is incomplete")
IRESNET = Family("iresnet", "", "an ArcFace iresnet backbone", "put it in the backbone's place of Load UniID")
EVA_CLIP = Family("eva-clip", "", "an EVA-CLIP vision tower", "PuLID's ID encoder reads it: put it in EVA-CLIP's place")
FACE_PARSER = Family("face-parsing", "", "a face parsing model", "put it into models/facexlib")
UNKNOWN = Family("unknown", "", "no model that Likeness knows", "check where it comes from")

_UNIID_TEXT_KEY = r"(^|\.)text_resampler_1\.proj_in\.weight "
_UNIID_ADAPTER_KEY = r"(^|\.)adapter_resampler\.proj_face_recog_model_layers\.0\.weight "
_OTHER_LOADER = "load it with ComfyUI's own {} node"

# (pattern, family): the first pattern found wins. It is matched against lines "key AxBxC".
_RULES: tuple[tuple[str, Family], ...] = (
    (r"^identity\.cond ", LIKENESS_IDENTITY),
    (r"^faceid_proj\.", UNIPORTRAIT_FACEID),
    (r"^faceid_adapter\.\d+\.(to_q_router|to_k_router|aggr_router)\.", UNIPORTRAIT_ROUTER),
    (r"^faceid_adapter\.", UNIPORTRAIT_PART),
    (r"^pulid_(ca\.\d+|encoder)\.", PULID_FLUX),
    (
        r"^(id_former\.|(double|single)_ca\.\d+\.)",
        Family("pulid-flux2", "FLUX.2", "an unofficial PuLID file for FLUX.2", "Likeness has no PuLID for FLUX.2"),
    ),
    (r"^(id_adapter\.(latents |proj_out |layers\.)|(id_adapter|image_proj)\.id_embedding_mapping\.)", PULID_V1_1),
    (r"^(id_adapter|image_proj)\.(body|mapping_patch_\d)\.", PULID_V1),
    (r"^id_adapter(_attn_layers)?\.", PULID_PART),
    (rf"\A(?=[\s\S]*{_UNIID_TEXT_KEY})(?=[\s\S]*{_UNIID_ADAPTER_KEY})", UNIID),
    (_UNIID_TEXT_KEY, UNIID_TEXT),
    (_UNIID_ADAPTER_KEY, UNIID_ADAPTER),
    (r"(^|\.)(text_resampler_\d|adapter_resampler|adapter_modules\.\d+)\.", UNIID_PART),
    (r"^body\.\d+\.res_layer\.0\.weight ", FACE_BACKBONE),
    (r"^features\.running_mean ", IRESNET),
    (
        r"^ip_adapter\.\d+\.to_k_ip\.weight \d+x2048$",
        Family("ip-adapter-sdxl", "SDXL", "an IP-Adapter for SDXL", "UniPortrait takes the one for SD 1.5"),
    ),
    (
        r"^image_proj\.(latents|proj\.\d|perceiver_resampler\.)",
        Family(
            "ip-adapter-other",
            "SD 1.5",
            "an IP-Adapter Plus, Full or FaceID",
            "UniPortrait takes the plain ip-adapter_sd15",
        ),
    ),
    (r"^ip_adapter\.\d+\.to_k_ip\.weight ", IP_ADAPTER_SD15),
    (
        r"(lora_(up|down|A|B)\.|\.lora_(up|down|A|B)\b|hada_w1_a|lokr_w1)",
        Family("lora", "", "an ordinary LoRA", _OTHER_LOADER.format("LoRA loader")),
    ),
    (
        r"(^|\.)double_blocks\.0\.img_attn\.qkv\.weight ",
        Family("flux", "FLUX", "a FLUX diffusion model", _OTHER_LOADER.format("Load Diffusion Model")),
    ),
    (
        r"(input_blocks|down_blocks)\.\d+\..*attn2\.to_k\.weight \d+x768$",
        Family("sd15", "SD 1.5", "an SD 1.5 checkpoint", _OTHER_LOADER.format("Load Checkpoint")),
    ),
    (
        r"(input_blocks|down_blocks)\.\d+\..*attn2\.to_k\.weight \d+x1024$",
        Family("sd2", "SD 2", "an SD 2 checkpoint", _OTHER_LOADER.format("Load Checkpoint")),
    ),
    (
        r"(input_blocks|down_blocks)\.\d+\..*attn2\.to_k\.weight \d+x2048$",
        Family("sdxl", "SDXL", "an SDXL checkpoint", _OTHER_LOADER.format("Load Checkpoint")),
    ),
    (
        r"^(visual\.)?(trunk\.)?blocks\.\d+\.(attn\.(q_bias |q_proj\.)|mlp\.(w1|fc1_g)\.)",
        EVA_CLIP,
    ),
    (
        r"^(module\.)?ClassHead\.\d+\.conv1x1\.weight ",
        Family("retinaface", "", "facexlib's face detector", "put it into models/facexlib"),
    ),
    (
        r"^(module\.)?(cp\.resnet\.conv1\.weight |out_mask_conv\.)",
        FACE_PARSER,
    ),
    (
        r"(^|\.)(vision_model\.encoder\.layers\.0\.|visual\.transformer\.resblocks\.0\.)",
        Family("clip-vision", "", "a CLIP vision model", _OTHER_LOADER.format("Load CLIP Vision")),
    ),
)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """The family of a file from the shapes of its tensors by flat key; `UNKNOWN` where no rule fits."""
    lines = "\n".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items())
    for pattern, family in _RULES:
        if re.search(pattern, lines, re.MULTILINE):
            return family
    return UNKNOWN
