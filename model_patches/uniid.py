"""UniID on a ModelPatcher of an SDXL model and on its positive prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..adapters.identity import Identity
from ..adapters.layers import sdxl_layers
from ..adapters.prompt_tokens import match_norms
from .base_model import WantedBase, check_attention_layers
from .people import check_anybody, check_identities
from .region_masks import RegionMasks
from .routing_maps import RoutingRecord
from .uniid_patch import BY_MASK, TITLE, UniidPatch, UniidSettings
from .uniid_prompt import Conditioning, Group, follow_merges, with_words

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .name_norms import NameNorms
    from .uniid_models import UniidModels

BASE = WantedBase(TITLE, "UniID", "SDXL models (and their fine-tunes, such as RealVisXL)", "load an SDXL checkpoint")
NO_WORDS = ""
NO_NORMS = "no name norms: words as loud as the text branch makes them"


def apply_uniid(
    model: ModelPatcher,
    positive: Conditioning,
    models: UniidModels,
    identities: Sequence[Identity],
    settings: UniidSettings,
    norms: NameNorms | None = None,
) -> tuple[ModelPatcher, Conditioning, RoutingRecord, str]:
    """A clone of `model` and the prompt that draw these people together; the record that the model's runs will fill;
    and which norms the people's words have, in words, "" without words.

    A model or a prompt that has UniID already gets more of it: each node adds its people. A branch that is not loaded
    or whose scales are both 0 is left out. Words get the norms given, else the adapter's, else their identity's.

    Raises:
        ValueError: no identity; a model that is not SDXL; a prompt of other text encoders; an identity of another
            adapter or without a branch that is loaded; norms for another number of words; bad masks or a bad window.
    """
    weights = models.weights
    _check_base(model, models)
    check_anybody(TITLE, identities)
    check_identities(TITLE, "UniID", identities, models, settings.masks)
    patch = UniidPatch(model, models, identities, settings)
    patched = model.clone() if weights.projections is None else patch.apply_to(model)
    if weights.text_branch is None or not settings.text.has_effect:
        return patched, positive, patch.record, NO_WORDS
    words, used = _words(models, identities, norms)
    groups = _groups(words, patch.regions, settings.several_texts)
    sampling = model.get_model_object("model_sampling")
    prompt = with_words(positive, groups, settings.merge, settings.text, sampling)
    follow_merges(patched)
    return patched, prompt, patch.record, used


def _check_base(model: ModelPatcher, models: UniidModels) -> None:
    sizes = models.weights.sizes
    layers = sizes.layers or sdxl_layers(1, 1)  # the text branch only asks for SDXL's places and their context
    check_attention_layers(model, BASE, [layer for layer in layers if layer.is_cross], sizes.hidden, sizes.context)


def _words(
    models: UniidModels, identities: Sequence[Identity], norms: NameNorms | None
) -> tuple[list[torch.Tensor], str]:
    """Each person's words (n, D), and which norms they have."""
    sizes = models.weights.sizes.text
    assert sizes is not None
    words, used = [], []
    for identity in identities:
        raw = identity.tokens["text"]
        if norms is not None:
            lengths, source = norms.values, f"norms of {norms.label}"
        elif models.weights.name_norms is not None:
            lengths, source = models.weights.name_norms, "the adapter's norms"
        elif "norms" in identity.tokens:
            lengths, source = identity.tokens["norms"], "the identity's norms"
        else:
            lengths, source = None, NO_NORMS
        words.append(raw if lengths is None else match_norms(raw, lengths, sizes.widths[0]))
        used.append(source)
    return words, ", ".join(dict.fromkeys(used))


def _groups(words: Sequence[torch.Tensor], regions: RegionMasks, several_texts: str) -> list[Group]:
    """Whose words stand together in one prompt: everybody's, or by mask each one's with a mask and the others'."""
    if several_texts != BY_MASK or not regions.masked:
        return [Group(torch.cat(list(words)))]
    *parts, rest = regions.parts()
    groups = [Group(words[index], part) for index, part in zip(regions.masked, parts, strict=True)]
    if rest.any():
        others = [words[index] for index in regions.unmasked]
        groups.append(Group(torch.cat(others) if others else None, rest))
    return groups
