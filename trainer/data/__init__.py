"""Training pictures: their format on disk, preparing and caching them, and the batches of every step."""
