"""
The stylesheet: contrast, and nothing that reaches outside.
"""

from __future__ import annotations

import re

import pytest

from company_agents.dashboard.render import FOLDER, STATIC

STYLE = (STATIC / "style.css").read_text()

# What stands on what. WCAG 2.2, 1.4.3: text 4.5; 1.4.11: what shows a control or the focus 3.
TEXT = [
    *[
        (ink, ground)
        for ink in ("ink", "quiet", "accent", "accent-strong")
        for ground in ("ground", "surface", "sunken")
    ],
    *[(tone, f"{tone}-soft") for tone in ("good", "warn", "bad", "still")],
    *[("ink", f"{tone}-soft") for tone in ("good", "warn", "bad", "still")],
    *[("quiet", f"{tone}-soft") for tone in ("good", "warn", "bad", "still")],
    *[("accent", f"{tone}-soft") for tone in ("good", "warn", "bad", "still", "accent")],
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("on-bad", "bad"),
    ("bad", "surface"),
    # What a run complains of.
    ("bad", "sunken"),
    ("ground", "ink"),
]
SHAPES = [
    *[("edge", ground) for ground in ("ground", "surface", "sunken")],
    *[("focus", ground) for ground in ("ground", "surface", "sunken")],
    ("accent", "surface"),
    # Bars, and the states of a run.
    *[(tone, "surface") for tone in ("good", "warn", "bad", "still")],
]


def palette(scheme: str) -> dict[str, str]:
    light, dark = (
        re.search(pattern, STYLE, re.DOTALL) for pattern in (r"\n:root \{(.*?)\n\}", r"\n    :root \{(.*?)\n    \}")
    )
    assert light and dark
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light[1]))
    return colours if scheme == "light" else {**colours, **dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark[1]))}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_the_guideline_says() -> None:
    assert round(contrast("#000000", "#ffffff"), 2) == 21
    assert round(contrast("#767676", "#ffffff"), 2) == 4.54


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_written_can_be_read(scheme: str) -> None:
    colours = palette(scheme)
    found = {f"{ink} on {ground}": contrast(colours[ink], colours[ground]) for ink, ground in TEXT}
    assert {pair: round(ratio, 2) for pair, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_and_the_focus_can_be_seen(scheme: str) -> None:
    colours = palette(scheme)
    found = {f"{shape} on {ground}": contrast(colours[shape], colours[ground]) for shape, ground in SHAPES}
    assert {pair: round(ratio, 2) for pair, ratio in found.items() if ratio < 3} == {}


def test_colours_are_named_once_and_used_by_name() -> None:
    after_the_palettes = STYLE.split("*, *::before", 1)[1]
    # White behind the QR code in both schemes: cameras want it.
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", after_the_palettes) == ["#fff"]


def test_the_style_reaches_for_nothing() -> None:
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_no_template_has_a_script_a_style_or_an_unescaped_value() -> None:
    files = sorted((FOLDER / "templates").glob("*.html"))
    assert len(files) > 20
    # The one script is a file of ours, and only in pages that stay up to date.
    ours = """{% if live %}<script src="{{ static('live.js') }}" defer></script>{% endif %}"""
    assert sum(ours in file.read_text() for file in files) == 1
    for file in files:
        text = file.read_text().replace(ours, "")
        assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=|javascript:|\| *safe|autoescape", text), file.name
