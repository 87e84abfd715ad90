"""The text encoder's words. A tiny world has few, so only their rows of the embedding are trained and shipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ..demo.tiny_sizes import TinySizes
from ..trainer.model.text import clip_tokenizer

HEAD_WIDTH = 16
LENGTH = 77
UNKNOWN = 0  # row of the compact embedding that stands for every word not in the world's captions


class Words:
    """Token numbers of CLIP's vocabulary that captions use, and their rows in a compact embedding."""

    def __init__(self, captions: Iterable[str]) -> None:
        self._tokenize = clip_tokenizer(LENGTH)
        self.numbers = self._tokenize(sorted({"", *captions})).unique()  # start and end among them
        self._rows = torch.zeros(int(self.numbers.max()) + 1, dtype=torch.int64)  # UNKNOWN
        self._rows[self.numbers] = torch.arange(1, len(self))

    def __len__(self) -> int:
        return len(self.numbers) + 1

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Rows (B, 77) int64 of the compact embedding; words never seen are UNKNOWN."""
        return self._rows[self._tokenize(captions).clamp(max=len(self._rows) - 1)]


def new_text_encoder(words: int, sizes: TinySizes) -> CLIPTextModel:
    """CLIP's text tower at the tiny sizes with a vocabulary of so many words."""
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=sizes.context,
        intermediate_size=sizes.text_feed_forward,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.context // HEAD_WIDTH,
        max_position_embeddings=sizes.text_positions,
        hidden_act="quick_gelu",
        projection_dim=sizes.context,
    )
    return CLIPTextModel(config)


def with_whole_vocabulary(encoder: CLIPTextModel, words: Words, sizes: TinySizes) -> CLIPTextModel:
    """Return the same encoder for CLIP's own token numbers; every number never trained has the row of UNKNOWN."""
    whole = new_text_encoder(sizes.vocabulary, sizes)
    state = encoder.state_dict()
    (key,) = (key for key in state if key.endswith("token_embedding.weight"))
    compact = state[key]
    table = compact[UNKNOWN].expand(sizes.vocabulary, -1).clone()
    table[words.numbers] = compact[UNKNOWN + 1 :]
    whole.load_state_dict({**state, key: table})
    return whole.eval().requires_grad_(False)


def sometimes_unknown(rows: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace a share of the words by UNKNOWN, so that its row means "some word"; start, end and padding stay."""
    drawn = torch.rand(rows.shape, generator=generator) < share
    drawn &= rows < rows.max(dim=1, keepdim=True).values - 1
    return rows.masked_fill(drawn, UNKNOWN)
