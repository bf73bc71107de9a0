"""configs/README.md is what docs/build_configs.py makes of the files, the benchmarks and the evidence."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

from mixcore.ledger.benchmarks import benchmarks, experiment, list_experiments

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "build_configs.py")))
PAGE = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")


def test_the_page_is_made_of_what_there_is_now() -> None:
    assert CONFIGS.page() == PAGE, "configs/README.md is not what the files say: run  python docs/build_configs.py"


def test_every_benchmark_and_example_is_on_it() -> None:
    for name in benchmarks():
        assert f"| `{name}` |" in PAGE
        assert f"- `{name}`: " in PAGE
    for path in (ROOT / "configs").rglob("*.toml"):
        assert f"]({path.relative_to(ROOT / 'configs').as_posix()})" in PAGE


def test_its_links_lead_somewhere_and_its_names_are_experiments() -> None:
    links = re.findall(r"\]\(([^)#]*)\)", PAGE)
    assert len(set(links)) > 20
    assert all((ROOT / "configs" / link).exists() for link in links)
    names = re.findall(r"mixcore (?:run|show) ([\w-]+\.\w+\.\w+\.ep\d+)", PAGE + (ROOT / "README.md").read_text())
    assert len(names) > 14
    assert all(experiment(name).id == name for name in names)


def test_the_number_of_experiments_is_as_the_pages_say() -> None:
    found = re.findall(r"(\d+)\s+such\s+experiments of (\d+)\s+benchmarks", (ROOT / "README.md").read_text())
    assert found == [(str(len(list_experiments())), str(len(benchmarks())))]
