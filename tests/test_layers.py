"""Who may import whom: the table of docs/architecture.md, and what no file may do."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = frozenset({"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "node_helpers", "nodes"})


@dataclass(frozen=True)
class Room:
    """What a room may import: other rooms and outside packages, the `lazy` ones only inside functions."""

    rooms: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    lazy: frozenset[str] = frozenset()


def room(rooms: str = "", packages: str = "", lazy: str = "", comfyui: bool = False) -> Room:
    return Room(
        frozenset(rooms.split()), frozenset(packages.split()) | (COMFYUI if comfyui else set()), frozenset(lazy.split())
    )


TABLE = {
    "nodes": room("model_patches adapters faces evaluation", "torch numpy PIL", comfyui=True),
    "model_patches": room("adapters", "torch", comfyui=True),
    "adapters": room("", "torch numpy safetensors"),
    "faces": room("", "torch numpy PIL safetensors", lazy="onnxruntime insightface timm"),
    "host": room("", "", lazy="aiohttp"),
    "synthetic": room("", "torch numpy PIL"),
    "evaluation": room(
        "faces",
        "torch numpy PIL safetensors pydantic",
        lazy="dlib facenet_pytorch onnxruntime open_clip torch_fidelity torchmetrics",
    ),
    "trainer": room(
        "adapters faces",
        "torch numpy PIL safetensors accelerate diffusers pydantic tqdm transformers webdataset yaml",
        lazy="open_clip",
    ),
    "recipes": room(
        "synthetic trainer evaluation adapters faces demo", "torch numpy safetensors diffusers transformers"
    ),
    "demo": room("host adapters faces synthetic evaluation", "torch numpy PIL safetensors"),
    "demo/models_pack": room("", "torch numpy safetensors", comfyui=True),
    "benchmarks": room(
        "host model_patches adapters faces trainer",
        "torch numpy PIL safetensors skimage diffusers transformers",
        comfyui=True,
    ),
}
# Rooms that run inside ComfyUI, and what they must not have there: the network, other programs.
IN_COMFYUI = ("nodes", "model_patches", "adapters", "faces", "evaluation")
OUTWARD = {"aiohttp", "asyncio", "ftplib", "http", "requests", "smtplib", "socket", "ssl", "subprocess", "urllib"} | {
    "huggingface_hub",
    "multiprocessing",
    "webbrowser",
}
# Importable where there is neither ComfyUI nor any of the optional packages.
PURE_ROOMS = ("adapters", "faces", "host", "demo", "synthetic")
OPTIONAL = {
    "insightface",
    "onnxruntime",
    "onnx",
    "cv2",
    "facexlib",
    "open_clip",
    "timm",
    "dlib",
    "xformers",
    "diffusers",
    "aiohttp",
}


def room_of(path: PurePath) -> str:
    """The longest entry of the table that holds the file, "" for files of the root."""
    folders = path.parent.parts
    names = ["/".join(folders[:length]) for length in range(len(folders), 0, -1)]
    return next((name for name in names if name in TABLE), folders[0] if folders else "")


def package_files() -> list[Path]:
    """Every Python file below the root's folders that have an __init__.py."""
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    files = [file for folder in sorted(folders) for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 40, files
    return [file.relative_to(ROOT) for file in files]


def all_files() -> list[Path]:
    files = [*package_files(), Path("__init__.py"), Path("run.py")]
    return files + [file.relative_to(ROOT) for file in sorted((ROOT / "tests").rglob("*.py"))]


def parse(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text("utf-8"), str(file))


@dataclass(frozen=True)
class Import:
    """One import: `room` is the room of ours that it reaches, `package` the outside package, one of them empty."""

    line: int
    room: str
    package: str
    deferred: bool  # inside a function or for the type checker only


def is_deferral(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def imports(file: Path, tree: ast.Module) -> Iterator[Import]:
    deferred = {id(inner) for outer in ast.walk(tree) if is_deferral(outer) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, "", alias.name.split(".")[0], id(node) in deferred)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield Import(node.lineno, "", str(node.module).split(".")[0], id(node) in deferred)
        elif isinstance(node, ast.ImportFrom):
            package = file.parent.parts[: len(file.parent.parts) - node.level + 1]
            for alias in node.names:  # `from .. import faces` names the room only here
                target = PurePath(*package, *(node.module or "").split("."), alias.name, "x")
                yield Import(node.lineno, room_of(target), "", id(node) in deferred)


def faults(file: Path) -> list[str]:
    own = room_of(file)
    allowed = TABLE[own]
    found = []
    for item in imports(file, parse(file)):
        where = f"{file}:{item.line}"
        if item.room:
            if item.room not in {own, *allowed.rooms}:
                found.append(f"{where} imports the room {item.room}")
        elif item.package == "likeness":
            found.append(f"{where} imports likeness by its absolute name: under ComfyUI that loads classes twice")
        elif item.package in sys.stdlib_module_names or item.package in allowed.packages:
            continue
        elif item.package not in allowed.lazy:
            found.append(f"{where} imports {item.package}")
        elif not item.deferred:
            found.append(f"{where} imports {item.package} outside a function")
    return found


def test_every_room_stands_in_the_table():
    assert {room_of(file) for file in package_files()} <= set(TABLE)


def test_imports_keep_to_the_table():
    assert [fault for file in package_files() for fault in faults(file)] == []


def test_the_root_imports_nothing_of_ours_before_it_is_asked():
    found = list(imports(Path("__init__.py"), parse(Path("__init__.py"))))
    assert {item.room for item in found} == {"", "nodes"}
    assert [item for item in found if item.package not in sys.stdlib_module_names and not item.deferred] == []


def test_nothing_is_evaluated_or_unpickled():
    found = []
    for file in all_files():
        for node in ast.walk(parse(file)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name in {"eval", "exec", "pickle.load", "pickle.loads"}:
                found.append(f"{file}:{node.lineno} calls {name}")
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if arguments.get("weights_only", "absent" if name == "torch.load" else "True") != "True":
                found.append(f"{file}:{node.lineno} reads a pickled file without weights_only=True")
    assert found == []


def test_nothing_that_runs_in_comfyui_reaches_the_network_or_starts_programs():
    found = []
    for file in package_files():
        if room_of(file) in IN_COMFYUI:
            found += [f"{file}:{item.line} imports {item.package}" for item in imports(file, parse(file))
                      if item.package in OUTWARD]  # fmt: skip
    assert found == []


def names_from_outside(tree: ast.Module) -> set[str]:
    """Names that an import of another package binds, anywhere in the file."""
    return {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
        for alias in node.names
    }


def test_nothing_of_comfyuis_is_assigned_to():
    """No function put in place of another's, by any of the ways that packs use for it.

    What happens while a model runs is tests/model_patches/contract's.
    """
    found = []
    for file in package_files():
        if room_of(file) not in IN_COMFYUI:
            continue
        tree = parse(file)
        outside = names_from_outside(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rsplit(".", 1)[-1]
                if name in {"setattr", "delattr", "__get__", "MethodType", "patch", "add_object_patch"}:
                    found.append(f"{file}:{node.lineno} calls {name}")
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
                owner = ast.unparse(node.value).split(".")[0].split("[")[0]
                if owner in outside or "forward" in node.attr:
                    found.append(f"{file}:{node.lineno} assigns to {ast.unparse(node)}")
    assert found == []


def test_pure_rooms_import_where_nothing_optional_is_installed():
    modules = [
        ".".join(["likeness", *file.with_suffix("").parts]).removesuffix(".__init__")
        for file in package_files()
        if room_of(file) in PURE_ROOMS and file.name != "__main__.py"
    ]
    assert len(modules) > 30, modules
    script = f"""
        import importlib, sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted(COMFYUI | OPTIONAL)}:
                    raise ModuleNotFoundError(f"{{name}} is blocked here", name=name)

        sys.meta_path.insert(0, Blocker())
        for module in {modules}:
            importlib.import_module(module)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.anchor)
    assert done.returncode == 0, done.stderr
