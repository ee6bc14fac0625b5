"""Colours of reports on paper. Blue and orange differ for every kind of colour vision, and in grey."""

BLUE = "#2468c8"
ORANGE = "#c9640a"
GREEN = "#1d7f56"
VIOLET = "#7a4fb5"
INK = "#17202c"
SOFT = "#5b6778"
GREY = "#a9b3c0"
LINE = "#dfe4eb"
RAIL = "#e9edf3"
NAVY = "#163f73"
BLUE_WASH = "#e6effb"
ORANGE_WASH = "#fdf0e2"


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255 each, of `#rrggbb`."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
