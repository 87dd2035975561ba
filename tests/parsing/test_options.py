"""Settings objects as options of a verb, and options that have other names now."""

from dataclasses import dataclass, field

import pytest

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import OLD_NAMES, Settings
from medsoft.parsing.parser import call, parser_of


@dataclass(frozen=True)
class Ink:
    """Pen strokes.

    Attributes:
        colour: Of the pen.
    """

    colour: str = "blue"


@dataclass(frozen=True)
class Grid(Settings):
    """Where tiles begin.

    Attributes:
        overlap_px: How far neighbours overlap.
    """

    overlap_px: int = 0


@dataclass(frozen=True)
class Tiling(Settings):
    """How tiles lie.

    Attributes:
        mpp: Resolution in µm per pixel.
        tile_px: Side of a tile in pixels.
        grid: Where tiles begin.
        ink: Pen strokes.
    """

    mpp: float
    tile_px: int = 224
    grid: Grid = field(default_factory=Grid)
    ink: Ink = field(default_factory=Ink)
    area: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check_range("tile_px", self.tile_px, 8)
        object.__setattr__(self, "area", self.tile_px**2)


@dataclass(frozen=True)
class Reading(Settings):
    """How pixels are read.

    Attributes:
        workers: Threads that read.
        names: Of files.
    """

    workers: int = 1
    names: list[str] = field(default_factory=list)


def tile(out: str, tiling: Tiling, reading: Reading = Reading(workers=4), deep: bool = False) -> tuple:
    """Lay tiles.

    Args:
        out: A folder.
        tiling: How tiles lie.
        reading: How pixels are read.
        deep: Go on.
    """
    return out, tiling, reading, deep


def test_fields_of_settings_are_options_of_the_verb():
    words = ["--out=o", "--mpp=0.5", "--tile-px", "32", "--overlap_px=4", "--ink.colour=red", "--names=[a]"]
    assert call(tile, words, "toy") == ("o", Tiling(0.5, 32, Grid(4), Ink("red")), Reading(4, ["a"]), False)
    assert call(tile, ["--out=o", "--mpp=1"], "toy") == ("o", Tiling(1.0), Reading(4), False)
    assert call(tile, ["--out=o", "--mpp=1", "--workers=2"], "toy")[2] == Reading(2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out=o"], "missing: mpp"),
        (["--out=o", "--mpp=1", "--tile_px=3"], "tile_px"),
        (["--out=o", "--mpp=many"], "option mpp: 'many' is not of its type: a number"),
        (["--out=o", "--mpp=1", "--tiling.tile_px=32"], "unknown option --tiling.tile_px; the nearest is tile_px"),
        (["--out=o", "--mpp=1", "--area=32"], "unknown option --area"),
    ],
)
def test_mistakes_in_settings_are_told_as_those_in_options(words, says):
    with pytest.raises(InputError, match=says):
        call(tile, words, "toy")


def test_help_of_settings_is_their_docstring():
    text = " ".join(parser_of(tile).format_help().split())
    assert "How tiles lie: --mpp MPP Resolution in µm per pixel. (required" in text
    assert "--workers WORKERS Threads that read. (type: int, default: 4)" in text
    assert "--overlap_px" in text
    assert "tiling" not in text


def test_two_options_of_one_name_are_found_at_once():
    @dataclass(frozen=True)
    class Other(Settings):
        """Another.

        Attributes:
            mpp: Of something else.
        """

        mpp: float = 1.0

    def clashing(tiling: Tiling, other: Other) -> None:
        """Clash."""

    clashing.__annotations__ = {"tiling": Tiling, "other": Other}
    with pytest.raises(ValueError, match="two options of one verb are called mpp: Tiling and Other"):
        parser_of(clashing)


def test_an_old_name_is_answered_with_the_new_one(monkeypatch):
    monkeypatch.setitem(OLD_NAMES, "toy", {"tile": "tile_px"})
    with pytest.raises(InputError, match=r"^--tile is now called --tile_px$"):
        call(tile, ["--out=o", "--mpp=1", "--tile=32"], "toy")
    with pytest.raises(InputError, match="unknown option --tile;"):
        call(tile, ["--out=o", "--mpp=1", "--tile=32"], "another toy")
