"""What a user may set about model and losses; the defaults are those of docs/uniportrait.md, section 11."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """A group of settings: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSizes(Settings):
    """Sizes of a new adapter; the defaults are the released ones. Widths of the U-Net and the encoders add to them."""

    rank: int = Field(default=128, ge=1, description="Rank of the LoRA in all 32 attention layers.")
    width: int = Field(default=768, ge=1, description="Width of the resampler.")
    depth: int = Field(default=6, ge=1, description="Layers of the resampler.")
    heads: int = Field(default=12, ge=1, description="Attention heads of the resampler.")
    head_width: int = Field(default=64, ge=1, description="Width of one head of the resampler.")
    tokens: int = Field(default=16, ge=1, description="Identity tokens of one person.")
    feed_forward: int = Field(
        default=4, ge=1, description="The resampler's feed-forward layers are so many times its width."
    )


class DroppingSettings(Settings):
    """What is left out of a training sample, and how often."""

    face: Probability = Field(default=0.05, description="Samples without face condition, with text.")
    text: Probability = Field(default=0.05, description="Samples without text, with faces.")
    both: Probability = Field(default=0.05, description="Samples without either.")
    structure_path: Probability = Field(default=0.33, description="Samples without the structure branch (DropPath).")
    structure_tokens: Probability = Field(default=0.33, description="Samples that lose structure tokens (DropToken).")
    token_rate: Probability | tuple[Probability, Probability] = Field(
        default=(0.1, 0.9),
        description="Share of structure tokens that DropToken drops: fixed, or uniform between two numbers.",
    )
    other_photo: Probability = Field(
        default=0.1, description="Labelled single-person samples whose intrinsic features come from another photograph."
    )

    @model_validator(mode="after")
    def _sums(self) -> DroppingSettings:
        if self.face + self.text + self.both > 1.0:
            raise ValueError("face, text and both are parts of all samples: their sum must not exceed 1")
        if self.structure_path + self.structure_tokens > 1.0:
            raise ValueError("structure_path and structure_tokens are parts of all samples: lower one of them")
        if isinstance(self.token_rate, tuple) and self.token_rate[0] > self.token_rate[1]:
            raise ValueError("token_rate must be written as [lower, upper]")
        return self


class RoutingSettings(Settings):
    """Stage II: how positions find their person, and what the routing loss asks for."""

    mode: Literal["learned", "none"] = Field(
        default="learned",
        description='"none" gives every position the tokens of all people as one block; an ablation without a router.',
    )
    loss_weight: float = Field(default=0.1, ge=0.0, description="λ of the routing loss.")
    temperature: float = Field(default=1.0, gt=0.0, description="τ of the Gumbel softmax.")
    hard: bool = Field(default=True, description="One-hot weights in the forward pass, with the softmax's gradient.")
    normalisation: Literal["mean", "sum"] = Field(
        default="mean",
        description='"mean" over the positions with faces; "sum" is the plain sum of the paper\'s formula.',
    )
    overlap: Literal["divide", "smaller"] = Field(
        default="divide", description="Where boxes overlap: share the position, or give it to the smaller box."
    )
    mask_threshold: float = Field(
        default=0.5, ge=0.0, lt=1.0, description="A position is a face's if more than this share of it lies in the box."
    )


class LossSettings(Settings):
    """The diffusion loss."""

    min_snr_gamma: float | None = Field(
        default=None, gt=0.0, description="Min-SNR weighting of the timesteps; null: none."
    )
    noise_offset: float = Field(
        default=0.0, ge=0.0, description="Strength of a common offset of each channel of the noise."
    )


class ModelSettings(Settings):
    """Everything that a training step depends on beside its batch and its weights."""

    stage: Literal[1, 2] = Field(default=1, description="1 trains one person, 2 the router for several.")
    intrinsic: Literal["local", "global"] = Field(
        default="local",
        description='"global" takes the recognition embedding for the local features, without structure: an ablation.',
    )
    sizes: AdapterSizes = AdapterSizes()
    dropping: DroppingSettings = DroppingSettings()
    routing: RoutingSettings = RoutingSettings()
    loss: LossSettings = LossSettings()
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute the U-Net's blocks in the backward pass."
    )
    compile: bool = Field(default=False, description="Compile the U-Net.")

    @property
    def routes(self) -> bool:
        """Whether a router decides."""
        return self.stage == 2 and self.routing.mode == "learned"
