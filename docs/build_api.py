"""Writes docs/api.md, the reference of `mixcore.api`, from the source: `python docs/build_api.py`.

Nothing is imported but Python's own, so that the page is the same on every machine and under every Python: names,
signatures and docstrings are read from the files that `mixcore/api.py` imports from.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
FIRST = ("mixcore.types", "mixcore.hooks.markers", "mixcore.hooks.version", "mixcore.evidence.probe")
"""Modules that lead the page; the others follow in the order of the imports."""
INTRODUCTION = """# The reference of mixcore.api

Everything that a plugin imports. [hooks.md](hooks.md) says when each hook is called and what it is given,
[writing_a_plugin.md](writing_a_plugin.md) is the way to a first plugin. This page is made from the docstrings, by
`python docs/build_api.py`: change those, not this.

Letters: N batch, M mixed images (N unless a method drops or folds rows), C channels, H W pixels, h w a smaller grid, K
classes, S sources of a mixed image, T patch tokens, P prefix tokens, D features.
"""

WIDTH = 100
"""Characters of a signature on one line."""


def page() -> str:
    """The whole page."""
    modules = _modules()
    anchors = _anchors([name for _, names in modules for name in names])
    contents = [
        f"- {_title(module)}: {', '.join(f'[{name}](#{anchors[name]})' for name in names)}" for module, names in modules
    ]
    sections = [_section(module, names) for module, names in modules]
    return "\n".join([INTRODUCTION, *contents, "", *sections])


def _anchors(names: Sequence[str]) -> dict[str, str]:
    """Where the heading of each name is linked to: names that differ in case alone are numbered from the second on."""
    seen: Counter[str] = Counter()
    anchors = {}
    for name in names:
        lower = name.lower()
        anchors[name] = f"{lower}-{seen[lower]}" if seen[lower] else lower
        seen[lower] += 1
    return anchors


def _modules() -> list[tuple[str, list[str]]]:
    """Modules that mixcore/api.py imports from, with the names that it takes from each."""
    tree = ast.parse((ROOT / "mixcore" / "api.py").read_text(encoding="utf-8"))
    found = {
        statement.module or "": [alias.name for alias in statement.names]
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module != "__future__"
    }
    return sorted(found.items(), key=lambda item: FIRST.index(item[0]) if item[0] in FIRST else len(FIRST))


def _tree(module: str) -> ast.Module:
    place = ROOT / module.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _title(module: str) -> str:
    """The first sentence of the module's docstring."""
    return re.split(r"[.:](?:\s|$)", ast.get_docstring(_tree(module)) or module)[0].replace("\n", " ")


def _section(module: str, names: list[str]) -> str:
    entries = [text for name in names for text in _entry(_tree(_home(module, name)), name)]
    return "\n".join([f"## {_title(module)}", "", f"From `{module}`.", "", *entries])


def _home(module: str, name: str) -> str:
    """The module that defines a name: a package takes it from one of its own."""
    taken = (statement for statement in _tree(module).body if isinstance(statement, ast.ImportFrom))
    homes = (
        statement.module or ""
        for statement in taken
        if (statement.module or "").startswith(f"{module}.") and name in {alias.name for alias in statement.names}
    )
    return next(homes, module)


def _entry(tree: ast.Module, name: str) -> Iterator[str]:
    """The lines of one name; LookupError where the module does not define it."""
    for statement, following in pairwise([*tree.body, ast.Pass()]):
        if _name(statement) == name:
            yield from (f"### {name}", "")
            if isinstance(statement, ast.FunctionDef):
                yield from _code(_signature(statement))
                yield from _text(ast.get_docstring(statement))
            elif isinstance(statement, ast.ClassDef):
                yield from _class(statement)
            else:
                yield from _code(_source(statement))
                yield from _text(_string(following))
            return
    raise LookupError(f"mixcore/api.py takes {name} from a module that does not define it")


def _name(statement: ast.stmt) -> str | None:
    """What a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign):
        statement = ast.AnnAssign(statement.targets[0])
    return (
        statement.target.id if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) else None
    )


def _class(definition: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(_source(base) for base in definition.bases)
    methods = [one for one in definition.body if isinstance(one, ast.FunctionDef)]
    made = [one for one in methods if one.name == "__init__" and "Error" in bases]
    yield from _code(f"class {definition.name}({bases})" if bases else f"class {definition.name}")
    yield from _text(ast.get_docstring(definition))
    for method in made:
        yield from _code(_signature(method, definition.name))
    fields = list(_fields(definition))
    if fields:
        yield from (*fields, "")
    for method in methods:
        if method.name == "__call__" or not method.name.startswith("_"):
            yield from _code(_signature(method, f"{definition.name}.{method.name}"))
            yield from _text(ast.get_docstring(method))


def _fields(definition: ast.ClassDef) -> Iterator[str]:
    """A line per public field: name, type, default, and the string below it."""
    for statement, following in pairwise([*definition.body, ast.Pass()]):
        name = _name(statement)
        if isinstance(statement, ast.AnnAssign) and name and not name.startswith("_"):
            written = f"{name}: {_source(statement.annotation)}{_default(statement.value)}"
            text = _string(following)
            yield f"- `{written}`" + (f": {' '.join(_plain(text).split())}" if text else "")


def _default(value: ast.expr | None) -> str:
    """What stands behind a field; of `attrs.field(...)` its default."""
    if isinstance(value, ast.Call) and _source(value.func) == "attrs.field":
        told = {keyword.arg: _source(keyword.value) for keyword in value.keywords}
        default = told.get("default") or (f"{told['factory']}()" if "factory" in told else None)
        return f" = {default}" if default and "lambda" not in default else ""
    return "" if value is None else f" = {_source(value)}"


def _signature(function: ast.FunctionDef, called: str | None = None) -> str:
    """The signature as it is called: without self or cls; of a property its name and type."""
    marks = {_source(mark) for mark in function.decorator_list}
    called = called or function.name
    arguments = function.args
    if called != function.name and "staticmethod" not in marks:
        own = arguments.posonlyargs or arguments.args
        del own[0]
    returns = f" -> {_source(function.returns)}" if function.returns and function.name != "__init__" else ""
    if marks & {"property", "functools.cached_property"}:
        return f"{called}{returns}"
    called = called.removesuffix(".__call__")
    parameters = _parameters(arguments)
    one_line = f"{called}({', '.join(parameters)}){returns}"
    if len(one_line) <= WIDTH:
        return one_line
    return "\n".join([f"{called}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"])


def _parameters(arguments: ast.arguments) -> list[str]:
    """Every parameter with its annotation and default, in the order of the source."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    told = [_parameter(one, default) for one, default in zip(plain, defaults, strict=True)]
    if arguments.vararg:
        told.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        told.append("*")
    told += [_parameter(one, default) for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return [*told, f"**{_parameter(arguments.kwarg, None)}"] if arguments.kwarg else told


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    annotated = f"{one.arg}: {_source(one.annotation)}" if one.annotation else one.arg
    return annotated if default is None else f"{annotated} = {_source(default)}"


def _source(node: ast.AST) -> str:
    """A piece of source on one line, with the quotes that the formatter puts: it formats this page too."""
    text = ast.unparse(node)
    return text if '"' in text else text.replace("'", '"')


def _string(statement: ast.stmt) -> str | None:
    """The docstring that a statement is, if it is one."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value if isinstance(statement.value.value, str) else None
    return None


def _code(text: str) -> tuple[str, ...]:
    return ("```python", text, "```", "")


def _text(docstring: str | None) -> tuple[str, ...]:
    return (_plain(inspect.cleandoc(docstring)), "") if docstring else ()


def _plain(text: str) -> str:
    """Without the roles of docstrings: :func:`x` is `x`."""
    return re.sub(r":\w+:`~?(?:mixcore\.(?:\w+\.)*)?([^`]+)`", r"`\1`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
