"""x"""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MALLOC_ARENA_MAX"] = "2"
if __name__ == "__main__":
    import collections

    from bench.faults import files, images, fuzz
    from bench.faults.attack import run

    work = Path("/tmp/faults/w")
    work.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        a = next(x for x in files.ATTACKS + images.ATTACKS + fuzz.ATTACKS if x.name == name)
        row = run(a, work, int(sys.argv[1]))
        print(row.name, row.ended, len(row.failures), f"{row.seconds:.0f} s")
        c = collections.defaultdict(list)
        for f in row.failures:
            c[f.kind, f.told.splitlines()[-1][:150]].append(f)
        for k, v in sorted(c.items(), key=lambda i: -len(i[1])):
            print("  ", len(v), k, v[0].attempt, v[0].doing)
