"""The guard's parts by themselves: originals, the record, the plugin, what is refused, and limits."""

import math
import os
import resource
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import nbformat
import pytest
import torch

from course_lib import answer_checks
from course_lib.grading_guard import GradingGuard
from course_lib.isolated_tests import READY, Record
from course_lib.originals import Originals
from course_lib.shielded import load_imports

# Originals


@pytest.fixture(scope="module")
def originals():
    return Originals()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(answer_checks, "compare"), (answer_checks, "SECONDS"), (torch, "allclose"), (torch.Tensor, "detach"),
     (math, "isclose"), (os.path, "join"), (sys.modules, "course_lib.answer_checks")],
)  # fmt: skip
def test_what_was_replaced_comes_back(originals, owner, name):
    names = owner if isinstance(owner, dict) else vars(owner)
    had = name in names
    old = names[name] if had else None
    if isinstance(owner, dict):
        owner[name] = "another"
    else:
        setattr(owner, name, "another")
    originals.restore()
    assert (name in names) == had
    assert not had or names[name] is old


def test_a_module_cannot_hide_a_builtin(originals):
    answer_checks.isinstance = lambda *_: True
    originals.restore()
    assert "isinstance" not in vars(answer_checks)


def test_builtins_come_back(originals):
    kept, builtins = abs, sys.modules["builtins"]
    builtins.abs = lambda x: 0
    originals.restore()
    assert builtins.abs is kept


def test_modes_of_torch_and_traces_end(originals):
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return True

    trace = sys.gettrace()
    Mode().__enter__()
    try:
        sys.settrace(lambda *_: None)
        originals.restore()
        assert torch._C._len_torch_function_stack() == 0
        assert sys.gettrace() is None
    finally:
        sys.settrace(trace)


def test_what_is_not_replaced_stays(originals):
    before = torch.get_default_dtype(), answer_checks.compare
    math.new = 1
    originals.restore()
    assert (torch.get_default_dtype(), answer_checks.compare) == before
    assert math.new == 1
    del math.new


# The record


def test_a_record_keeps_the_last_signed_outcome_and_no_other(tmp_path):
    path = tmp_path / "record"
    record = Record(path, b"key")
    lines = [
        record.line(*READY, None),
        record.line("a.py", 0, None),
        record.line("a.py", 0, "wrong after all"),
        record.line("b.py", 1, "x" * 10_000),
        Record(path, b"another key").line("a.py", 0, None),
        record.line("c.py", 0, "failed").replace(b'"failed"', b"null"),
        b"garbage\n",
        b"\xff\xfe \n",
        record.line("d.py", 0, None)[:-9],
    ]
    path.write_bytes(b"".join(lines))
    found = record.outcomes()
    assert set(found) == {READY, ("a.py", 0), ("b.py", 1)}
    assert found["a.py", 0] == "wrong after all"
    assert len(found["b.py", 1]) == 500


# The plugin


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The plugin in an unpacked autograder, as otter-grader starts it."""
    here = tmp_path / "submission"
    for folder in ("submission/tests", "submission/course_lib", "source/files"):
        (tmp_path / folder).mkdir(parents=True)
    test = "from otter.test_files import test_case\nname = 'q'\npoints = 3\nOK_FORMAT = False\n"
    test += "@test_case(points=3, hidden=True)\ndef test_q(q):\n    pass\n"
    for name, text in {
        "tests/q.py": test,
        "a.ipynb": "",
        "torch.py": "",
        "__init__.py": "",
        "lib.whl": "",
    }.items():
        (here / name).write_text(text)
    (tmp_path / "source/files/lib.whl").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.delenv("GRADING_MEMORY", raising=False)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)  # not for the process of the tests
    import otter.execute
    from otter.execute.logging import LogRecordStreamHandler

    monkeypatch.setattr(otter.execute, "pickle", otter.execute.pickle)
    monkeypatch.setattr(LogRecordStreamHandler, "handle", LogRecordStreamHandler.handle)
    return GradingGuard(str(here / "a.ipynb"), {}, {})


def test_only_the_notebook_of_a_submission_stays(plugin):
    plugin.before_grading(None)
    assert sorted(path.name for path in Path().iterdir()) == ["__init__.py", "a.ipynb", "lib.whl", "tests"]


def results_after(plugin, lines):
    """What the plugin makes of results that say something else."""
    from otter.test_files import GradingResults

    notebook = plugin.before_execution(nbformat.v4.new_notebook())
    record = plugin._record
    assert record.path.read_bytes() == record._key
    assert str(record.path) in notebook.cells[0].source
    record.path.write_bytes(b"".join(lines(record)))
    results = GradingResults([])
    results.notebook = notebook
    results.to_gradescope_dict = lambda config: {"score": 100}  # a pickle can bring that
    plugin.after_grading(results)
    assert not record.path.exists()
    return results


def test_results_come_from_the_record(plugin):
    results = results_after(plugin, lambda r: [r.line(*READY, None), r.line("q.py", 0, None)])
    assert (results.total, results.possible) == (3, 3)
    assert "to_gradescope_dict" not in vars(results)


def test_a_test_that_did_not_run_earns_nothing_and_says_so(plugin):
    results = results_after(plugin, lambda r: [r.line(*READY, None)])
    assert results.total == 0
    assert "did not run" in results.summary()


def test_a_guard_that_did_not_start_is_an_error_and_no_zero(plugin):
    with pytest.raises(RuntimeError, match="did not start"):
        results_after(plugin, lambda r: [r.line("q.py", 0, None)])


def test_no_pickle_of_the_notebook_is_read(plugin):
    import otter.execute

    plugin.before_execution(nbformat.v4.new_notebook())
    assert otter.execute.pickle.load(None).results == {}
    plugin._record.path.unlink()


# The watcher, in processes of their own, for it stays


def watched(tmp_path, code):
    """What code prints after the watcher has been set; the code counts as a cell."""
    (tmp_path / "submission" / "tests").mkdir(parents=True)
    (tmp_path / "submission" / "tests" / "q.py").write_text("secret")
    (tmp_path / "record").write_text("")
    start = """
        import sys
        from pathlib import Path
        from course_lib.shielded import shield, limit_resources
        forks = [False]
        shield([Path("tests").resolve()], Path("../record").resolve(), forks)
        try:
            exec(compile(sys.argv[1], "/tmp/ipykernel_1/cell.py", "exec"))
        except (PermissionError, OSError, MemoryError) as error:
            print(type(error).__name__, error)
    """
    command = [sys.executable, "-c", textwrap.dedent(start), textwrap.dedent(code)]
    root = str(Path(answer_checks.__file__).parents[1])
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path / "submission",
        env=os.environ | {"PYTHONPATH": root, "GRADING_MEMORY": "0.25"},
        timeout=60,
    )


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("open('tests/q.py')", "not yours to open"),
        ("open('../record', 'a')", "not yours to open"),
        ("import pathlib; pathlib.Path('tests/../tests/q.py').read_text()", "not yours to open"),
        ("open('tests/new.py', 'w')", "not yours to open"),
        ("import os; os.remove('tests/q.py')", "must stay"),
        ("import os; os.rename('../submission', '../elsewhere')", "must stay"),
        ("import shutil; shutil.rmtree('tests')", "must stay"),
        ("import os; os.fork()", "os.fork is not allowed"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen is not allowed"),
        ("import os; os.system('true')", "os.system is not allowed"),
        ("import os; os._exit(0)", "must not leave"),
        ("import os; os.kill(os.getpid(), 9)", "must not leave"),
        ("import sys; sys._getframe(1)", "sys._getframe is not allowed"),
        ("import inspect; inspect.stack()", "sys._getframe is not allowed"),
        ("import gc; gc.get_objects()", "gc.get_objects is not allowed"),
        ("import ctypes; ctypes.CDLL(None)", "ctypes.dlopen is not allowed"),
        ("shield.__code__ = (lambda: 0).__code__", "must stay as it is"),
        ("limit_resources(True); x = bytearray(2**30)", "MemoryError"),
        ("limit_resources(True); f = open('x', 'wb'); f.truncate(2**29)", "File too large"),
    ],
)  # fmt: skip
def test_the_watcher_refuses(tmp_path, code, refusal):
    assert refusal in watched(tmp_path, code).stdout
    assert (tmp_path / "submission" / "tests" / "q.py").read_text() == "secret"


def test_the_watcher_allows_what_students_do(tmp_path):
    code = """
        import collections, inspect, logging, os, warnings
        open('mine.txt', 'w').write('x')
        os.remove('mine.txt')
        collections.namedtuple('Pair', 'a b')
        inspect.signature(open)
        logging.getLogger().warning('x')
        warnings.warn('x')
        f = lambda: 0
        f.__code__ = (lambda: 1).__code__
        limit_resources(True)
        x = bytearray(2**20)
        forks[0] = True
        if os.fork() == 0:
            raise SystemExit
        print('done')
    """
    ended = watched(tmp_path, code)
    assert ended.stdout == "done\n", ended.stderr


def test_imports_of_tests_are_loaded_before_a_cell_can_write_their_files():
    sys.modules.pop("this_is_missing", None)
    for name in ("colorsys", "wave"):
        sys.modules.pop(name, None)
    load_imports(["def test(x):\n    import colorsys\n    from wave import open\n    import this_is_missing"])
    assert {"colorsys", "wave"} <= set(sys.modules)
    assert isinstance(sys.modules["colorsys"], types.ModuleType)
