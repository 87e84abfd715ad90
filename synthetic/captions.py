"""What a caption says about a scene, in few words of a closed vocabulary. Left and right are the viewer's."""

from __future__ import annotations

from random import Random

from .palette import COLOUR_NAMES
from .randomness import chance, one_of, stream
from .scene import EXPRESSIONS, GAZES, TURNS, Person, Scene

_COUNTS = ("one person", "two people", "three people")
_PLACES = (("",), ("left person ", "right person "), ("left person ", "middle person ", "right person "))
_OPENINGS = ("a photo of {people}", "a portrait of {people}", "{people}")
_OFTEN, _SOMETIMES = 0.92, 0.65  # how often a caption names colours, and the rest

_WORDS = "a an photo portrait of one two three person people in shirt on background facing looking middle with face"
VOCABULARY = tuple(sorted({*_WORDS.split(), *COLOUR_NAMES, *EXPRESSIONS, *GAZES, *TURNS, "left", "right", ","}))


def caption(scene: Scene, complete: bool = False) -> str:
    """A caption of a scene: lower case, words of VOCABULARY, commas.

    It names the number of people always and other things mostly, as a user would, or with `complete` every one. What is
    left out and how the sentence begins follows from the scene's seed.
    """
    random = stream("caption", scene.seed)
    people = _COUNTS[len(scene.people) - 1]
    parts = [one_of(random, _OPENINGS).format(people=people)]
    background = f"on {_an(scene.background.name)} background"
    named = chance(random, _OFTEN) or complete
    first = chance(random, 0.5)
    if named and first:
        parts[0] += f" {background}"
    for place, person in zip(_PLACES[len(scene.people) - 1], scene.people, strict=True):
        told = _describe(random, person, complete)
        parts += [place + told[0], *told[1:]] if told else []
    if named and not first:
        parts.append(background)
    return ", ".join(parts)


def words(text: str) -> tuple[str, ...]:
    """A caption's words and commas. Raises ValueError for what is not in VOCABULARY."""
    split = tuple(text.lower().replace(",", " , ").split())
    if unknown := sorted(set(split) - set(VOCABULARY)):
        raise ValueError(f"the captions of this world do not know {', '.join(unknown)}")
    return split


def _an(colour: str) -> str:
    return f"an {colour}" if colour == "orange" else f"a {colour}"


def _describe(random: Random, person: Person, complete: bool) -> list[str]:
    face = {"neutral": "with a neutral face"}.get(person.expression, person.expression)
    said = (
        (f"in {_an(person.shirt)} shirt", _OFTEN),
        (face, _SOMETIMES),
        (f"facing {person.turn}", _SOMETIMES),
        (f"looking {person.gaze}", _SOMETIMES),
    )
    # every draw is made, whatever is said: a complete caption begins like the short one
    return [words for words, often in said if chance(random, often) or complete]
