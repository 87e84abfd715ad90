"""Tiny networks of the SD 1.5, SDXL and FLUX architectures inside ComfyUI, and ways to run them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def comfyui(comfyui_path):
    """Import ComfyUI for the CPU, once."""
    import comfy.model_management  # noqa: F401

    return comfyui_path


@pytest.fixture(autouse=True)
def _inference_mode():
    """Nodes run under inference mode; so does everything here."""
    with torch.inference_mode():
        yield


@pytest.fixture
def dynamo() -> Any:
    """torch's tracer with empty caches, which are emptied again: they hold tensors without data."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo
    torch._dynamo.reset()
    gc.collect()


def fill_randomly(module: torch.nn.Module, seed: int, gain: float = 0.7) -> torch.nn.Module:
    """Seeded weights that keep activations of order 1; ComfyUI's layers leave them uninitialised."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(module.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        if tensor.ndim == 1:
            value = torch.ones_like(tensor) if name.endswith("weight") else torch.zeros_like(tensor)
        else:
            value = torch.randn(tensor.shape, generator=generator) * gain / tensor[0].numel() ** 0.5
        tensor.copy_(value)
    return module


def model_patcher(config: Any, compute: torch.dtype, stored: torch.dtype) -> Any:
    """A ModelPatcher around ComfyUI's own network of this configuration, with random weights."""
    import comfy.model_management
    import comfy.model_patcher

    config.set_inference_dtype(stored, None if compute == stored else compute)
    model = config.get_model({}, "")
    fill_randomly(model.diffusion_model, seed=1)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@pytest.fixture(scope="session")
def make_sd15() -> Callable[..., Any]:
    """`make_sd15(widths, context, heads, dtype)` -> ModelPatcher around ComfyUI's own UNet with random weights."""
    import comfy.supported_models

    def make(
        widths: Sequence[int] = (32, 32, 64, 64), context: int = 64, heads: int = 4, dtype: torch.dtype = torch.float32
    ) -> Any:
        class TinySD15(comfy.supported_models.SD15):
            unet_extra_config = {**comfy.supported_models.SD15.unet_extra_config, "num_heads": heads}

        multipliers = [width // widths[0] for width in widths]
        assert [widths[0] * m for m in multipliers] == list(widths), widths
        config = TinySD15(
            {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": widths[0],
                "num_res_blocks": [2, 2, 2, 2],
                "channel_mult": multipliers,
                "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
                "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
                "transformer_depth_middle": 1,
                "use_linear_in_transformer": False,
                "context_dim": context,
                "adm_in_channels": None,
                "use_temporal_resblock": False,
                "use_temporal_attention": False,
                "dtype": torch.float32,
                "image_size": 32,
                "use_spatial_transformer": True,
                "legacy": False,
            }
        )
        return model_patcher(config, dtype, torch.float32)

    return make


@pytest.fixture(scope="session")
def make_sdxl() -> Callable[..., Any]:
    """`make_sdxl(widths, context, head_width, depths, labels, compute, stored)` -> ModelPatcher, as `make_sd15`.

    depths are the transformers in each place of the second and third level, 2 and 10 in SDXL; labels is the width of
    the pooled text and the six sizes together.
    """
    import comfy.supported_models

    def make(
        widths: Sequence[int] = (32, 32, 64),
        context: int = 64,
        head_width: int = 16,
        depths: tuple[int, int] = (1, 2),
        labels: int = 64 + 6 * 256,
        compute: torch.dtype = torch.float32,
        stored: torch.dtype = torch.float32,
    ) -> Any:
        class TinySDXL(comfy.supported_models.SDXL):
            unet_extra_config = {**comfy.supported_models.SDXL.unet_extra_config, "num_head_channels": head_width}

        first, second = depths
        config = TinySDXL(
            {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": widths[0],
                "num_res_blocks": [2, 2, 2],
                "channel_mult": [width // widths[0] for width in widths],
                "transformer_depth": [0, 0, first, first, second, second],
                "transformer_depth_output": [0, 0, 0, *[first] * 3, *[second] * 3],
                "transformer_depth_middle": second,
                "use_linear_in_transformer": True,
                "context_dim": context,
                "num_classes": "sequential",
                "adm_in_channels": labels,
                "use_temporal_attention": False,
                "dtype": torch.float32,
                "image_size": 32,
                "use_spatial_transformer": True,
                "legacy": False,
            }
        )
        return model_patcher(config, compute, stored)

    return make


@pytest.fixture(scope="session")
def published_sdxl(make_sdxl: Any) -> Callable[..., Any]:
    """`published_sdxl(config, weights)`: ComfyUI's UNet with diffusers' configuration and weights, from files."""
    import comfy.utils
    from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep

    def make(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
        widths = config["block_out_channels"]
        patcher = make_sdxl(
            widths,
            config["cross_attention_dim"],
            widths[1] // config["attention_head_dim"][1],
            tuple(config["transformer_layers_per_block"][1:]),
            config["projection_class_embeddings_input_dim"],
        )
        names = comfy.utils.unet_to_diffusers(patcher.model.model_config.unet_config)
        renamed = {names[key]: value for key, value in weights.items()}
        patcher.model.diffusion_model.load_state_dict(renamed, strict=True)
        patcher.model.embedder = Timestep(config["addition_time_embed_dim"])  # of each of the six sizes
        return patcher

    return make


FLUX_SIZES: dict[str, Any] = {
    "patch_size": 2,
    "vec_in_dim": 32,
    "context_in_dim": 64,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 3,
    "depth_single_blocks": 5,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
    "dtype": torch.float32,
}


@pytest.fixture(scope="session")
def make_flux() -> Callable[..., Any]:
    """`make_flux(compute, stored, **sizes)` -> ModelPatcher around ComfyUI's own FLUX with random weights."""
    import comfy.supported_models

    class TinyFlux(comfy.supported_models.Flux):
        pass

    def make(compute: torch.dtype = torch.float32, stored: torch.dtype = torch.float32, **sizes: Any) -> Any:
        config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "guidance_embed": True, **FLUX_SIZES}
        return model_patcher(TinyFlux({**config, **sizes}), compute, stored)

    return make


@pytest.fixture(scope="session")
def make_chroma() -> Callable[[], Any]:
    """A ModelPatcher around ComfyUI's own Chroma with random weights, of the size of `make_flux`'s network."""
    import comfy.supported_models

    class TinyChroma(comfy.supported_models.Chroma):
        pass

    def make() -> Any:
        modulations = {"in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2}
        config = {"image_model": "chroma", "in_channels": 64, "out_channels": 64, **modulations, **FLUX_SIZES}
        return model_patcher(TinyChroma(config), torch.float32, torch.float32)

    return make


@dataclass
class Prediction:
    """What one model call gave: noise predictions by conditioning, and what a probe saw."""

    positive: torch.Tensor
    negative: torch.Tensor


@dataclass(frozen=True)
class Lab:
    """Runs of one tiny model through ComfyUI's own sampling code."""

    context: int
    latent: tuple[int, int, int, int] = (1, 4, 16, 16)
    extra: dict[str, Any] = field(default_factory=dict)

    def noise(self, batch: int = 1, size: tuple[int, int] | None = None, seed: int = 3) -> torch.Tensor:
        height, width = size or self.latent[-2:]
        return torch.randn(batch, self.latent[1], height, width, generator=torch.Generator().manual_seed(seed))

    def prompt(self, seed: int, tokens: int = 77, **options: Any) -> list[Any]:
        text = torch.randn(1, tokens, self.context, generator=torch.Generator().manual_seed(seed))
        return [[text, {**self.extra, **options}]]

    def sample(
        self,
        model: Any,
        steps: int = 3,
        cfg: float = 5.0,
        noise: torch.Tensor | None = None,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
        callback: Callable[..., None] | None = None,
        denoise_mask: torch.Tensor | None = None,
        latent_image: torch.Tensor | None = None,
        sampler: str = "euler",
    ) -> torch.Tensor:
        """A whole run of the KSampler; returns latents."""
        import comfy.sample

        noise = self.noise() if noise is None else noise
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            "normal",
            positive or self.prompt(11),
            negative or self.prompt(12),
            torch.zeros_like(noise) if latent_image is None else latent_image,
            noise_mask=denoise_mask,
            callback=callback,
            disable_pbar=True,
            seed=5,
        )

    def predict(
        self,
        model: Any,
        percent: float = 0.3,
        noise: torch.Tensor | None = None,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
    ) -> Prediction:
        """One step's predictions for both prompts, inside a real sampling run."""
        import comfy.samplers

        sigma = torch.tensor([model.get_model_object("model_sampling").percent_to_sigma(percent)])

        def call(guider: Any, x: torch.Tensor, options: dict[str, Any]) -> Prediction:
            conds = [guider.conds["positive"], guider.conds["negative"]]
            sigmas = sigma.expand(x.shape[0])
            out = comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigmas, options)
            return Prediction(*((x - denoised) / sigma for denoised in out))

        return self.one_call(
            model,
            call,
            sigma,
            self.noise() if noise is None else noise,
            positive or self.prompt(11),
            negative or self.prompt(12),
        )

    def one_call(
        self,
        model: Any,
        call: Callable[[Any, torch.Tensor, dict[str, Any]], Any],
        sigma: torch.Tensor,
        noise: torch.Tensor,
        positive: list[Any],
        negative: list[Any],
    ) -> Any:
        """Run `call(guider, x, model_options)` where a sampler would call the model; x is the noise at that sigma."""
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(5.0)
        results = []

        def sampler_function(
            _: Any, x: torch.Tensor, sigmas: Any, extra_args: dict[str, Any], **__: Any
        ) -> torch.Tensor:
            results.append(call(guider, x, extra_args["model_options"]))
            return x

        guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.KSAMPLER(sampler_function),
            torch.cat([sigma[:1], torch.zeros(1)]),
            disable_pbar=True,
            seed=5,
        )
        return results[0]


@pytest.fixture(scope="session")
def lab_of() -> Callable[..., Lab]:
    return lambda **changes: replace(Lab(context=64), **changes)


@pytest.fixture(scope="session")
def uniportrait_models() -> Any:
    """UniPortrait for the tiny UNet with random weights, strong enough to be seen."""
    import comfy.ops
    from likeness.adapters.resampler import ResamplerSizes
    from likeness.adapters.uniportrait import UniPortrait, UniPortraitSizes
    from likeness.model_patches.uniportrait_models import UniPortraitModels

    hidden = [32] * 8 + [64] * 10 + [32] * 12 + [64] * 2
    sizes = UniPortraitSizes(
        tuple(hidden), ResamplerSizes(24, 40, 48, 1, 3, 16, 16, 64, 2), rank=4, multi_rank=4, image_embed=24
    )
    weights = fill_randomly(UniPortrait(sizes, operations=comfy.ops.manual_cast), seed=2, gain=1.0)
    return UniPortraitModels(weights)


def random_people(system: str, fingerprint: str, numbers: Sequence[int], tokens: int) -> list[Any]:
    """Identities made of random tokens, 64 wide; the negative tokens are everybody's."""
    from likeness.adapters.identity import Identity

    def drawn(seed: int) -> torch.Tensor:
        return torch.randn(tokens, 64, generator=torch.Generator().manual_seed(seed))

    return [Identity(system, fingerprint, {"cond": drawn(100 + n), "uncond": drawn(99)}) for n in numbers]


@pytest.fixture(scope="session")
def uniportrait_people(uniportrait_models: Any) -> Callable[[Sequence[int]], list[Any]]:
    """`people([0, 2])` -> identities of UniPortrait."""
    fingerprint = uniportrait_models.weights.fingerprint
    return lambda numbers: random_people("uniportrait", fingerprint, numbers, 16)


@pytest.fixture(scope="session")
def make_pulid() -> Callable[..., Any]:
    """`make_pulid(edition, dtype)` -> PulidModels for the tiny networks, with weights strong enough to be seen."""
    import comfy.ops
    from likeness.adapters.flux_attention import FluxAttentionSizes
    from likeness.adapters.id_encoder import IDEncoderSizes
    from likeness.adapters.id_former import IDFormerSizes
    from likeness.adapters.layers import sdxl_layers
    from likeness.adapters.pulid import PuLID, PuLIDSizes
    from likeness.model_patches.pulid_models import PulidModels

    def make(edition: str = "pulid-v1.1", dtype: torch.dtype = torch.float32) -> Any:
        hidden = tuple(32 * layer.level for layer in sdxl_layers(1, 2))
        former = IDFormerSizes(14, 10, (11, 9), (7, 13), 12, 3, 4, 5, 8, 64, 2)
        sizes = {
            "pulid-v1": PuLIDSizes(edition, IDEncoderSizes(14, 10, (11, 9), (7, 13), 5, 64), hidden),
            "pulid-v1.1": PuLIDSizes(edition, former, hidden),
            "pulid-flux": PuLIDSizes(edition, former, block=FluxAttentionSizes(64, 64, 4, 16), num_blocks=4),
        }[edition]
        weights = fill_randomly(PuLID(sizes, operations=comfy.ops.manual_cast), seed=4, gain=2.0)
        return PulidModels(weights.to(dtype))

    return make


@pytest.fixture(scope="session")
def pulid_people() -> Callable[..., list[Any]]:
    """`people(models, [0, 2], tokens=8)` -> identities of this PuLID."""
    return lambda models, numbers, tokens=8: random_people(models.system, models.weights.fingerprint, numbers, tokens)


@pytest.fixture(scope="session")
def make_uniid() -> Callable[..., Any]:
    """`make_uniid(text=True, adapter=True, dtype)` -> UniidModels for the tiny SDXL, three words and five ID tokens."""
    import comfy.ops
    from likeness.adapters.image_resampler import ImageResamplerSizes
    from likeness.adapters.layers import sdxl_layers
    from likeness.adapters.perceiver import StackSizes
    from likeness.adapters.text_branch import TextBranchSizes
    from likeness.adapters.uniid import UniID, UniIDSizes
    from likeness.model_patches.uniid_models import UniidModels

    def make(text: bool = True, adapter: bool = True, dtype: torch.dtype = torch.float32) -> Any:
        stacks = (StackSizes(24, 1, 3, 8), StackSizes(40, 1, 5, 8))
        resampler = ImageResamplerSizes(StackSizes(16, 1, 2, 8), 5, output_dim=64)
        hidden = tuple(32 * layer.level for layer in sdxl_layers(1, 2))
        sizes = UniIDSizes(
            TextBranchSizes(stacks, hidden=16) if text else None,
            resampler if adapter else None,
            hidden if adapter else (),
        )
        weights = fill_randomly(UniID(sizes, operations=comfy.ops.manual_cast), seed=7, gain=2.0)
        return UniidModels(weights.to(dtype))

    return make


@pytest.fixture(scope="session")
def uniid_people() -> Callable[..., list[Any]]:
    """`people(models, [0, 2])` -> identities of this UniID, with tokens of the branches that it has."""

    def make(models: Any, numbers: Sequence[int]) -> list[Any]:
        weights = models.weights
        tokens = 0 if weights.projections is None else 5
        people = random_people(models.system, weights.fingerprint, numbers, tokens)
        if weights.text_branch is None:
            return people
        words = [torch.randn(3, 64, generator=torch.Generator().manual_seed(200 + number)) for number in numbers]
        return [replace(one, tokens={**one.tokens, "text": word}) for one, word in zip(people, words, strict=True)]

    return make


@pytest.fixture(scope="session")
def released_pulid(tmp_path_factory: Any) -> Callable[..., Any]:
    """`released_pulid(name, encoder, prefix, tensors, metadata)` -> PulidModels from a file in the released layout.

    The reference files hold no encoder beside the layers; what it computes does not matter here.
    """
    import comfy.ops
    from likeness.adapters.checkpoint import save_tensors
    from likeness.adapters.pulid import load_pulid
    from likeness.model_patches.pulid_models import PulidModels

    def make(
        name: str, encoder: torch.nn.Module, prefix: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str]
    ) -> Any:
        path = tmp_path_factory.mktemp("pulid") / f"{name}.safetensors"
        state = {prefix + key: value for key, value in encoder.state_dict().items()}
        save_tensors(path, {**state, **tensors}, metadata)
        return PulidModels(load_pulid(path, comfy.ops.manual_cast))

    return make


@pytest.fixture(scope="session")
def lab_of_base(lab_of: Any) -> Callable[[str], Lab]:
    """`lab_of_base("SDXL")` -> a lab whose latents and prompts suit the tiny model of that base."""

    def make(base: str) -> Lab:
        def pooled(width: int) -> torch.Tensor:
            return torch.randn(1, width, generator=torch.Generator().manual_seed(6))

        if base == "FLUX":
            return lab_of(latent=(1, 16, 16, 16), extra={"pooled_output": pooled(32), "guidance": 3.5})
        return lab_of(extra={"pooled_output": pooled(64)} if base == "SDXL" else {})

    return make
