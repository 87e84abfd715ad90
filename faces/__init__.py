"""Faces in pictures: detection, choice, alignment, drawing and the recognition backbone."""
