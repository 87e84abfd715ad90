"""A world of labelled people, drawn from seeds: who they are apart from how a picture shows them."""

from .captions import VOCABULARY, caption
from .identity import Identity, identities
from .palette import COLOUR_NAMES
from .people import people, split_of, test_people, train_people
from .render import Rendered, render
from .scene import EXPRESSIONS, GAZES, LEVELS, TURNS, Scene, draw_reference, draw_scene

__all__ = [
    "COLOUR_NAMES",
    "EXPRESSIONS",
    "GAZES",
    "LEVELS",
    "TURNS",
    "VOCABULARY",
    "Identity",
    "Rendered",
    "Scene",
    "caption",
    "draw_reference",
    "draw_scene",
    "identities",
    "people",
    "render",
    "split_of",
    "test_people",
    "train_people",
]
