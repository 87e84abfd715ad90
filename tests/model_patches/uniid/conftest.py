"""The tiny system of UniID's reference files inside ComfyUI, and what runs of it are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from likeness.adapters.checkpoint import save_tensors
from likeness.adapters.identity import Identity
from likeness.adapters.perceiver import HEADS_KEY
from likeness.adapters.text_branch import heads_key
from likeness.adapters.uniid import load_uniid
from likeness.adapters.uniid_tokens import uniid_tokens


@dataclass(frozen=True)
class PublishedSystem:
    """Reference file 00 inside ComfyUI: model, text encoders, UniID, and the face of the other files."""

    model: Any
    clip: Any
    models: Any
    person: Identity


@pytest.fixture(scope="session")
def published(golden: Any, published_sdxl: Any, tmp_path_factory: pytest.TempPathFactory) -> PublishedSystem:
    import comfy.ops
    from likeness.model_patches.uniid_models import UniidModels

    file = golden("uniid", "00_system_weights")
    config, folder = file.metadata["config"], tmp_path_factory.mktemp("uniid")
    tensors = {
        prefix + key: value
        for prefix in ("text_branch.", "adapter_branch.")
        for key, value in file.part(prefix).items()
    }
    text, adapter = config["text_branch"], config["adapter_branch"]
    heads = {heads_key(k): str(text[f"cross_attention_dim_{k}"] // text["dim_head"]) for k in (1, 2)}
    heads[HEADS_KEY] = str(adapter["hidden_dim"] // adapter["dim_head"])
    save_tensors(folder / "uniid.safetensors", tensors, heads)
    weights = load_uniid([folder / "uniid.safetensors"], comfy.ops.manual_cast)
    face = file.part("face.")
    tokens = uniid_tokens(weights, face["output"], [face[f"hidden_{level}"] for level in range(4)])
    models = UniidModels(weights)
    model = published_sdxl(config["unet"], file.part("unet."))
    return PublishedSystem(
        model, toy_clip(file, folder), models, Identity(models.system, weights.fingerprint, tokens, "face")
    )


def toy_clip(file: Any, folder: Any) -> Any:
    """ComfyUI's own CLIP object for SDXL around the reference's tiny encoders and vocabulary."""
    import comfy.sd
    from comfy.sd1_clip import SDTokenizer
    from comfy.sdxl_clip import SDXLClipGTokenizer, SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    config = file.metadata["config"]
    (folder / "vocab.json").write_text(json.dumps(config["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *config["merges"]]))

    class ToyTokenizer(SDXLTokenizer):
        def __init__(self, **_: Any) -> None:
            self.clip_l, self.clip_g = SDTokenizer(str(folder)), SDXLClipGTokenizer(str(folder))

    class ToyEncoders(SDXLClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            sizes = {"clip_l_model_config": config["text_encoder"], "clip_g_model_config": config["text_encoder_2"]}
            super().__init__(device, dtype, {**(model_options or {}), **sizes})
            start, end = config["text_encoder"]["bos_token_id"], config["text_encoder"]["eos_token_id"]
            self.clip_l.special_tokens = {"start": start, "end": end, "pad": end}
            self.clip_g.special_tokens = {"start": start, "end": end, "pad": 0}
            pooled, width = file.tensors["text_encoder_2.text_projection.weight"].shape
            self.clip_g.transformer.text_projection = torch.nn.Linear(width, pooled, bias=False)

    clip = comfy.sd.CLIP(ClipTarget(ToyTokenizer, ToyEncoders))
    for encoder, prefix in (
        (clip.cond_stage_model.clip_l, "text_encoder."),
        (clip.cond_stage_model.clip_g, "text_encoder_2."),
    ):
        state = file.part(prefix)
        table = encoder.transformer.get_input_embeddings().weight
        key = "text_model.embeddings.token_embedding.weight"
        state[key] = torch.cat([state[key], torch.zeros(len(table) - len(state[key]), table.shape[1])])
        missing, unexpected = encoder.transformer.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"text_projection.weight"}, (missing, unexpected)
    return clip


@dataclass(frozen=True)
class Seen:
    """What one call of the UNet was given, for one conditioning."""

    negative: bool
    x: torch.Tensor  # (B, 4, h, w), as the UNet reads it
    context: torch.Tensor  # (B, L, D)
    predicted: torch.Tensor


@pytest.fixture(scope="session")
def watched() -> Callable[[Any], tuple[Any, list[Seen]]]:
    """`watched(model)` -> a clone, and the calls that its runs will make of the UNet, in order."""
    from comfy.patcher_extension import WrappersMP

    def watch(model: Any) -> tuple[Any, list[Seen]]:
        calls: list[Seen] = []

        def look(
            executor: Any,
            x: torch.Tensor,
            timesteps: Any,
            context: Any,
            y: Any,
            control: Any,
            options: Any,
            **rest: Any,
        ) -> torch.Tensor:
            out = executor(x, timesteps, context, y, control, options, **rest)
            chunks = len(options["cond_or_uncond"])
            parts = zip(options["cond_or_uncond"], *(each.chunk(chunks) for each in (x, context, out)), strict=True)
            calls.extend(Seen(bool(kind), *(each.clone() for each in tensors)) for kind, *tensors in parts)
            return out

        probe = model.clone()
        probe.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", look)
        return probe, calls

    return watch


@dataclass(frozen=True)
class Used:
    """What one call of the UNet used: its noise level, the words' scale, the adapter branch's in each row."""

    sigma: float
    text: float | None  # None where no row is a prompt with words
    adapter: float


@dataclass(frozen=True)
class TinyUniid:
    """UniID on the tiny SDXL with random weights, and what its runs use."""

    model: Any
    models: Any
    lab: Any
    people: list[Identity]

    def apply(
        self, positive: Any = None, people: int = 1, model: Any = None, models: Any = None, **settings: Any
    ) -> Any:
        """Model and prompt with so many people."""
        from likeness.model_patches.uniid import UniidSettings, apply_uniid

        prompt = self.lab.prompt(11) if positive is None else positive
        chosen = UniidSettings(**settings)
        return apply_uniid(model or self.model, prompt, models or self.models, self.people[:people], chosen)[:2]

    def recorded(self, model: Any) -> tuple[Any, list[Used]]:
        """A clone whose runs note what each call of the UNet uses."""
        from comfy.ldm.modules.attention import optimized_attention
        from comfy.patcher_extension import WrappersMP

        probe, calls, adapter = model.clone(), [], []
        inner = (
            probe.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {}).get(("input", 4, 0))
        )

        def slot(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
            """With rescaling the added part is as long as the text's result, times the scale."""
            plain = optimized_attention(q, k, v, options["n_heads"])
            out = plain if inner is None else inner(q, k, v, options)
            scales = (out - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
            assert scales.max() - scales.min() < 1e-3, "the rows of one call have different scales"
            adapter.append(float(scales[0]))
            return out

        def look(
            executor: Any, x: torch.Tensor, timesteps: Any, context: torch.Tensor, *args: Any, **rest: Any
        ) -> torch.Tensor:
            options = args[2]
            out = executor(x, timesteps, context, *args, **rest)
            chunks = zip(options["cond_or_uncond"], context.chunk(len(options["cond_or_uncond"])), strict=True)
            text = [float(part[0, 1:4].norm() / words) for kind, part in chunks if kind == 0]
            assert len(set(text)) <= 1, "two phases of the prompt were active at once"
            calls.append(Used(float(options["sigmas"][0]), text[0] if text else None, adapter[-1]))
            return out

        words = self.people[0].tokens["text"].norm()
        probe.set_model_attn2_replace(slot, "input", 4, 0)
        probe.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", look)
        return probe, calls


@pytest.fixture(scope="module")
def tiny(make_sdxl: Any, make_uniid: Any, uniid_people: Any, lab_of_base: Any) -> TinyUniid:
    models = make_uniid()
    return TinyUniid(make_sdxl(), models, lab_of_base("SDXL"), uniid_people(models, [0, 1, 2]))
