"""Recognising model files by their keys."""

from __future__ import annotations

import pytest
from likeness.adapters.families import recognise

UNET = "model.diffusion_model."
EXAMPLES = [
    ("uniportrait-faceid", {"faceid_proj.latents": (1, 16, 768), "faceid_adapter.0.to_q_lora.down.weight": (128, 320)}),
    (
        "uniportrait-router",
        {"faceid_adapter.1.to_q_router.0.weight": (640, 320), "faceid_adapter.0.to_q_lora.down.weight": (128, 320)},
    ),
    ("uniportrait-part", {"faceid_adapter.0.to_q_lora.down.weight": (128, 320)}),
    ("curricular-face", {"input_layer.0.weight": (64, 3, 3, 3), "body.0.res_layer.0.weight": (64,)}),
    ("ip-adapter-sd15", {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)}),
    ("ip-adapter-sdxl", {"image_proj.proj.weight": (8192, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)}),
    ("ip-adapter-other", {"image_proj.latents": (1, 16, 768), "ip_adapter.1.to_k_ip.weight": (320, 768)}),
    ("ip-adapter-other", {"image_proj.proj.0.weight": (1024, 512), "ip_adapter.1.to_k_ip.weight": (320, 768)}),
    ("pulid-v1", {"id_adapter.body.0.weight": (1024, 1280), "id_adapter_attn_layers.1.id_to_k.weight": (640, 2048)}),
    ("pulid-v1", {"image_proj.body.0.weight": (1024, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)}),
    ("pulid-v1.1", {"id_adapter.latents": (1, 32, 1024), "id_adapter_attn_layers.1.id_to_k.weight": (640, 2048)}),
    (
        "pulid-v1.1",
        {
            "image_proj.latents": (1, 32, 1024),
            "image_proj.id_embedding_mapping.0.weight": (1024, 1280),
            "ip_adapter.1.to_k_ip.weight": (640, 2048),
        },
    ),
    ("pulid-flux", {"pulid_ca.0.to_q.weight": (2048, 3072), "pulid_encoder.latents": (1, 32, 1024)}),
    ("uniid-text", {"text_branch.text_resampler_1.proj_in.weight": (768, 512)}),
    ("uniid-text", {"text_resampler_1.proj_in.weight": (768, 512)}),
    ("uniid-adapter", {"adapter_branch.adapter_resampler.proj_face_recog_model_layers.0.weight": (768, 448)}),
    ("iresnet", {"layer4.2.conv2.weight": (512, 512, 3, 3), "features.running_mean": (512,)}),
    ("sd15", {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)}),
    ("sd15", {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768)}),
    ("sdxl", {f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048)}),
    ("flux", {f"{UNET}double_blocks.0.img_attn.qkv.weight": (9216, 3072)}),
    ("flux", {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}),
    ("clip-vision", {"vision_model.encoder.layers.0.self_attn.q_proj.weight": (1280, 1280)}),
    ("clip-vision", {"visual.transformer.resblocks.0.attn.in_proj_weight": (3840, 1280)}),
    ("lora", {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (16, 320)}),
    ("lora", {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (16, 768)}),
    ("lora", {"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": (16, 3072)}),
    ("likeness-identity", {"identity.cond": (16, 768), "identity.uncond": (16, 768)}),
    ("unknown", {"decoder.conv_in.weight": (512, 4, 3, 3)}),
    ("unknown", {}),
]


@pytest.mark.parametrize(("name", "shapes"), EXAMPLES)
def test_recognised(name, shapes):
    assert recognise(shapes).name == name


def test_base_models():
    bases = {name: recognise(shapes).base for name, shapes in EXAMPLES}
    assert {name for name, base in bases.items() if base == "SD 1.5"} == {
        "uniportrait-faceid",
        "uniportrait-router",
        "uniportrait-part",
        "ip-adapter-sd15",
        "ip-adapter-other",
        "sd15",
    }
    assert {name for name, base in bases.items() if base == "FLUX"} == {"pulid-flux", "flux"}
    assert bases["pulid-v1"] == bases["pulid-v1.1"] == bases["uniid-text"] == bases["uniid-adapter"] == "SDXL"


def test_real_reference_files(golden):
    """The files of the published implementation, under the names that they have inside."""
    unet, faces = golden("uniportrait", "unet_tiny"), golden("uniportrait", "face_embedding")
    backbone = golden("uniportrait", "backbone_ir")
    for weights, name in (
        (faces.weights("clip."), "clip-vision"),
        (faces.weights("backbone."), "curricular-face"),
        (backbone.weights(), "curricular-face"),
        (unet.weights("uniportrait-router_sd15/"), "uniportrait-router"),
        (unet.weights("ip-adapter_sd15/"), "ip-adapter-sd15"),
    ):
        assert weights
        assert recognise({key: tuple(value.shape) for key, value in weights.items()}).name == name
