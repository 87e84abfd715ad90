"""Is this model the kind of network that an adapter was trained for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters.layers import AttentionLayer, FluxPlace, flux_places

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class WantedBase:
    """What an adapter needs, in the words of a message."""

    title: str  # the node's name
    adapter: str  # what the adapter is called
    models: str  # "UniPortrait works with <models>"
    advice: str  # what to do instead: "load an SD 1.5 checkpoint"

    def other_network(self, model: ModelPatcher) -> ValueError:
        """The error for a network of another kind, or for one that another pack put in the place of ComfyUI's."""
        network = type(model.get_model_object("diffusion_model"))
        if not network.__module__.startswith("comfy."):
            return ValueError(
                f"{self.title}: the network of this {family_of(model)} model is {network.__name__}, which is not "
                f"ComfyUI's own and has none of the layers that {self.adapter} attaches to. Load the model without the "
                "pack that replaces its network."
            )
        return ValueError(
            f"{self.title}: this is a {family_of(model)} model. {self.adapter} works with {self.models}: {self.advice}."
        )

    def other_widths(self, model: ModelPatcher, difference: str) -> ValueError:
        """The error for a network of that kind but of another size."""
        advice = self.advice[0].upper() + self.advice[1:]
        return ValueError(
            f"{self.title}: this is a {family_of(model)} model with other layer widths than the adapter was made for "
            f"({difference}). {advice}."
        )


def family_of(model: ModelPatcher) -> str:
    """ComfyUI's name for the model's family, such as SDXL."""
    return type(model.model.model_config).__name__


def check_attention_layers(
    model: ModelPatcher,
    base: WantedBase,
    layers: Sequence[AttentionLayer],
    hidden_widths: Sequence[int],
    context_width: int,
) -> None:
    """Refuse a model whose attention layers are not those of the adapter.

    `hidden_widths` holds C of each layer by its number, or nothing where any C will do; `context_width` is D of the
    cross-attention layers.

    Raises:
        ValueError: a layer is missing or has other widths; the message names the model's family and both widths.
    """
    for layer in layers:
        try:
            to_q = model.get_model_object(layer.weight_prefix + "to_q")
            to_k = model.get_model_object(layer.weight_prefix + "to_k")
        except AttributeError:
            raise base.other_network(model) from None
        hidden = hidden_widths[layer.number] if hidden_widths else to_q.out_features
        wanted = (hidden, context_width if layer.is_cross else hidden)
        found = (to_q.out_features, to_k.in_features)
        if found != wanted:
            raise base.other_widths(
                model,
                f"{layer.diffusers}: model {found[0]} wide with context {found[1]}, adapter {wanted[0]} with "
                f"{wanted[1]}",
            )


def find_flux_places(model: ModelPatcher, base: WantedBase, width: int, num_places: int) -> tuple[FluxPlace, ...]:
    """The places of FLUX behind which an adapter adds to image tokens of that width, num_places of them.

    Asked by structure, not by class, so that networks of the same shape that ComfyUI runs through the same hooks are
    welcome (FLUX.1 dev, schnell, Fill, Kontext, Krea; Chroma), in any quantisation.

    Raises:
        ValueError: the model has no such blocks, or others in number or width.
    """
    network = model.get_model_object("diffusion_model")
    try:
        num_double, num_single = len(network.double_blocks), len(network.single_blocks)
        found_width = network.img_in.out_features
    except AttributeError:
        raise base.other_network(model) from None
    places = flux_places(num_double, num_single)
    if (found_width, len(places)) != (width, num_places):
        raise base.other_widths(
            model,
            f"model {found_width} wide with {num_double} + {num_single} blocks, which have {len(places)} "
            f"places for an adapter, adapter {width} wide with {num_places} places",
        )
    return places
