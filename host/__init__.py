"""A real ComfyUI for the demo, the tests and the benchmarks: find or fetch it, start it, talk to it."""
