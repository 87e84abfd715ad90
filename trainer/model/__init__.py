"""The networks in training: base model, encoders, the diffusers host of the adapters, losses and a sampler."""
