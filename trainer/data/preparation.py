"""From folders of pictures to a set: examine, leave out near-duplicates, collect in shards, add other photographs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .duplicates import NearDuplicates
from .examination import Examiner, PrepareSettings, Refusal, Taken
from .index import ShardIndex, read_index, write_atomically
from .picture_set import PictureSet
from .samples import StoredSample, face_member
from .sources import Source, digest, find_sources
from .unfinished import REFUSED_FILE, UnfinishedSet
from .workers import examine_all

_BYTES_PER_SHARD = 1 << 30  # so that a shard of large pictures still fits into memory


@dataclass(frozen=True)
class Summary:
    """What became of the pictures: taken by number of faces, refused by reason, both as counts."""

    num_sources: int
    taken: Mapping[int, int]
    refused: Mapping[str, int]


def prepare_pictures(settings: PrepareSettings) -> Summary:
    """Make the set `settings.out`, or go on with it where it was left; an already finished one is left as it is.

    Every refusal is listed in `refused.jsonl`. The set depends on pictures and settings, not on the number of workers.
    Raises ValueError for folders that cannot be read, without pictures, when none of them is taken, when the disk is
    full (what is whole is kept), and when the folder holds a set made otherwise.
    """
    sources = find_sources(settings.inputs)
    target = UnfinishedSet(settings.out, _plan(settings, sources))
    if not target.is_finished:
        _collect(target, settings, sources)
        _write_refused(target)
        if not target.num_pictures:
            target.discard()
            raise ValueError(_nothing_taken(target, settings, len(sources)))
        target.finish(rewrite=_People(target, settings.others).with_others)
    return _summary(settings.out, len(sources))


def _plan(settings: PrepareSettings, sources: Sequence[Source]) -> dict[str, Any]:
    """All that decides what the set holds."""
    plan = {key: value for key, value in asdict(settings).items() if key not in ("inputs", "out", "workers")}
    plan["detector_folders"] = [str(folder) for folder in settings.detector_folders]
    plan |= {key: str(plan[key]) for key in ("labels", "aesthetic_scores") if plan[key] is not None}
    return {
        "command": "prepare",
        "pictures": len(sources),
        "fingerprint of the pictures": digest(sources, settings.labels, settings.aesthetic_scores),
        "found by": Examiner(settings).detector,
        **plan,
    }


def _collect(target: UnfinishedSet, settings: PrepareSettings, sources: Sequence[Source]) -> None:
    """Examine what has not been examined and write it shard by shard."""
    done = target.parts[-1].note["examined"] if target.parts else 0
    if done == len(sources):
        return
    seen = NearDuplicates(settings.duplicate_distance) if settings.duplicate_distance >= 0 else None
    for part in target.parts:
        for value, name in part.note["hashes"] if seen else ():
            seen.add(int(value, 16), name)  # type: ignore[union-attr]
    waiting = _Waiting()
    outcomes = examine_all(sources[done:], settings)
    for number, outcome in enumerate(_progress(outcomes, done, len(sources)), start=done + 1):
        outcome = _without_duplicates(outcome, seen)
        if isinstance(outcome, Refusal):
            waiting.refused.append(outcome)
        else:
            waiting.add(outcome, target.num_pictures)
        full = len(waiting.samples) == settings.samples_per_shard or waiting.length >= _BYTES_PER_SHARD
        if full or number == len(sources):
            target.add(waiting.samples, waiting.note(number))
            waiting = _Waiting()


def _progress(outcomes: Iterator[Taken | Refusal], done: int, total: int) -> Iterator[Taken | Refusal]:
    yield from tqdm(outcomes, "pictures", total=total, initial=done, disable=None)  # quiet where nobody watches


def _without_duplicates(outcome: Taken | Refusal, seen: NearDuplicates | None) -> Taken | Refusal:
    if seen is None or isinstance(outcome, Refusal):
        return outcome
    twin = seen.find(outcome.hash)
    if twin is not None:
        return Refusal(outcome.name, "near-duplicate", f"of {twin}")
    seen.add(outcome.hash, outcome.name)
    return outcome


class _Waiting:
    """What the next shard will hold."""

    def __init__(self) -> None:
        self.samples: list[StoredSample] = []
        self.refused: list[Refusal] = []
        self.length = 0
        self._hashes: list[tuple[str, str]] = []
        self._people: dict[str, str] = {}

    def add(self, taken: Taken, num_before: int) -> None:
        """Take a picture in; its key is its number in the set."""
        sample = replace(taken.sample, key=f"{num_before + len(self.samples):08d}")
        self.samples.append(sample)
        self.length += len(sample.picture) + sum(map(len, sample.crops))
        self._hashes.append((f"{taken.hash:x}", taken.name))
        faces = sample.record.faces
        if len(faces) == 1 and faces[0].person is not None:
            self._people[sample.key] = faces[0].person

    def note(self, examined: int) -> dict[str, Any]:
        """What a resumed run and the end need to know of this shard."""
        refused = [asdict(refusal) for refusal in self.refused]
        return {"examined": examined, "refused": refused, "hashes": self._hashes, "people": self._people}


class _People:
    """Gives every one-face picture of a labelled person crops of that person's other pictures."""

    def __init__(self, target: UnfinishedSet, others: int) -> None:
        self._others = others
        self._person = {key: person for part in target.parts for key, person in part.note["people"].items()}
        self._pictures: dict[str, list[str]] = {}
        for key, person in self._person.items():
            self._pictures.setdefault(person, []).append(key)
        self._target = target
        self._set: PictureSet | None = None
        self._number: dict[str, int] = {}

    def with_others(self, shard: ShardIndex) -> list[StoredSample] | None:
        """The samples of a shard with the crops, None when nobody in it has another picture."""
        if not any(self._keys(entry.key) for entry in shard.entries):
            return None
        pictures = self._open()
        samples = []
        for entry in shard.entries:
            others = tuple(pictures.sample(self._number[key]).read(face_member(0)) for key in self._keys(entry.key))
            samples.append(replace(pictures.sample(self._number[entry.key]).stored(), others=others))
        return samples

    def _open(self) -> PictureSet:
        if self._set is None:
            self._set = self._target.pictures()
            self._number = {key: number for number, key in enumerate(self._set.keys)}
        return self._set

    def _keys(self, key: str) -> list[str]:
        """The person's pictures that follow this one, in a circle, at most `others`."""
        person = self._person.get(key)
        if person is None:
            return []
        keys = self._pictures[person]
        place = keys.index(key)
        return (keys[place + 1 :] + keys[:place])[: self._others]


def _write_refused(target: UnfinishedSet) -> None:
    lines = [
        json.dumps(
            {"file": refused["name"], "reason": refused["reason"], "detail": refused["detail"]}, ensure_ascii=False
        )
        for part in target.parts
        for refused in part.note["refused"]
    ]
    write_atomically(target.out / REFUSED_FILE, "".join(f"{line}\n" for line in lines).encode())


def _nothing_taken(target: UnfinishedSet, settings: PrepareSettings, num_sources: int) -> str:
    reasons = Counter(refused["reason"] for part in target.parts for refused in part.note["refused"])
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if set(reasons) == {"no face"}:
        hint = "No face was found in any of them. Are these photographs of people? Try another --detector"
    else:
        hint = "Give other pictures, or change the limits that refuse them"
    return f"none of the {num_sources} pictures was taken: {listed}; see {settings.out / REFUSED_FILE}. {hint}"


def _summary(folder: Path, num_sources: int) -> Summary:
    refused = [json.loads(line) for line in (folder / REFUSED_FILE).read_text("utf-8").splitlines()]
    faces = Counter(len(entry.boxes) for shard in read_index(folder).shards for entry in shard.entries)
    reasons = Counter(line["reason"] for line in refused)
    return Summary(num_sources, dict(sorted(faces.items())), dict(reasons.most_common()))
