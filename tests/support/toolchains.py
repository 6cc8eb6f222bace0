"""How each example is built and started. A tool that this machine lacks skips the tests that need it, by name."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator

import onnxruntime
import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DOWNLOADS = ROOT / "build" / "examples"  # Ignored by git, and kept so that each file is downloaded once.

# The runtime's Python and Node packages have no headers. This package for Unity carries them unchanged, together with
# the .NET sources and, inside Android's archive, the Java classes.
UNITY = "com.github.asus4.onnxruntime@0.4.9"
UNITY_SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process of tests at a time: what is downloaded and installed is shared by all."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with open(DOWNLOADS / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Until the file is closed.
        yield


def tool(name: str) -> str:
    """Returns the path of a program; skips the test if there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine")
    return path


def done(*command: object, **options: object) -> str:
    """Runs a build step and fails the test if it fails."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


# What npm, Maven and .NET say where there is no network.
OFFLINE = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|Unknown host|Name or service not known|"
    r"Temporary failure in name resolution|Network is unreachable|Connect(ion)? timed out|Connection refused"
)


def downloaded(what: str, *command: object, **options: object) -> None:
    """Runs a step that needs the network; skips the test where there is none, and fails it if the step fails."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    said = (result.stdout + result.stderr).strip()
    if result.returncode and OFFLINE.search(said):
        pytest.skip(f"no network for {what}")
    assert result.returncode == 0, f"{what}: {' '.join(map(str, command))}\n{said[-3000:]}"


@functools.cache
def node_modules(folder: pathlib.Path) -> pathlib.Path:
    """Installs the packages of an example by its lock file."""
    npm = tool("npm")
    with alone():
        if not (folder / "node_modules").is_dir():
            downloaded(f"the packages of {folder.name}", npm, "ci", cwd=folder)
    return folder / "node_modules"


@functools.cache
def unity_package() -> pathlib.Path:
    """Returns a folder with the package's `headers`, `csharp` and `classes.jar`."""
    folder = DOWNLOADS / "unity"
    with alone():
        if not folder.is_dir():
            _make_unity_package(folder, tool("npm"))
    return folder


def _make_unity_package(folder: pathlib.Path, npm: str) -> None:
    made = DOWNLOADS / f"unity-{os.getpid()}"
    made.mkdir(parents=True)
    try:
        downloaded("ONNX Runtime's headers", npm, "pack", UNITY, "--pack-destination", made)
        (archive,) = made.glob("*.tgz")
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == UNITY_SHA256
        with tarfile.open(archive) as package:
            for member in package:
                path = pathlib.PurePosixPath(member.name)
                if path.suffix == ".h" and "ios-arm64_x86_64-simulator" in path.parts:
                    place = made / "headers" / path.name
                elif path.suffix == ".cs" and "Runtime" in path.parts and "Training" not in path.parts:
                    place = made / "csharp" / path.name
                elif path.name == "onnxruntime.aar":
                    place = made / path.name
                else:
                    continue
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(package.extractfile(member).read())
        archive.unlink()
        shutil.unpack_archive(made / "onnxruntime.aar", made / "android", "zip")
        (made / "android" / "classes.jar").rename(made / "classes.jar")
        shutil.rmtree(made / "android")
        (made / "onnxruntime.aar").unlink()
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@functools.cache
def onnxruntime_root() -> pathlib.Path:
    """Returns a folder like the runtime's release archives: `include`, and `lib` with the installed wheel's library."""
    given = os.environ.get("ONNXRUNTIME_ROOT")
    if given:
        return pathlib.Path(given)
    libraries = sorted((pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this wheel of onnxruntime has no shared library to link against")
    root = DOWNLOADS / f"onnxruntime-{onnxruntime.__version__}"
    # The linker looks for the plain name, the loader for the name that the library gives itself.
    links = {root / "lib" / name: libraries[-1] for name in ("libonnxruntime.so", "libonnxruntime.so.1")}
    links[root / "include"] = unity_package() / "headers"
    with alone():
        for link, target in links.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists() or not link.samefile(target):
                link.unlink(missing_ok=True)
                link.symlink_to(target)
    return root


def python(_: pathlib.Path) -> list[str]:
    return [sys.executable, str(EXAMPLES / "python" / "generate.py")]


def node(_: pathlib.Path) -> list[str]:
    program = tool("node")
    node_modules(EXAMPLES / "node")
    return [program, str(EXAMPLES / "node" / "generate.mjs")]


def cmake(language: str, compiler: str, flags: str, build: pathlib.Path) -> list[str]:
    """Configures and builds as the README says, with warnings as errors."""
    program, _ = tool("cmake"), tool(compiler)
    variable = {"c": "CMAKE_C_FLAGS", "cpp": "CMAKE_CXX_FLAGS"}[language]
    settings = [f"-DONNXRUNTIME_ROOT={onnxruntime_root()}", "-DCMAKE_BUILD_TYPE=Release", f"-D{variable}={flags}"]
    done(program, "-S", EXAMPLES / language, "-B", build, *settings)
    done(program, "--build", build)
    return [str(build / "generate")]


def java(build: pathlib.Path) -> list[str]:
    """Compiles with Maven, which also brings the runtime."""
    program, maven = tool("java"), tool("mvn")
    shutil.copytree(EXAMPLES / "java", build)
    downloaded(
        "ONNX Runtime for Java", maven, "-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile=jars", cwd=build
    )
    done(maven, "-q", "-B", "compile", cwd=build)
    jars = (build / "jars").read_text().strip()
    return [program, "-cp", os.pathsep.join([str(build / "target" / "classes"), jars]), "Generate"]


def csharp(build: pathlib.Path) -> list[str]:
    """Compiles with the .NET SDK, which also brings the runtime."""
    dotnet = tool("dotnet")
    shutil.copytree(EXAMPLES / "csharp", build / "source")
    downloaded("ONNX Runtime for .NET", dotnet, "restore", build / "source")
    done(dotnet, "build", "--no-restore", "-c", "Release", "-o", build / "out", build / "source")
    return [dotnet, str(build / "out" / "Generate.dll")]


WARNINGS = "-Werror -Wall -Wextra -Wpedantic -Wshadow -Wconversion"
LANGUAGES = {
    "python": python,
    "node": node,
    "c": functools.partial(cmake, "c", "cc", WARNINGS),
    "cpp": functools.partial(cmake, "cpp", "c++", WARNINGS),
    "java": java,
    "csharp": csharp,
}
