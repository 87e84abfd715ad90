"""Tiny networks of the SD 1.5 architecture inside ComfyUI, and ways to run them."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def make_sd15() -> Callable[..., Any]:
    """`make_sd15(widths, context, heads, dtype)` -> ModelPatcher around ComfyUI's own UNet with random weights."""
    import comfy.model_management
    import comfy.model_patcher
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
        config.set_inference_dtype(torch.float32, None if dtype == torch.float32 else dtype)
        model = config.get_model({}, "")
        fill_randomly(model.diffusion_model, seed=1)
        return comfy.model_patcher.ModelPatcher(
            model,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    return make


@pytest.fixture(scope="session")
def make_sdxl() -> Callable[[], Any]:
    """A ModelPatcher around a tiny network of SDXL's architecture."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    class TinySDXL(comfy.supported_models.SDXL):
        pass

    def make() -> Any:
        config = TinySDXL(
            {
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 64,
                "num_res_blocks": [1, 1, 1],
                "channel_mult": [1, 1, 2],
                "transformer_depth": [0, 1, 2],
                "transformer_depth_output": [0, 0, 1, 1, 2, 2],
                "transformer_depth_middle": 2,
                "use_linear_in_transformer": True,
                "context_dim": 128,
                "num_classes": "sequential",
                "adm_in_channels": 2816,
                "use_temporal_attention": False,
                "dtype": torch.float32,
                "image_size": 32,
                "use_spatial_transformer": True,
                "legacy": False,
            }
        )
        config.set_inference_dtype(torch.float32, None)
        return comfy.model_patcher.ModelPatcher(
            config.get_model({}, ""),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

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


@dataclass(frozen=True)
class SystemUnderContract:
    """One system's entry in the contract (test_contract.py)."""

    model: Any  # an unpatched ModelPatcher of its base, tiny and random
    lab: Lab
    first_slot: tuple[str, str, int]  # kind, block and number of the first slot that the patch fills
    a_weight: str  # a weight that another LoRA may patch
    cast_model: Callable[[torch.dtype], Any]  # the same model computing in another dtype
    projections: Callable[[], list[torch.nn.Module]]  # modules that must run once per run and guidance half
    _apply: Callable[..., Any]

    def apply(
        self,
        model: Any = None,
        people: int | Sequence[int] = 1,
        strength: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        masks: Sequence[torch.Tensor] = (),
        term_only: bool = False,
    ) -> Any:
        """The patched model. `people` counts them or numbers them; `term_only` leaves out weight patches."""
        numbers = range(people) if isinstance(people, int) else people
        return self._apply(model or self.model, list(numbers), strength, start, end, tuple(masks), term_only)


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


@pytest.fixture(scope="session")
def uniportrait_people(uniportrait_models: Any) -> Callable[[Sequence[int]], list[Any]]:
    """`people([0, 2])` -> identities made of random tokens; the negative tokens are everybody's."""
    from likeness.adapters.identity import Identity

    def make(numbers: Sequence[int]) -> list[Any]:
        nobody = torch.randn(16, 64, generator=torch.Generator().manual_seed(99))
        return [
            Identity(
                "uniportrait",
                uniportrait_models.weights.fingerprint,
                {"cond": torch.randn(16, 64, generator=torch.Generator().manual_seed(100 + n)), "uncond": nobody},
            )
            for n in numbers
        ]

    return make


@pytest.fixture(scope="session", params=["uniportrait"])
def system(request: Any, make_sd15: Any, lab_of: Any, uniportrait_models: Any, uniportrait_people: Any) -> Any:
    """Each system of the contract in turn."""
    from likeness.model_patches.uniportrait import UniPortraitSettings, apply_uniportrait

    def apply(
        model: Any, people: list[int], strength: float, start: float, end: float, masks: Any, term_only: bool
    ) -> Any:
        settings = UniPortraitSettings(strength, 0.0 if term_only else strength, start, end, masks)
        return apply_uniportrait(model, uniportrait_models, uniportrait_people(people), settings)[0]

    return SystemUnderContract(
        model=make_sd15(),
        lab=lab_of(),
        first_slot=("attn2", "input", 1),
        a_weight="diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight",
        cast_model=lambda dtype: make_sd15(dtype=dtype),
        projections=lambda: list(uniportrait_models.weights.projections.values()),
        _apply=apply,
    )
