"""The order of the rooms, and the absence of what went wrong before, read from the source of every module."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from dl_mqtt_clients import errors

HERE = Path(__file__).parent
SRC = HERE.parent / "src" / "dl_mqtt_clients"
PACKAGE = "dl_mqtt_clients"

ROOMS = (
    "errors", "config", "wire", "transport", "aggregation", "learning", "data", "services", "simulation", "dashboard",
    "cli",
)  # fmt: skip
ONLY_IN = {
    "keras": "learning", "jax": "learning", "jaxlib": "learning", "tensorflow": "learning", "torch": "learning",
    "paho": "transport", "iotcore": "transport",
}  # fmt: skip
BANNED_MODULES = {"pickle", "joblib", "jsonpickle", "marshal", "shelve", "dill", "cloudpickle", "imp"}


@dataclass(frozen=True)
class Module:
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The room a module of the package belongs to; `` for the package itself."""
        first = self.path.relative_to(SRC).parts[0].removesuffix(".py")
        return "" if first in ("__init__", "__main__") else first

    def place(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(HERE.parent)}:{node.lineno}"  # type: ignore[attr-defined]

    def imports(self) -> Iterator[tuple[ast.AST, str]]:
        """Every imported module, also inside functions and by `import_module("…")`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node, f"{'.' * node.level}{node.module or ''}.{a.name}".rstrip(".")) for a in node.names)
            elif isinstance(node, ast.Call) and name_of(node.func) in ("import_module", "__import__"):
                yield from ((node, str(a.value)) for a in node.args[:1] if isinstance(a, ast.Constant))

    def calls(self) -> Iterator[tuple[ast.Call, str, str]]:
        """Every call: its node, its last name, and its whole dotted name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, name_of(node.func), ast.unparse(node.func)


def name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@cache
def modules(folder: Path) -> tuple[Module, ...]:
    return tuple(Module(p, ast.parse(p.read_text(encoding="utf-8"))) for p in sorted(folder.rglob("*.py")))


def offences(folder: Path, find: Callable[[Module], Iterator[ast.AST]]) -> list[str]:
    return [m.place(node) for m in modules(folder) for node in find(m)]


# ---- rooms ----


def test_every_module_is_in_a_room_of_the_design():
    assert len(modules(SRC)) > 50
    assert {m.room for m in modules(SRC)} <= {"", *ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = [
        f"{m.place(node)} imports {name}"
        for m in modules(SRC)
        if m.room == room
        for node, name in m.imports()
        if name.split(".")[0] == PACKAGE and not (set(name.split(".")[1:2]) & set(allowed))
        and not (room == "cli" or name.split(".")[1:2] in (["__version__"], ["__file__"]))
    ]  # fmt: skip
    assert wrong == []


def test_imports_are_absolute_so_that_the_rooms_can_be_seen():
    assert [f"{m.place(n)} {name}" for m in modules(SRC) for n, name in m.imports() if name.startswith(".")] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_foreign_library_is_known_in_one_room_only(library):
    wrong = [
        m.place(node)
        for m in modules(SRC)
        if m.room != ONLY_IN[library]
        for node, name in m.imports()
        if name.split(".")[0] == library
    ]
    assert wrong == []


def test_a_room_that_knows_no_foreign_library_would_be_noticed():
    """The test above must see the imports it permits, or it sees nothing."""
    seen = {(name.split(".")[0], m.room) for m in modules(SRC) for _, name in m.imports()}
    assert ("keras", "learning") in seen
    assert ("paho", "transport") in seen
    assert ("iotcore", "transport") in seen


def test_topics_are_spelled_in_one_module():
    def find(module):
        docs = {id(n.value) for n in ast.walk(module.tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(module.tree):
            text = getattr(node, "value", None) if isinstance(node, ast.Constant) and id(node) not in docs else None
            if isinstance(text, str) and (text.startswith(("fedlearn/1", "fedlearn/{")) or "/trainer/" in text):
                yield node

    assert [p for p in offences(SRC, find) if "wire/topics.py" not in p] == []


# ---- what is never done ----


def test_nothing_is_unpickled():
    def find(module):
        yield from (node for node, name in module.imports() if name.split(".")[0] in BANNED_MODULES)
        for node, _, _ in module.calls():
            for word in node.keywords:
                value = getattr(word.value, "value", None)
                if (word.arg == "allow_pickle" and value is not False) or (
                    word.arg == "safe_mode" and value is not True
                ):
                    yield node

    assert offences(SRC, find) == []
    assert offences(HERE, lambda m: (n for n, name in m.imports() if name.split(".")[0] in BANNED_MODULES)) == []


def test_nothing_is_evaluated():
    banned = {"eval", "exec", "compile", "__import__"}

    def find(module):
        for node, last, whole in module.calls():
            if whole in banned or last in ("enable_unsafe_deserialization", "unsafe_load", "full_load"):
                yield node

    assert offences(SRC, find) == []


def test_the_library_checks_with_errors_and_never_with_assert():
    assert offences(SRC, lambda m: (n for n in ast.walk(m.tree) if isinstance(n, ast.Assert))) == []


@pytest.mark.parametrize("folder", [SRC, HERE], ids=["src", "tests"])
def test_nothing_sleeps(folder):
    """Not in the library (nothing waits by polling), not in the tests (they wait for the event)."""
    assert offences(folder, lambda m: (n for n, last, _ in m.calls() if last == "sleep")) == []


def test_no_shell_is_asked():
    def find(module):
        for node, last, whole in module.calls():
            shell = any(w.arg == "shell" and getattr(w.value, "value", True) for w in node.keywords)
            if shell or whole in ("os.system", "os.popen") or last == "getoutput":
                yield node

    assert offences(SRC, find) == []


def test_no_process_is_forked():
    def find(module):
        for node, last, whole in module.calls():
            contexts = last in ("get_context", "set_start_method") and "spawn" not in ast.unparse(node)
            if whole in ("os.fork", "os.forkpty") or contexts:
                yield node
            if last == "ProcessPoolExecutor" and "mp_context" not in {w.arg for w in node.keywords}:
                yield node

    assert offences(SRC, find) == []


def test_locks_are_held_by_with():
    assert offences(SRC, lambda m: (n for n, last, _ in m.calls() if last in ("acquire", "release"))) == []


def test_no_error_is_swallowed_unseen():
    """A broad `except` must raise, log, or use what it caught."""
    broad = {"", "Exception", "BaseException"}

    def find(module):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                inside = [n for statement in node.body for n in ast.walk(statement)]
                seen = any(
                    isinstance(n, ast.Raise)
                    or (isinstance(n, ast.Name) and n.id == node.name)
                    or (isinstance(n, ast.Attribute) and n.attr == "exception")
                    for n in inside
                )
                if caught in broad and (not caught or not seen):
                    yield node

    assert offences(SRC, find) == []


def test_configuration_errors_are_never_swallowed():
    def find(module):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(n, ast.Pass | ast.Continue) for n in node.body):
                yield from (n for n in ast.walk(node) if name_of(n) == "ConfigurationError")

    assert offences(SRC, find) == []


def test_logs_never_carry_payloads():
    def carries(node: ast.AST) -> bool:
        if isinstance(node, ast.Call) and name_of(node.func) == "len":
            return False
        return name_of(node) == "payload" or any(carries(child) for child in ast.iter_child_nodes(node))

    def find(module):
        for node, last, whole in module.calls():
            if last in ("debug", "info", "warning", "error", "exception", "critical") and whole.startswith("log"):
                yield from (a for a in node.args if carries(a))

    assert offences(SRC, find) == []


def test_python_values_are_never_sent_as_their_str():
    def find(module):
        for node, last, _ in module.calls():
            if last == "publish" and any(
                isinstance(n, ast.Call) and name_of(n.func) in ("str", "repr")
                for a in node.args[1:]
                for n in ast.walk(a)
            ):
                yield node

    assert offences(SRC, find) == []


def test_nothing_of_the_federation_is_published_at_qos_0():
    """QoS 0 is a setting of readings and scores; no other number is written down."""

    def find(module):
        for node, last, _ in module.calls():
            if last in ("publish", "subscribe"):
                yield from (w for w in node.keywords if w.arg == "qos" and getattr(w.value, "value", 1) == 0)

    assert offences(SRC, find) == []


def test_a_signal_handler_only_takes_note():
    """It may set a flag or an event, or put a wish into an inbox: nothing is saved, sent or waited for inside."""
    for module in modules(SRC):
        functions = {n.name: n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef)}
        for node, last, whole in module.calls():
            if whole != "signal.signal" or last != "signal":
                continue
            handler = node.args[1]
            body = functions.get(name_of(handler), handler)
            called = {name_of(n.func) for n in ast.walk(body) if isinstance(n, ast.Call)}
            heavy = {c for c in called if c.startswith(("save", "write", "export", "publish", "dump", "open", "join"))}
            assert not heavy, f"{module.place(node)}: a signal handler calls {heavy}"


# ---- tests ----


def test_every_test_can_fail():
    """It asserts, expects an error, calls a helper that does, or lets one kind of error pass and no other (fuzzing)."""
    functions = [n for m in modules(HERE) for n in ast.walk(m.tree) if isinstance(n, ast.FunctionDef)]
    checking: set[str] = {"raises", "warns", "fail", "suppress"}
    for _ in range(4):  # helpers of helpers
        checking |= {node.name for node in functions if checks(node, checking)}
    tests = [
        (m, n)
        for m in modules(HERE)
        for n in ast.walk(m.tree)
        if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")
    ]
    assert [m.place(n) for m, n in tests if not checks(n, checking)] == []


def checks(node: ast.AST, checking: set[str]) -> bool:
    return any(
        isinstance(n, ast.Assert | ast.Raise)
        or (isinstance(n, ast.Call) and (name_of(n.func) in checking or name_of(n.func).startswith("assert_")))
        for n in ast.walk(node)
    )


# ---- errors ----


def test_the_tree_of_errors_is_drawn_as_it_grows():
    drawn = errors.__doc__.splitlines()
    for name, kind in vars(errors).items():
        if isinstance(kind, type):
            depth = len(kind.__mro__) - len(errors.FederatedLearningError.__mro__)
            (line,) = [text for text in drawn if text.lstrip("│├└─ ").split(" ")[0] == name]
            assert len(line) - len(line.lstrip("│├└─ ")) == 4 * depth
