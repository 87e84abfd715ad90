"""One training run: the loop, its checkpoints and logs, and what it says when something goes wrong."""
