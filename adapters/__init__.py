"""The networks of the identity systems: pure PyTorch, without a host."""
