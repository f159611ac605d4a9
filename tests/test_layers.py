"""Data flows one way: a module imports only from layers above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dask_als"

LAYERS = [
    {"errors", "home"},
    {"credentials", "limits", "typed_tables"},
    {"side", "draws", "simd", "storage", "jit", "blas_threads", "ranking", "explain"},
    {"ownership"},
    {"outputs"},
    {
        "settings",
        "exact_sum",
        "ranges",
        "split",
        "gram",
        "generate",
        "fetch",
        "interrupts",
        "placement",
        "output_lock",
        "aligned",
    },
    {"blocks", "history", "cholesky", "csv_text", "job_file", "monitor.times"},
    {"monitor.run"},
    {"executor", "monitor.metrics", "monitor.page", "monitor.trace"},
    {"monitor.plugin", "private_cluster"},
    {"monitor.watcher"},
    {"objective", "source", "dataset", "kernels", "job_result", "stopping", "top_k"},
    {"clean", "half_epoch", "model_files", "gibbs_kernel", "implicit_kernel", "samples"},
    {"gibbs", "implicit", "recommend", "sample_files"},
    {"methods"},
    {"prepare_tasks", "checkpoint", "model", "plan"},
    {"prepare", "train"},
    {"folds", "tuned_job"},
    {"tune"},
    {"kubernetes.spec"},
    {"kubernetes.api"},
    {"kubernetes.kube_cluster", "kubernetes.status"},
    {"kubernetes.operator"},
    {"cluster", "fold_in", "report_data", "uncertainty"},
    {"evaluate"},
    {"estimator", "demo", "console", "report", "run_job", "cluster_check"},
    {"cluster_guard"},
    {"log"},
    {"commands.options"},
    {"commands.computing", "commands.jobs"},
    {
        "commands.evaluate",
        "commands.explain",
        "commands.fetch",
        "commands.fold_in",
        "commands.generate",
        "commands.plan",
        "commands.prepare",
        "commands.recommend",
        "commands.report",
        "commands.run",
        "commands.similar",
        "commands.train",
        "commands.tune",
    },
    {
        f"commands.{name}"
        for name in ("submit", "status", "logs", "list", "stop", "resume", "delete")
    },
    {"commands.demo"},
    {"cli"},
    {"__main__"},
]
PARTS = ("dask_als.cli.commands.", "dask_als.kubernetes.", "dask_als.monitor.")
DASK = {"dask", "distributed"}
KNOW_DASK = {
    "cluster",
    "cluster_check",
    "cluster_guard",
    "estimator",
    "monitor.page",
    "monitor.plugin",
    "monitor.watcher",
    "private_cluster",
}


def imports(module):
    """Return the modules of ours, and the packages of others, that a module imports anywhere."""
    ours, others = set(), set()
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dask_als":
            ours |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "dask_als.kubernetes":
            ours |= {f"kubernetes.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(PARTS):
            ours.add(node.module.removeprefix("dask_als."))
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("dask_als."):
            ours.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
    return ours, others


MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def test_every_module_has_its_layer():
    assert sorted(set.union(*LAYERS)) == MODULES
    assert sum(len(layer) for layer in LAYERS) == len(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_above(module):
    place = next(number for number, layer in enumerate(LAYERS) if module in layer)
    above = set().union(*LAYERS[:place])
    assert imports(module)[0] <= above


@pytest.mark.parametrize("module", MODULES)
def test_only_a_thin_layer_knows_dask(module):
    if module not in KNOW_DASK:
        assert not imports(module)[1] & DASK


@pytest.mark.parametrize("module", MODULES)
def test_only_the_edge_knows_the_command_line(module):
    if module != "cli" and not module.startswith("commands."):
        assert "click" not in imports(module)[1]
