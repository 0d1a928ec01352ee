"""The formal model's text and what `make chaos` checks of it belong together. spin itself runs only there."""

from __future__ import annotations

import re

from .model import MODEL, MUTATIONS


def test_every_mutation_of_the_text_is_checked() -> None:
    text = MODEL.read_text()
    macros = set(re.findall(r"#(?:ifdef|ifndef) (\w+)", text)) - {"PROCESSES", "INCARNATIONS", "STEPS"}
    assert macros == set(MUTATIONS)
    assert all(f"-D{name}" in text for name in MUTATIONS)
