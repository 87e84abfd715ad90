"""What runs inside ComfyUI's sampler."""
