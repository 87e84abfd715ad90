"""One person as an adapter sees them: tokens, without the photo; to be mixed, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import CheckpointError, read_tensors, save_tensors
from .families import LIKENESS_IDENTITY

FORMAT = "1"
_FIELDS = ("system", "adapter", "label", "preprocessing")
_OWN = ("cond", "text")  # the tokens that make the person; "uncond" and "norms" are the adapter's


@dataclass(frozen=True, eq=False)
class Identity:
    """The tokens of one person. Two are equal if all fields are, tensors value by value.

    Attributes:
        system: which system made it: "uniportrait", "pulid-v1", "pulid-v1.1", "pulid-flux" or "uniid".
        adapter: fingerprint of the adapter's weights; the tokens mean nothing to another. UniID's branches have one
            each, "<text>+<adapter>", either of which may be empty.
        tokens: "cond" and "uncond", each (m, D), kept as float32 on the CPU. m is 16 for UniPortrait, 32 for PuLID
            v1.1 and FLUX and 25 for UniID, however many photos there were; PuLID v1 has ten for the first photo and
            five or ten for each other one, and as many unconditional tokens. With UniID's text branch also "text"
            (n, D), the words of both text encoders side by side as the branch gives them, and with those maybe "norms"
            (n, 2), the lengths that they should get; with that branch alone m is 0.
        label: the user's name for this person.
        preprocessing: version of the way from photo to features.
    """

    system: str
    adapter: str
    tokens: Mapping[str, Tensor]
    label: str = ""
    preprocessing: str = ""

    def __post_init__(self) -> None:
        tokens = {
            key: value.detach().to("cpu", torch.float32, copy=True).contiguous() for key, value in self.tokens.items()
        }
        shapes = {key: tuple(value.shape) for key, value in tokens.items()}
        required, optional = {"cond", "uncond"}, {"text", "norms"}
        if not required <= set(tokens) <= required | optional or any(len(shape) != 2 for shape in shapes.values()):
            raise ValueError(f'an identity needs the tokens "cond" and "uncond" as (m, D), but got {shapes}.')
        if "norms" in tokens and shapes["norms"] != (len(tokens.get("text", ())), 2):
            raise ValueError(f'an identity\'s "norms" are (n, 2) for n tokens of "text", but got {shapes}.')
        for key, value in tokens.items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f'the identity "{self.label}" has {key} tokens that are not numbers (NaN or infinity); encode it '
                    "again, in float32 if the encoder ran in half precision."
                )
        object.__setattr__(self, "tokens", tokens)

    @property
    def is_nobody(self) -> bool:
        """True if there are no tokens: a person of whom no photo showed a face, and who is to be left out."""
        return not len(self.tokens["cond"]) and not len(self.tokens.get("text", ()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity):
            return NotImplemented
        return (
            all(getattr(self, name) == getattr(other, name) for name in _FIELDS)
            and set(self.tokens) == set(other.tokens)
            and all(torch.equal(self.tokens[key], other.tokens[key]) for key in self.tokens)
        )

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in _FIELDS))


def mix_identities(main: Identity, shares: Sequence[tuple[Identity, float]], label: str | None = None) -> Identity:
    """Blend other people into main: T = (1 - Σ s)·T_main + Σ s·T_other, as published.

    The shares are used as they are: they may be negative or sum to more than 1. For weights w over all of them, main
    first, pass s = w / Σ w of the others. The unconditional tokens, the norms and, without a label, the label are
    main's; for UniPortrait all should be encoded with one structure scale.

    UniPortrait publishes this sum; for the others it is ours. Their tokens, too, have fixed roles by position (in PuLID
    v1 five of the whole face and one for each scale, elsewhere one for each query), so it is like with like that is
    blended, and a person between the two comes out, not two people side by side. With PuLID v1 all must have equally
    many photos; the blend is photo by photo. UniID's words are blended before they get their norms.

    Raises ValueError if they come from different adapters, or have different numbers of tokens.
    """
    rest = 1.0 - sum(share for _, share in shares)
    tokens = dict(main.tokens)
    own = [kind for kind in _OWN if kind in tokens]
    for kind in own:
        tokens[kind] = rest * main.tokens[kind]
    for other, share in shares:
        _check_related(main, other)
        for kind in own:
            tokens[kind] = tokens[kind] + share * other.tokens[kind]
    return Identity(main.system, main.adapter, tokens, main.label if label is None else label, main.preprocessing)


def save_identity(identity: Identity, path: str | Path) -> None:
    """Write an identity to one .safetensors file: tokens and metadata, no pixels."""
    metadata = {f"likeness.{name}": getattr(identity, name) for name in _FIELDS}
    tensors = {f"identity.{key}": value for key, value in identity.tokens.items()}
    save_tensors(path, tensors, {"likeness.identity": FORMAT, **metadata})


def load_identity(path: str | Path) -> Identity:
    """Read what `save_identity` wrote.

    Raises CheckpointError if the file is another kind of model, is damaged, was written by a newer version, or holds
    values that are not numbers.
    """
    file = read_tensors(path)
    found = file.family
    if found != LIKENESS_IDENTITY:
        raise CheckpointError(f"{file.name} is {found.label}, {found.use}; expected {LIKENESS_IDENTITY.label}.")
    version = file.metadata.get("likeness.identity")
    if version != FORMAT:
        raise CheckpointError(
            f"{file.name} is an identity of format {version}, and this version of Likeness reads format {FORMAT}; "
            "update Likeness, or encode the person again."
        )
    missing = [name for name in _FIELDS if f"likeness.{name}" not in file.metadata]
    if missing:
        raise CheckpointError(f"{file.name}: the identity is damaged, its metadata lack {', '.join(missing)}.")
    tokens = {key.removeprefix("identity."): value for key, value in file.tensors.items()}
    try:
        return Identity(tokens=tokens, **{name: file.metadata[f"likeness.{name}"] for name in _FIELDS})
    except ValueError as error:
        raise CheckpointError(f"{file.name}: {error}") from error


def _check_related(main: Identity, other: Identity) -> None:
    pair = f'"{main.label}" and "{other.label}"'
    if main.system != other.system:
        raise ValueError(f"cannot mix {pair}: one was encoded by {main.system}, the other by {other.system}.")
    if main.adapter != other.adapter:
        raise ValueError(
            f"cannot mix {pair}: they were encoded with different {main.system} weights. Encode both with one adapter."
        )
    for kind in _OWN:
        one, two = (tuple(each.tokens[kind].shape) if kind in each.tokens else "none" for each in (main, other))
        if one != two:
            raise ValueError(
                f"cannot mix {pair}: they have different numbers of tokens, {one} and {two}. Encode both from equally "
                "many photos."
            )
