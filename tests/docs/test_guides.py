"""The pages of docs/guides: the code of each, put together, is a program that Python takes without a warning.

Where a page awaits outside a function, as a fragment of a program does, its code is compiled only.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDES = sorted((Path(__file__).resolve().parents[2] / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("page", GUIDES, ids=[page.name for page in GUIDES])
def test_the_code_of_a_guide_can_be_imported(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks or "```sql\n" in text
    source = "\n".join(blocks)
    code = compile(source, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        return
    program = tmp_path / "guide.py"
    program.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import guide"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
