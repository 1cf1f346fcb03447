"""The rules of the house, as far as a machine can tell: sizes, layers, purity, where SQL stands, what is explained."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PROXY = ROOT / "proxy"
FILES = sorted(PROXY.rglob("*.py"))
NAMES = [str(file.relative_to(PROXY)) for file in FILES]
TREES = {name: ast.parse(file.read_text(), name) for name, file in zip(NAMES, FILES, strict=True)}

Function = ast.FunctionDef | ast.AsyncFunctionDef

LONGEST = {"turn.py": 150}
PURE = [name for name in NAMES if re.search(r"\bPure\b", ast.get_docstring(TREES[name]) or "")]
"""What says of itself that it is."""
PURE += ["context/transcript.py", "errors.py", "forwarded.py", "resources.py", "types.py"]
IMPURE = {
    "anyio", "apsw", "asyncio", "fcntl", "httptools", "httpx", "io", "logging", "multiprocessing", "os",
    "pathlib", "queue", "random", "secrets", "select", "signal", "socket", "ssl", "starlette", "subprocess", "sys",
    "tempfile", "threading", "time", "uuid", "uvicorn", "uvloop",
}  # fmt: skip
CLOCKS = ("now", "utcnow", "today")
"""What of datetime tells the time; the rest of it calculates."""
OPTIONAL = ("app.py", "cli/chat.py", "cli/doctor.py", "cli/demo.py", "cli/local_model.py")
"""What may import inside a function: heavy or optional parts, at their first use."""
VAGUE = ("utils", "util", "helpers", "helper", "common", "base", "manager", "misc")
SQL = re.compile(r"\b(SELECT\b.+\bFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM)\b", re.S)

WITHOUT_TENANT = {
    "store/calibrations.py": "what a model counts is nobody's data, and holds no text",
    "store/inspection.py": "looks at a file as a whole, for the operator: its schema, how many keys, the newest time",
    "store/keys.py": "a key or its hash is what finds the tenant; `keys list` is the operator's",
    "store/sqlite.py": "asks whether the store answers",
}
TESTED_ELSEWHERE = {
    "__init__.py": "the version",
    "__main__.py": "tests/test_crash.py starts the server by it",
    "app.py": "tests/acceptance: every test runs what it wires",
    "adding.py": "tests/acceptance/test_two_doors.py",
    "introduce.py": "tests/acceptance/test_two_doors.py",
    "preview.py": "tests/acceptance/test_two_doors.py",
    "errors.py": "tests/edge and tests/acceptance, by what clients see",
    "events.py": "data only",
    "resources.py": "data only",
    "types.py": "data only",
    "yamlfile.py": "tests/test_config.py",
    "cli/bench.py": "hands over to the bench package",
    "cli/checks/report.py": "tests/cli/test_doctor.py",
    "cli/demo.py": "needs the local model: run by the README's first command",
    "cli/settings.py": "tests/cli/test_main.py",
    "context/__init__.py": "nothing in it",
    "store/database.py": "a protocol: tests/store is its suite",
    "store/disk.py": "tests/store/test_durability.py",
    "store/owners.py": "tests/store/test_docs.py and tests/store/test_tools.py, by what is added to an owner",
    "store/turns.py": "tests/store/test_turns.py",
    "telemetry/log.py": "tests/edge and tests/acceptance",
    "upstream/protocol.py": "a protocol: tests/upstream/test_client.py",
}
"""Where a file's behaviour is tested when it has no test file of its own name."""


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def literals(tree: ast.AST) -> Iterator[str]:
    """All string literals but docstrings; the parts of an f-string joined by {}."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "{}".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_read_in_one_sitting(name: str) -> None:
    lines = len((PROXY / name).read_text().splitlines())
    assert lines <= LONGEST.get(name, 400)


@pytest.mark.parametrize("name", NAMES)
def test_a_function_fits_a_screen_and_takes_six_things_at_most(name: str) -> None:
    for function in functions(TREES[name]):
        given = function.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        own = [one for one in parameters if one.arg not in ("self", "cls")]
        assert (function.end_lineno or 0) - function.lineno + 1 <= 50, function.name
        assert len(own) <= 6, function.name


@pytest.mark.parametrize("name", NAMES)
def test_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(TREES[name])


def test_what_another_package_calls_says_what_it_does() -> None:
    """Functions of a package that modules of another one call by `module.function` or import by name."""
    silent = []
    for name, tree in TREES.items():
        if name.startswith("cli/"):
            continue
        public = [node for node in tree.body if isinstance(node, Function) and not node.name.startswith("_")]
        silent += [f"{name}: {node.name}" for node in public if not ast.get_docstring(node) and len(node.body) > 1
                   and _is_called_from_outside(name, node.name)]  # fmt: skip
    assert not silent


def _is_called_from_outside(name: str, function: str) -> bool:
    package = name.split("/")[0]
    module = name.rpartition("/")[2].removesuffix(".py")
    called = re.compile(rf"\b{module}\.{function}\(|from proxy\.{name.removesuffix('.py').replace('/', '.')} import "
                        rf"[^\n]*\b{function}\b")  # fmt: skip
    others = [file for other, file in zip(NAMES, FILES, strict=True) if other.split("/")[0] != package]
    return any(called.search(file.read_text()) for file in others)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_the_job(name: str) -> None:
    assert not set(VAGUE) & set(name.removesuffix(".py").split("/"))


@pytest.mark.parametrize("name", PURE)
def test_what_decides_touches_nothing(name: str) -> None:
    assert not {module.split(".")[0] for _, module in imports(TREES[name])} & IMPURE
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    called = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    assert not [one for one in called if isinstance(one, ast.Name) and one.id in ("open", "print", "input")]
    assert not [one for one in called if isinstance(one, ast.Attribute) and one.attr in CLOCKS]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OPTIONAL])
def test_imports_stand_at_the_top(name: str) -> None:
    tree = TREES[name]
    inside = [node for function in functions(tree) for node in ast.walk(function)]
    assert not [node for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("name", NAMES)
def test_imports_are_absolute(name: str) -> None:
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize("name", NAMES)
def test_no_failure_is_passed_over(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.ExceptHandler):
            continue
        assert node.type is not None, "a bare except"
        caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)}
        silent = all(isinstance(part, ast.Pass | ast.Continue) for part in node.body)
        assert not (caught & {"Exception", "BaseException"} and silent)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_in_globals(name: str) -> None:
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("store/")])
def test_sql_stands_in_the_store(name: str) -> None:
    assert not [text for text in literals(TREES[name]) if SQL.search(text)]


STORES = [name for name in NAMES if name.startswith("store/")]


@pytest.mark.parametrize("name", [name for name in STORES if name not in WITHOUT_TENANT])
def test_every_query_is_bound_to_a_tenant(name: str) -> None:
    for text in filter(SQL.search, literals(TREES[name])):
        # An owner's word is an owner's number, and a passage's number tells its session: one tenant's.
        owned = r"\(tenant\b|INTO words \(rowid, owner\b|INTO spoken \(rowid, text\b"
        bound = re.search(r"\btenant = \?", text) if "INSERT" not in text else re.search(owned, text)
        assert bound, text


@pytest.mark.parametrize("name", STORES)
def test_sql_is_a_literal(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.JoinedStr):
            assert not SQL.search(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "all":
            assert not isinstance(node.args[0], ast.BinOp | ast.JoinedStr)


def test_every_file_has_its_tests() -> None:
    missing = []
    for name in NAMES:
        folder, _, file = name.rpartition("/")
        known = (ROOT / "tests" / folder / f"test_{file}").exists() or name in TESTED_ELSEWHERE
        if not known and not name.startswith("edge/") and TREES[name].body[1:]:
            missing.append(name)
    assert not missing


def test_the_table_of_tests_names_files_that_are_there() -> None:
    assert set(TESTED_ELSEWHERE) <= set(NAMES)
    paths = re.findall(r"tests/\S+\.py", " ".join(TESTED_ELSEWHERE.values()))
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_edge_is_tested() -> None:
    """Handlers are tested through HTTP, several to a file."""
    assert list((ROOT / "tests" / "edge").glob("test_*.py"))


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("*.py")), ids=lambda file: file.name)
def test_a_test_file_is_short_and_fakes_nothing_from_within(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    modules = {module for _, module in imports(ast.parse(text))}
    assert not [module for module in modules if "mock" in module.lower()]
    assert not re.search(r"monkeypatch\.setattr|time\.sleep\(", text.replace(r"monkeypatch\.setattr|time\.sleep\(", ""))


def test_imports_point_down(capsys: pytest.CaptureFixture[str]) -> None:
    """import-linter's contract, which pyproject.toml draws layer by layer, and every module has a layer."""
    settings = ROOT / "pyproject.toml"
    assert lint_imports(str(settings), no_cache=True, no_logo=True) == 0, capsys.readouterr().out
    contract = tomllib.loads(settings.read_text())["tool"]["importlinter"]["contracts"][0]
    drawn = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    tops = {name.split("/")[0].removesuffix(".py") for name in NAMES} - {"__init__", "__main__"}
    assert drawn == {f"proxy.{name}" for name in tops}
