"""Captions to what the U-Net reads: SD 1.5's CLIP text encoder, no layer skipped, padded with the end token."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Tokenizer = Callable[[Sequence[str]], Tensor]  # texts -> (B, length) int64

CACHED_TEXTS = 1024  # the empty text and repeated captions are encoded once; 77 x 768 half floats are 0.1 MB


def folder_tokenizer(folder: Path, length: int) -> Tokenizer:
    """The tokenizer of a diffusers folder's `tokenizer/`."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(texts: Sequence[str]) -> Tensor:
        rows = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
        return _padded(rows, tokenizer.eos_token_id, length)

    return tokenize


def clip_tokenizer(length: int) -> Tokenizer:
    """CLIP's tokenizer from the vocabulary that open_clip ships."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()

    def tokenize(texts: Sequence[str]) -> Tensor:
        begin, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return _padded([[begin, *tokenizer.encode(text)[: length - 2], end] for text in texts], end, length)

    return tokenize


class TextEncoder:
    """A frozen CLIP text model with its tokenizer; remembers the last texts.

    Args:
        model: transformers' CLIPTextModel.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def width(self) -> int:
        """D, the width of the U-Net's context."""
        return self.model.config.hidden_size

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Encode texts: (B, 77, D) in the model's dtype, after the final layer norm."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        rows = {text: self._known[text] for text in texts if text in self._known}
        with torch.autocast(self.model.device.type, enabled=False):  # the same numbers whoever asked first
            if new:
                rows.update(zip(new, self.model(self.tokenizer(new).to(self.model.device))[0], strict=True))
            self._remember(rows)
            return torch.stack([rows[text] for text in texts])

    def _remember(self, rows: dict[str, Tensor]) -> None:
        for text, row in rows.items():
            self._known[text] = row
            self._known.move_to_end(text)
        while len(self._known) > CACHED_TEXTS:
            self._known.popitem(last=False)


def _padded(rows: Sequence[Sequence[int]], end: int, length: int) -> Tensor:
    return torch.tensor([[*row, *[end] * (length - len(row))] for row in rows])
