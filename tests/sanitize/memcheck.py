"""Reads memcheck's logs: fails for what it found in the core, or that the core or its libpq allocated and lost."""

from __future__ import annotations

import re
import sys
from pathlib import Path

OURS = re.compile(r"\(in .*/_core\.[^)]*\.so\)|\(_core\.c:\d+\)|__pyx_|libpq\.so|\(fe-\w+\.c:\d+\)")
PYTHON = re.compile(r"libpython|/python3|\((?:\w+object|ceval|call|\w+module|obmalloc|import|getargs)\.[ch]:\d+\)")


def blamed(frames: list[str], leak: bool) -> bool:
    """Whether the core stands in the stack; for a leak, before the interpreter: so the core asked for the memory."""
    for frame in frames:
        if OURS.search(frame):
            return True
        if leak and PYTHON.search(frame):
            return False
    return False


def main() -> int:
    found, reports, ends = [], 0, 0
    for name in sys.argv[1:]:
        text = re.sub(r"^==\d+== ?", "", Path(name).read_text(errors="replace"), flags=re.M)
        ends += "ERROR SUMMARY" in text
        for report in re.split(r"\n\s*\n", text):
            frames = re.findall(r"^\s+(?:at|by) 0x\w+: (.*)$", report, re.M)
            if frames:
                reports += 1
                if blamed(frames, "lost in loss record" in report):
                    found.append(report)
    print(f"valgrind: {reports} reports, {len(found)} of the core")
    print("\n\n".join(found[:20]))
    return 1 if found or not ends else 0


if __name__ == "__main__":
    sys.exit(main())
