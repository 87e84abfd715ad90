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
    ("pulid-v1", {"id_adapter.mapping_patch_0.0.weight": (1024, 1024)}),  # a part, still told apart
    ("pulid-v1.1", {"id_adapter.layers.0.0.to_kv.weight": (2048, 1024)}),
    ("pulid-v1.1", {"id_adapter.id_embedding_mapping.0.weight": (1024, 1280)}),
    ("pulid-part", {"id_adapter_attn_layers.1.id_to_k.weight": (640, 2048)}),
    ("pulid-flux", {"pulid_ca.0.to_q.weight": (2048, 3072), "pulid_encoder.latents": (1, 32, 1024)}),
    ("pulid-flux", {"pulid_encoder.latents": (1, 32, 1024)}),
    ("pulid-flux2", {"id_former.latents": (1, 4, 4096), "double_ca.0.to_q.weight": (1024, 4096)}),
    ("eva-clip", {"visual.blocks.0.attn.q_bias": (1024,), "visual.blocks.0.mlp.w1.weight": (2730, 1024)}),
    ("eva-clip", {"visual.trunk.blocks.0.attn.q_proj.weight": (1024, 1024)}),
    ("eva-clip", {"blocks.0.mlp.fc1_g.weight": (2730, 1024)}),
    ("face-parsing", {"cp.resnet.conv1.weight": (64, 3, 7, 7), "ffm.convblk.conv.weight": (256, 256, 1, 1)}),
    ("retinaface", {"body.conv1.weight": (64, 3, 7, 7), "ClassHead.0.conv1x1.weight": (4, 256, 1, 1)}),
    ("retinaface", {"module.ClassHead.0.conv1x1.weight": (4, 256, 1, 1)}),
    ("uniid-text", {"text_branch.text_resampler_1.proj_in.weight": (768, 512)}),
    ("uniid-text", {"text_resampler_1.proj_in.weight": (768, 512)}),
    ("uniid-adapter", {"adapter_branch.adapter_resampler.proj_face_recog_model_layers.0.weight": (768, 448)}),
    (
        "uniid",
        {
            "text_branch.text_resampler_1.proj_in.weight": (768, 512),
            "adapter_branch.adapter_resampler.proj_face_recog_model_layers.0.weight": (768, 448),
        },
    ),
    (
        "uniid",  # in the other order, without prefixes
        {
            "adapter_resampler.proj_face_recog_model_layers.0.weight": (768, 448),
            "text_resampler_1.proj_in.weight": (768, 512),
        },
    ),
    ("uniid-part", {"text_branch.text_resampler_2.proj_in.weight": (1280, 512)}),
    ("uniid-part", {"adapter_branch.adapter_modules.1.to_k_ip.weight": (640, 2048)}),
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
    assert bases["pulid-flux2"] == "FLUX.2"
    sdxl = {"pulid-v1", "pulid-v1.1", "pulid-part", "uniid", "uniid-text", "uniid-adapter", "uniid-part"}
    assert {name for name, base in bases.items() if base == "SDXL"} == sdxl | {"ip-adapter-sdxl", "sdxl"}


PULID_FILES = [
    ("01_id_encoder_v1", "pulid-v1"),
    ("02_id_former", "pulid-v1.1"),
    ("04_flux_ca", "pulid-flux"),
    ("07_eva_clip_tiny", "eva-clip"),
]


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
        *((golden("pulid", name).weights(), family) for name, family in PULID_FILES),
        (golden("uniid", "01_text_branch").part("text_branch."), "uniid-text"),
        (golden("uniid", "02_adapter_resampler").part("adapter_branch."), "uniid-adapter"),
    ):
        assert weights
        assert recognise({key: tuple(value.shape) for key, value in weights.items()}).name == name
