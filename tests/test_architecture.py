"""Rules of the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sfc.config.files

ROOT = Path(__file__).resolve().parent.parent
METHOD = sorted((ROOT / "sfc").rglob("*.py"))
EVERYTHING = METHOD + sorted((ROOT / "tune").rglob("*.py"))
PLATFORM = {"ray", "mlflow", "optuna", "tune"}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, anywhere in it."""
    package = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = [*package[: -node.level], node.module] if node.level else [node.module]
            module = ".".join(part for part in origin if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert {"sfc/runtime/training.py", "sfc/stages/maps.py"} <= set(map(relative, METHOD))
    assert "sfc.method.cam" in imports(ROOT / "sfc" / "method" / "losses.py")


@pytest.mark.parametrize("path", METHOD, ids=relative)
def test_the_method_does_not_import_the_platform(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] in PLATFORM}


def test_the_method_works_where_the_platform_can_not_be_imported() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in METHOD if path.name != "__main__.py"]
    names = [name.removesuffix(".__init__") for name in modules]
    code = (
        "import sys, importlib\n"
        f"for name in {sorted(PLATFORM)}: sys.modules[name] = None\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "sfc" / "stages").glob("*.py")), ids=relative)
def test_stages_do_not_import_each_other(path: Path) -> None:
    others = {name for name in imports(path) if name.startswith("sfc.stages.")}
    assert not {name for name in others if not name.startswith("sfc.stages.spec")}


@pytest.mark.parametrize("path", [p for p in METHOD if p.parent.name != "stages"], ids=relative)
def test_only_the_pipeline_knows_the_stages(path: Path) -> None:
    if path.name not in ("pipeline.py", "__main__.py"):
        assert not {name for name in imports(path) if name.startswith("sfc.stages")}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Calls in a file by dotted name, `np` and `numpy` alike."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func).replace("numpy.", "np."), node) for node in nodes]


def argument(call: ast.Call, name: str) -> object:
    values = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    for name, call in calls(path):
        where = f"{relative(path)}:{call.lineno}: {ast.unparse(call)}"
        if name == "torch.load":
            assert argument(call, "weights_only") is True, where
        if name == "np.load":
            assert argument(call, "allow_pickle") in (None, False), where
        if name == "yaml.load":
            assert path.name == "files.py" and ast.unparse(call.args[1]) == "_Loader", where
        assert name not in {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "eval", "exec", "np.fromstring"}, (
            where
        )
        assert not name.endswith("read_pickle"), where
    assert not {name.split(".")[0] for name in imports(path)} & {
        "pickle",
        "cPickle",
        "dill",
        "joblib",
        "marshal",
        "shelve",
    }


def test_the_loader_of_settings_is_a_safe_one() -> None:
    assert issubclass(sfc.config.files._Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        sfc.config.files.parse_yaml("!!python/object/apply:os.getcwd []")


PLATFORM_MAY_USE = (
    "sfc.__main__",
    "sfc.config",
    "sfc.data",
    "sfc.errors",
    "sfc.pipeline",
    "sfc.plots",
    "sfc.results",
    "sfc.runtime",
    "sfc.scoring",
    "sfc.terminal",
)


@pytest.mark.parametrize("path", [p for p in EVERYTHING if p not in METHOD], ids=relative)
def test_the_platform_reaches_the_method_through_the_pipeline(path: Path) -> None:
    allowed = {"sfc", "sfc.plots", "sfc.stages.spec"}  # the latter: names of folders in outputs
    used = {name for name in imports(path) if name.startswith("sfc")}
    outside = {
        n for n in used if not n.startswith(PLATFORM_MAY_USE) and not any(n.startswith(a) for a in allowed - {"sfc"})
    }
    assert outside <= {"sfc"} | {f"sfc.{name}" for name in sfc.__all__}


@pytest.mark.parametrize("path", sorted((ROOT / "sfc" / "method").glob("*.py")), ids=relative)
def test_methods_know_nothing_of_stages_stores_or_loops(path: Path) -> None:
    assert not {n for n in imports(path) if n.startswith(("sfc.stages", "sfc.pipeline", "sfc.runtime"))}


def top_level_imports(path: Path) -> set[str]:
    """Modules of ours that importing a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_there_is_no_circle_of_imports() -> None:
    modules = {module_of(path): path for path in EVERYTHING}
    needs = {name: {n for n in top_level_imports(path) if n in modules and n != name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, " -> ".join([*chain[chain.index(name) :], name])
        if name not in done:
            for other in sorted(needs[name]):
                visit(other, (*chain, name))
            done.add(name)

    # A package's own file names its modules for others; they may import from it what stands above.
    for name in [n for n in modules if modules[n].name != "__init__.py"]:
        needs[name] = {n for n in needs[name] if modules[n].name != "__init__.py"}
    for name in sorted(modules):
        visit(name, ())


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_files_are_short_and_functions_take_few_parameters(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = [argument.arg for argument in every if argument.arg not in ("self", "cls")]
            assert len(names) <= 7, f"{relative(path)}:{node.lineno}: {node.name} takes {len(names)} parameters"


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_private_names_of_other_libraries_stand_in_one_module(path: Path) -> None:
    if relative(path) == "tune/private.py":
        return
    others = {name for name in imports(path) if not name.startswith(("sfc", "tune", "__future__"))}
    assert not {n for n in others if any(part.startswith("_") and part != "__future__" for part in n.split("."))}


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_docstrings_begin_with_a_noun_or_a_verb_and_refer_to_no_missing_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "method.md" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first = node.value.value.lstrip()
            assert not first.startswith(("Of ", "Whether that")), f"{relative(path)}:{node.lineno}"
