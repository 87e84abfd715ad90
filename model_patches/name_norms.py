"""How long names are as vectors of SDXL's text encoders: what words for a face are to be like (docs/uniid.md, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..adapters.prompt_tokens import column_means, token_norms

TITLE = "Name Norms"
ENCODERS = {"l": "clip_l", "g": "clip_g"}  # ComfyUI's names of token lists and encoders, in the order of the context


@dataclass(frozen=True, eq=False)
class NameNorms:
    """LIKENESS_NAME_NORMS on the wire.

    Attributes:
        values: (n, 2) float32, for each word of a person and each text encoder.
        label: where they come from, for what nodes show.
    """

    values: Tensor
    label: str


# Of each loaded CLIP: they depend on its weights, the LoRAs on them, the layer that is read, and the names.
_KNOWN: WeakKeyDictionary[torch.nn.Module, dict[Any, NameNorms]] = WeakKeyDictionary()


@torch.inference_mode()
def names_norms(clip: Any, names: Sequence[str], num_tokens: int) -> NameNorms:
    """The norms of the mean name: of its first `num_tokens` words, in both encoders of ComfyUI's CLIP for SDXL.

    Names are taken as they are, without ComfyUI's prompt syntax. Computed once for each CLIP and list of names.

    Raises:
        ValueError: no names, none that is long enough, or a CLIP that is not SDXL's.
    """
    _check_encoders(clip)
    if not names:
        raise ValueError(f"{TITLE}: the list holds no names. Write one name on each line.")
    known = _KNOWN.setdefault(clip.cond_stage_model, {})
    key = (clip.patcher.patches_uuid, clip.layer_idx, tuple(names), num_tokens)
    if key not in known:
        known[key] = NameNorms(_measured(clip, names, num_tokens), f"{len(names)} names")
    return known[key]


def _measured(clip: Any, names: Sequence[str], num_tokens: int) -> Tensor:
    tokenizer = clip.tokenizer.clip_l.tokenizer  # the other encoder's has the same vocabulary
    name_tokens = [tokenizer(name)["input_ids"][1:-1][:num_tokens] for name in names]
    clip.load_model()
    means = {letter: _mean_words(clip, encoder, name_tokens, num_tokens) for letter, encoder in ENCODERS.items()}
    empty = clip.tokenize("")
    tokens = {}
    for letter, words in means.items():
        (first, *rest), *_ = empty[letter]
        tokens[letter] = [[first, *((word, 1.0) for word in words), *rest[: len(rest) - num_tokens]]]
    encoded = clip.encode_from_tokens({**empty, **tokens})
    widths = [words.shape[-1] for words in means.values()]
    if encoded.shape[-1] != sum(widths):
        raise _not_sdxl(clip)
    return token_norms(encoded[0, 1 : 1 + num_tokens].float(), split=widths[0]).cpu()


def _mean_words(clip: Any, encoder: str, name_tokens: Sequence[Sequence[int]], num_tokens: int) -> Tensor:
    """The mean first, second, ... word (n, width) in this encoder's table, of which only the rows in use are read."""
    used = sorted({token for name in name_tokens for token in name})
    rows = {token: row for row, token in enumerate(used)}
    embeddings = getattr(clip.cond_stage_model, encoder).transformer.get_input_embeddings()
    numbers = torch.tensor(used, dtype=torch.long, device=clip.patcher.load_device)
    table = embeddings(numbers, out_dtype=torch.float32)
    return column_means([[rows[token] for token in name] for name in name_tokens], table, num_tokens)


def _check_encoders(clip: Any) -> None:
    if not all(hasattr(part, name) for part in (clip.cond_stage_model, clip.tokenizer) for name in ENCODERS.values()):
        raise _not_sdxl(clip)


def _not_sdxl(clip: Any) -> ValueError:
    return ValueError(
        f"{TITLE}: this CLIP is {type(clip.cond_stage_model).__name__}, and UniID works with the two text encoders of "
        "an SDXL model. Connect the CLIP of the SDXL checkpoint."
    )
