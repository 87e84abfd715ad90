"""UniPortrait on a ModelPatcher of an SD 1.5 model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..adapters.identity import Identity
from ..adapters.layers import SD15_LAYERS
from ..adapters.lora import choose_lora
from ..adapters.projection import KeysValues, TokenProjection
from ..adapters.sharing import Sharing
from .base_model import WantedBase, check_attention_layers
from .lora import LayerLoRA, add_once, correct_output, keep_inputs, merge_lora
from .people import check_anybody, check_identities, labels
from .region_masks import RegionMasks
from .routing_maps import RoutingRecord
from .sampling_run import ModelCall, Run, follow_runs
from .slots import fill_slot
from .uniportrait_layers import CrossAttentionSlot, PreparedLayer, PreparedTokens, SelfAttentionSlot
from .window import Window

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .uniportrait_models import UniPortraitModels

KEY = "likeness.uniportrait"
TITLE = "Apply UniPortrait"
BASE = WantedBase(
    TITLE,
    "UniPortrait",
    "SD 1.5 models only (and their fine-tunes, such as Realistic Vision)",
    "load an SD 1.5 checkpoint",
)


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """IP tokens of a picture: positive and negative (4, D) float32; mask (H, W) or None for everywhere."""

    positive: torch.Tensor
    negative: torch.Tensor
    scale: float
    mask: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class UniPortraitSettings:
    """How an Apply node was set. A scale of 0 or less switches its part off, as in the published code.

    Attributes:
        id_scale: factor of the identity term.
        lora_scale: factor of the LoRA set; it does not follow id_scale.
        start_percent, end_percent: part of the schedule, 0 to 1, for the identity and the LoRA.
        masks: one (H, W) or (1, H, W) mask or None for each identity; shorter tuples are filled with None.
        keep_soft_edges: keep the grey of a mask where it stands alone, instead of the published normalisation.
    """

    id_scale: float = 0.7
    lora_scale: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    masks: tuple[torch.Tensor | None, ...] = ()
    keep_soft_edges: bool = False
    image_prompt: ImagePrompt | None = None
    sharing: Sharing | None = None


class UniPortraitPatch:
    """One Apply node's state: immutable after construction, shared by its slots in all layers."""

    title = TITLE

    def __init__(
        self,
        key: str,
        window: Window,
        models: UniPortraitModels,
        identities: Sequence[Identity],
        settings: UniPortraitSettings,
        record: RoutingRecord,
    ) -> None:
        self.key = key
        self.window = window
        self.settings = settings
        self.record = record
        self.regions = RegionMasks(settings.masks, len(identities), settings.keep_soft_edges)
        self.lora_name = _choose_lora(len(identities), settings.lora_scale)
        self._models = models
        self._tokens = None  # (2, N, m, D): the positive and the negative half
        if identities:
            halves = [torch.stack([identity.tokens[half] for identity in identities]) for half in ("cond", "uncond")]
            self._tokens = torch.stack(halves)

    @property
    def has_effect(self) -> bool:
        """False if every part is switched off."""
        image = self.settings.image_prompt
        return self.draws or self.lora_name is not None or (image is not None and image.scale > 0)

    @property
    def draws(self) -> bool:
        """True if there are identities and their term is switched on."""
        return self._tokens is not None and self.settings.id_scale > 0

    @property
    def routes(self) -> bool:
        """True if some identities share places by the router."""
        return self.draws and self.regions.shares_places

    @property
    def windowed_lora(self) -> bool:
        """True if the LoRA is evaluated inside a window, false if it is merged or off."""
        return self.lora_name is not None and not self.window.whole_run

    def begin(self, run: Run) -> None:
        """Check the masks against the picture that is being made, and forget the last run's maps."""
        assert run.latent_size is not None
        self.regions.check_aspect(run.latent_size)
        self.record.clear()

    def scale_at(self, run: Run, sigma: float) -> float:
        """The identities' factor, the same in all steps."""
        return self.settings.id_scale

    def prepare(self, device: torch.device, dtype: torch.dtype) -> dict[int, PreparedLayer]:
        """Keys, values and router keys of all cross-attention layers; float32 in the making."""
        layers = {}
        for layer in SD15_LAYERS:
            if layer.is_cross:
                layers[layer.number] = self._prepare_layer(layer.number, device, dtype)
        return layers

    def finish_call(self, call: ModelCall) -> None:
        """Keep this call's routing maps."""
        self.record.store(call.routing)

    def additional_models(self) -> list[ModelPatcher]:
        """The weights that sampling needs, for ComfyUI's memory manager."""
        parts = []
        if self.draws:
            parts.append("projections")
        if self.routes:
            parts.append("routers")
        if self.settings.image_prompt is not None:
            parts.append("ip_projections")
        if self.lora_name is not None and self.windowed_lora:
            parts.append(self.lora_name)
        return [self._models.patchers[part] for part in parts]

    def slot_lora(self, number: int) -> LayerLoRA | None:
        """The LoRA that the slot of this layer evaluates: none where it is merged or off."""
        if self.lora_name is None or not self.windowed_lora:
            return None
        return LayerLoRA(self._models.lora(self.lora_name)[str(number)], self.settings.lora_scale)

    def cross_slot(self, number: int, previous: Callable[..., torch.Tensor] | None) -> CrossAttentionSlot:
        """The patch of cross-attention layer `number`."""
        router = self._models.router(number) if self.routes else None
        return CrossAttentionSlot(previous, self, number, self.slot_lora(number), router)

    def self_slot(self, number: int, previous: Callable[..., torch.Tensor] | None) -> SelfAttentionSlot:
        """The patch of self-attention layer `number`."""
        return SelfAttentionSlot(previous, self, number, self.slot_lora(number))

    def _prepare_layer(self, number: int, device: torch.device, dtype: torch.dtype) -> PreparedLayer:
        models, prompt = self._models, self.settings.image_prompt
        router = models.router(number) if self.routes else None

        def project(projection: TokenProjection, tokens: torch.Tensor) -> KeysValues:
            kv = projection(tokens[None].to(device))
            return KeysValues(kv.keys.to(dtype), kv.values.to(dtype))

        def identity_half(tokens: torch.Tensor) -> PreparedTokens:
            if all(torch.equal(other, tokens[0]) for other in tokens[1:]):
                return PreparedTokens(project(models.projection(number), tokens[:1]), None)
            keys = None if router is None else router.keys(tokens[None].to(device)).to(dtype)
            return PreparedTokens(project(models.projection(number), tokens), keys)

        identity = image = None
        if self._tokens is not None and self.draws:
            identity = (identity_half(self._tokens[0]), identity_half(self._tokens[1]))
        if prompt is not None:
            projection = models.ip_projection(number)
            image = (project(projection, prompt.positive[None]), project(projection, prompt.negative[None]))
        return PreparedLayer(identity, image)


def apply_uniportrait(
    model: ModelPatcher, models: UniPortraitModels, identities: Sequence[Identity], settings: UniPortraitSettings
) -> tuple[ModelPatcher, RoutingRecord]:
    """A clone of `model` that draws these people, and the record that its sampling runs will fill.

    One identity uses the single LoRA set, several use the multi set and, where masks do not decide, the router.

    Raises:
        ValueError: no identity and no image prompt; a model that is not SD 1.5; an identity of another adapter; several
            identities without a router file; bad masks; a bad window, or one that overlaps an earlier Apply's.
    """
    sizes = models.weights.sizes
    check_attention_layers(model, BASE, SD15_LAYERS, sizes.hidden, sizes.resampler.output_dim)
    _check_identities(models, identities, settings)
    window = Window.from_percent(model, settings.start_percent, settings.end_percent)
    earlier: tuple[Window, ...] = model.get_attachment(KEY) or ()
    if any(window.overlaps(other) for other in earlier):
        raise ValueError(
            "Apply UniPortrait: this model already has UniPortrait in the same steps. Connect all identities to one "
            "Apply UniPortrait, or give the two nodes start/end windows that do not overlap."
        )
    record = RoutingRecord(labels(identities))
    patch = UniPortraitPatch(f"{KEY}.{len(earlier)}", window, models, identities, settings, record)
    patched = model.clone()
    if window.empty or not patch.has_effect:
        return patched, record
    patched.set_attachments(KEY, (*earlier, window))
    patched.set_additional_models(patch.key, patch.additional_models())
    if patch.lora_name is not None and window.whole_run:
        merge_lora(patched, SD15_LAYERS, models.lora(patch.lora_name), settings.lora_scale)
    num_layers = _fill_slots(patched, patch)
    follow_runs(patched, patch, num_layers)
    return patched, record


def _fill_slots(model: ModelPatcher, patch: UniPortraitPatch) -> int:
    """Install the patch's slots; returns how many."""
    in_self = patch.windowed_lora or patch.settings.sharing is not None
    layers = [layer for layer in SD15_LAYERS if layer.is_cross or in_self]
    for layer in layers:
        fill_slot(model, layer, partial(patch.cross_slot if layer.is_cross else patch.self_slot, layer.number))
    if patch.routes or patch.windowed_lora:
        add_once(model, keep_inputs, "attn2_patch")
    if patch.windowed_lora:
        add_once(model, keep_inputs, "attn1_patch")
        add_once(model, correct_output, "attn1_output_patch")
        add_once(model, correct_output, "attn2_output_patch")
    return len(layers)


def _choose_lora(num_identities: int, scale: float) -> str | None:
    """The LoRA set that the published application uses for so many people."""
    if num_identities == 0:
        return None
    name, _ = choose_lora(scale if num_identities == 1 else 0.0, scale if num_identities > 1 else 0.0)
    return None if name is None else f"lora_{name}"


def _check_identities(models: UniPortraitModels, identities: Sequence[Identity], settings: UniPortraitSettings) -> None:
    if settings.image_prompt is None:
        check_anybody(TITLE, identities)
    check_identities(TITLE, "UniPortrait", identities, models, settings.masks)
    if len(identities) > 1 and models.weights.routers is None:
        raise ValueError(
            f"{TITLE}: {len(identities)} identities need the router file (uniportrait-router_sd15.bin). "
            "Choose it in Load UniPortrait."
        )
