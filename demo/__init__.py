"""The embedded default: tiny models of the real architectures, and what queues a workflow on them."""
