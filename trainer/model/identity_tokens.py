"""From crops or cached features to identity tokens: the resampler and what is fed to it.

Letters: B samples, N faces, k references of one person, m tokens of one, D their width, C4 and Cs feature widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...adapters.identity import Identity
from ...adapters.resampler import IDResampler
from ..batch import Batch, FaceFeatures
from .draws import Draws
from .encoders import FaceEncoders

SYSTEM = "uniportrait"


class TokenMaker:
    """Feeds a resampler; arguments as in `UniPortraitTraining`.

    With intrinsic "global" the intrinsic features of a face become one token, its recognition embedding, and the
    structure branch is off: the ablation of an adapter with a global embedding.
    """

    def __init__(
        self,
        resampler: IDResampler,
        intrinsic: str,
        device: torch.device,
        encoders: FaceEncoders | None,
        unconditional: FaceFeatures | None,
        head: nn.Module | None,
    ) -> None:
        self.resampler = resampler
        self.encoders = encoders
        if encoders is not None:
            unconditional = unconditional or encoders.unconditional()
            head = head or encoders.head()
        if unconditional is None:
            raise ValueError("without the face encoders, the features of nobody are needed.")
        nobody = unconditional
        self.structure_tokens = nobody.structure.shape[1]
        self.head: nn.Module | None = None
        if intrinsic == "global":
            if head is None:
                raise ValueError('intrinsic "global" needs the face backbone\'s last layers (`FaceEncoders.head`).')
            self.head = head
            embedding = torch.zeros(1, 1, resampler.sizes.intrinsic_dim)  # nobody is the zero vector, as in IP-Adapter
            nobody = FaceFeatures(embedding, nobody.structure)
        self.nobody = FaceFeatures(nobody.intrinsic.to(device), nobody.structure.to(device))
        _check_widths(resampler, self.nobody)

    @property
    def uses_structure(self) -> bool:
        """Whether the resampler's structure branch is on."""
        return self.head is None

    def of_batch(self, batch: Batch, draws: Draws) -> Tensor:
        """Tokens (B, N, m, D) of a batch with everything that its draws drop or exchange."""
        features = self._batch_features(batch)
        intrinsic = self._exchanged(features.intrinsic, batch, draws)
        if self.head is not None:
            intrinsic = _embedded(self.head, intrinsic)
        num_faces = intrinsic.shape[1]
        drop = draws.drop_face[:, None, None, None]
        working = next(self.resampler.parameters()).dtype
        intrinsic = torch.where(drop, self.nobody.intrinsic[None].to(intrinsic), intrinsic).flatten(0, 1).to(working)
        structure = torch.where(drop, self.nobody.structure[None].to(features.structure), features.structure)
        structure = structure.flatten(0, 1).to(working)
        if not self.uses_structure:
            return self.resampler(intrinsic, structure, 0.0).unflatten(0, (-1, num_faces))
        scale = draws.structure_scale.repeat_interleave(num_faces)[:, None, None]
        keep = draws.structure_keep.flatten(0, 1)[..., None].to(working)
        tokens = self.resampler(intrinsic, structure, scale, structure_mask=keep)
        return tokens.unflatten(0, (-1, num_faces))

    @torch.no_grad()
    def identities(
        self, people: Sequence[Tensor | FaceFeatures], structure_scale: float, labels: Sequence[str] = ()
    ) -> list[Identity]:
        """One identity for each person, from crops (k, 224, 224, 3) uint8 or features of k references.

        As in the nodes the references are joined on the token axis, and the unconditional tokens are those of nobody at
        the same structure scale.
        """
        scale = structure_scale if self.uses_structure else 0.0
        uncond = self._resampled(self.nobody, scale)
        found = []
        for number, person in enumerate(people):
            features = self._encode(person) if isinstance(person, Tensor) else person
            intrinsic, structure = features.intrinsic.to(uncond.device), features.structure.to(uncond.device)
            if self.head is not None:
                intrinsic = _embedded(self.head, intrinsic[None])[0]
            joined = FaceFeatures(intrinsic.flatten(0, 1)[None], structure.flatten(0, 1)[None])
            tokens = {"cond": self._resampled(joined, scale)[0], "uncond": uncond[0]}
            found.append(Identity(SYSTEM, "", tokens, labels[number] if labels else ""))
        return found

    def _resampled(self, features: FaceFeatures, scale: float) -> Tensor:
        working = next(self.resampler.parameters()).dtype
        return self.resampler(features.intrinsic.to(working), features.structure.to(working), scale)

    def _batch_features(self, batch: Batch) -> FaceFeatures:
        """Features (B, N, ·, ·); zero for padding."""
        if batch.features is not None:
            return batch.features
        assert batch.crops is not None, "a batch has crops or features"
        real = self._encode(batch.crops[batch.valid])
        shape = batch.valid.shape
        parts = []
        for rows in (real.intrinsic, real.structure):
            part = rows.new_zeros(*shape, *rows.shape[1:])
            part[batch.valid] = rows
            parts.append(part)
        return FaceFeatures(*parts)

    def _exchanged(self, intrinsic: Tensor, batch: Batch, draws: Draws) -> Tensor:
        """Intrinsic features (B, N, ·, C4), from another photo of the only person where the draws say so."""
        if batch.other_intrinsic is not None:
            other = batch.other_intrinsic
        elif batch.other_crops is not None and bool(draws.other_photo.any()):
            other = self._encode(batch.other_crops).intrinsic
        else:
            return intrinsic
        return torch.where(draws.other_photo[:, None, None, None], other[:, None].to(intrinsic), intrinsic)

    def _encode(self, crops: Tensor) -> FaceFeatures:
        if self.encoders is None:
            raise ValueError("there are face crops and no face encoders; cache their features, or load the encoders.")
        return self.encoders.features(crops)


@torch.no_grad()
def _embedded(head: nn.Module, intrinsic: Tensor) -> Tensor:
    """Recognition embeddings (B, N, 1, E) of intrinsic features (B, N, 49, C4)."""
    side = round(intrinsic.shape[2] ** 0.5)
    maps = intrinsic.flatten(0, 1).transpose(1, 2).unflatten(-1, (side, side))
    embedding = head(maps.to(next(head.parameters())))
    return embedding.unflatten(0, intrinsic.shape[:2])[:, :, None]


def _check_widths(resampler: IDResampler, nobody: FaceFeatures) -> None:
    wanted = (resampler.sizes.intrinsic_dim, resampler.sizes.structure_dim)
    given = (nobody.intrinsic.shape[-1], nobody.structure.shape[-1])
    if given != wanted:
        raise ValueError(
            f"the face encoders give {given[0]}-wide intrinsic and {given[1]}-wide structure features, the adapter "
            f"takes {wanted[0]} and {wanted[1]}: it was made for other encoders, or with another model.intrinsic."
        )
