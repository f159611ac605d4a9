"""How dask_als scales with ratings, ranks, workers, partitions and hosts, and its limits.

    python tests/benchmarks/scaling.py all               # every study, under a quarter of an hour
    python tests/benchmarks/scaling.py ratings ranks     # some of them
    python tests/benchmarks/scaling.py all --small       # a trial; the page is left alone
    python tests/benchmarks/scaling.py page              # write the page's tables again

Every study is a module of ``studies/`` and writes ``build/benchmarks/scaling/NAME.json``. The
tables of ``docs/scaling.md`` are made from these files; the words around them are not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmark_data import BUILD
from machine import Watch, describe, environment, say
from studies import broadcast, memory, model, overhead, prepare, ranks, ratings
from studies.report import Criterion, table

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
RESULTS = BUILD / "scaling"
STUDIES = {
    "ratings": ratings,
    "ranks": ranks,
    "overhead": overhead,
    "memory": memory,
    "prepare": prepare,
    "broadcast": broadcast,
    "model": model,  # of all the others' figures, so it comes last
}


def main() -> None:
    """Run the studies that the options select."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", choices=[*STUDIES, "all", "page"])
    parser.add_argument("--small", action="store_true", help="little data, to try it out")
    options = parser.parse_args()
    results = RESULTS / "small" if options.small else RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for name, study in STUDIES.items():
        if {name, "all"} & set(options.studies):
            say(f"--- {study.TITLE}")
            start = time.monotonic()
            with Watch(os.getpid()) as watch:
                found = study.measure(_read(results), small=options.small)
            value = {
                "machine": describe(),
                "seconds": round(time.monotonic() - start),
                "others_cores": round(watch.others_cores, 2),
                "result": found,
            }
            say(f"took {value['seconds']} s; others took {value['others_cores']} cores")
            (results / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    sections = _sections(results)
    if options.small:
        print("\n\n".join(sections.values()))
    else:
        _write_page(sections)


def _read(results: Path) -> dict[str, Any]:
    """Read the results of studies, by their names."""
    files = {name: results / f"{name}.json" for name in STUDIES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def _sections(results: Path) -> dict[str, str]:
    """Write the tables of every study that has been run, and of all criteria."""
    found = _read(results)
    tables = {
        name: f"{STUDIES[name].tables(value['result'])}\n\n{_measured_on(value)}"
        for name, value in found.items()
    }
    criteria = [
        criterion
        for name, value in found.items()
        for criterion in STUDIES[name].criteria(value["result"])
    ]
    return {"criteria": _criteria_table(criteria), **tables}


def _criteria_table(criteria: list[Criterion]) -> str:
    rows = [[c.demand, c.reached, "yes" if c.met else "**no**"] for c in criteria]
    return table(["demanded", "reached", "met"], rows)


def _measured_on(value: dict[str, Any]) -> str:
    machine = value["machine"]
    return (
        f"<sub>{machine['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, "
        f"Python {machine['python']}; took {value['seconds']} s, "
        f"while others took {value['others_cores']:.2f} cores.</sub>"
    )


def _write_page(sections: dict[str, str]) -> None:
    """Put tables between their marks in the page."""
    page = PAGE.read_text()
    for name, tables in sections.items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        page, places = re.subn(mark, lambda m, t=tables: f"{m[1]}\n{t}\n\n{m[2]}", page, flags=re.S)
        if places != 1:
            raise SystemExit(f"{PAGE} has {places} places for the tables of {name}; make it one")
    PAGE.write_text(page)
    say(f"written: {PAGE}")


def _terminated(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C, so that a study removes what it has set up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    if dict(os.environ) != environment():
        os.execve(sys.executable, [sys.executable, *sys.argv], environment())
    signal.signal(signal.SIGTERM, _terminated)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
