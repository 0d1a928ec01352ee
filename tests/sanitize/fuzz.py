"""Spoils a server's answers, keeps what reaches new code and spoils that further. Run by `make fuzz`.

python fuzz.py cover.so SECONDS [SEED]: what is worth keeping goes to build/fuzz/corpus; a wrong fate ends it.
"""

from __future__ import annotations

import ctypes
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from core import fake  # noqa: E402
from core.test_decoder import GOOD, check, spoil  # noqa: E402


def mutated(pool: list[bytes], chance: random.Random) -> bytes:
    said = chance.choice(pool)
    what = chance.randrange(4)
    if what == 0:
        return spoil(said, chance.getrandbits(32)) if said else fake.packed([chance.choice(GOOD)])
    messages, rest = fake.parsed(said)
    if what == 1 and messages:
        del messages[chance.randrange(len(messages))]
    elif what == 2:
        messages.insert(chance.randint(0, len(messages)), chance.choice(GOOD))
    else:
        other, _ = fake.parsed(chance.choice(pool))
        messages = messages[: chance.randint(0, len(messages))] + other[chance.randint(0, len(other)) :]
    return fake.packed(messages[:40]) + rest


def main() -> None:
    cover = ctypes.CDLL(sys.argv[1])
    seconds = float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    kept = ROOT / "build" / "fuzz" / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    reached = (ctypes.c_uint8 * 65536)()
    pool: list[bytes] = []
    fates: dict[str, int] = {}
    runs = 0
    last = kept / "last"
    with tempfile.TemporaryDirectory() as folder:
        server = fake.FakeServer(Path(folder))

        def run(said: bytes, again: bool) -> int:
            nonlocal runs
            runs += 1
            last.write_bytes(said)  # stays there when it crashes
            cover.cover_reset()
            fate = check(server, said, again)
            fates[fate] = fates.get(fate, 0) + 1
            return int(cover.cover_merge(reached))

        for said in (
            fake.pipeline(5),
            fake.pipeline(5, again=[3]),
            [fake.BIND, *fake.times(5), fake.error(), fake.READY],
        ):
            for again in (False, True):
                run(fake.packed(said), again)
            pool.append(fake.packed(said))
        for path in sorted((ROOT / "tests/core/corpus").glob("*")):
            pool.append(path.read_bytes())
            run(pool[-1], False)
        begun = sum(reached)
        assert begun > 100, "the core is not instrumented"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            said = mutated(pool, chance)
            if run(said, chance.random() < 0.5):
                pool.append(said)
                (kept / f"{seed}-{len(pool)}").write_bytes(said)
        server.close()
    last.unlink()
    print(f"fuzz: seed {seed}: {runs} answers, {len(pool)} worth keeping, fates {fates}")
    print(f"fuzz: steps of code reached: {begun} by good answers, {sum(reached)} in the end")


if __name__ == "__main__":
    main()
