"""Configs there and back; everything that does not fit is named with its place."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from ulna.datasets.schema import Camera, Embodiment
from ulna.datasets.strict_json import decode, encode
from ulna.train.config import TrainConfig
from ulna.train.recipes import RECIPES


@dataclass(frozen=True)
class Circle:
    type: Literal["circle"] = "circle"
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    type: Literal["square"] = "square"
    side: int = 2


@dataclass(frozen=True)
class Drawing:
    name: str
    shape: Circle | Square = field(default_factory=Circle)
    points: tuple[tuple[int, float], ...] = ()
    note: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    shown: bool = True


DRAWING = Drawing("d", Square(side=3), ((1, 2.5), (3, 4.0)), None, {"a": 1}, False)


@pytest.mark.parametrize("value", [DRAWING, *(make() for make in RECIPES.values())])
def test_there_and_back(value):
    assert decode(type(value), json.loads(json.dumps(encode(value)))) == value


def test_an_embodiment_there_and_back():
    arm = Embodiment("arm", 20.0, ("x",), ("a",), (-1.0,), (1.0,), "", (Camera("front", 8, 8),))
    assert decode(Embodiment, json.loads(json.dumps(encode(arm)))) == arm


def test_a_whole_number_is_a_float_and_a_float_is_no_int():
    assert decode(Circle, {"type": "circle", "radius": 2}) == Circle(radius=2.0)
    with pytest.raises(ValueError, match="config.side: expected int, got float 2.5"):
        decode(Square, {"type": "square", "side": 2.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": "e"}, "unknown key in config 'nam'. Did you mean 'name'"),
        ({"shape": {"type": "circl"}}, "unknown type of config.shape 'circl'.*'circle'"),
        ({"shape": {"type": "square", "sid": 1}}, "key in config.shape 'sid'"),
        ({"points": [[1]]}, r"config.points\[0\]: expected 2 entries, got 1"),
        ({"points": [[1, "x"]]}, r"config.points\[0\]\[1\]: expected float, got str 'x'"),
        ({"counts": {"a": True}}, "config.counts.a: expected int, got bool"),
        ({"shown": 1}, "config.shown: expected bool, got int"),
        ({"shape": 3}, "config.shape: 3 fits none of"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change, message):
    with pytest.raises(ValueError, match=message):
        decode(Drawing, {**encode(DRAWING), **change})


def test_a_missing_key_without_a_default_is_named():
    with pytest.raises(ValueError, match="the key 'name' of Drawing is missing"):
        decode(Drawing, {})
    assert decode(Drawing, {"name": "d"}) == Drawing("d")
    assert decode(TrainConfig, {}) == TrainConfig()
