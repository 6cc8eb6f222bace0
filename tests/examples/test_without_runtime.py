"""Java and C# where their runtime cannot be had: both compile, and refuse bad arguments before they need a model."""

import json
import pathlib
import re
import xml.etree.ElementTree

import pytest

from tests.examples.conftest import Program
from tests.examples.test_programs import refused
from tests.support.toolchains import EXAMPLES, done, tool, unity_package

HERE = pathlib.Path(__file__).parent


def compiled_java(folder):
    """Compiled against the runtime's own classes, as its Android archive carries them."""
    compiler, program = tool("javac"), tool("java")
    classes = unity_package() / "classes.jar"
    source = EXAMPLES / "java" / "src" / "main" / "java" / "Generate.java"
    done(compiler, "-Xlint:all", "-Werror", "--release", "17", "-cp", classes, "-d", folder, source)
    return Program("java", [program, "-cp", f"{folder}:{classes}", "Generate"], folder)


def compiled_csharp(folder):
    """Compiled by Mono against a stand-in for the runtime."""
    compiler, program = tool("mcs"), tool("mono")
    out = folder / "generate.exe"
    done(compiler, "-warnaserror", f"-out:{out}", EXAMPLES / "csharp" / "Generate.cs", HERE / "StandIn.cs")
    return Program("csharp", [program, str(out)], folder)


@pytest.mark.parametrize("compiled", [compiled_java, compiled_csharp])
def test_it_compiles_without_warnings_and_refuses_bad_arguments(compiled, tmp_path):
    program = compiled(tmp_path)
    assert "usage: " in refused(program, "model.onnx", 7)
    for seed in ("-1", "1.5", "", str(2**64)):
        assert "SEED must be a whole number from 0 to 18446744073709551615." in refused(program, "m", seed, 1, "o.rgb")
    for frames in ("0", "many", str(2**31)):
        assert "FRAMES must be a whole number from 1 to 2147483647." in refused(program, "m", 7, frames, "o.rgb")
    assert "OUT must end in .rgb or .f32. Received: clip.mp4" in refused(program, "model.onnx", 7, 16, "clip.mp4")


def test_every_language_pins_its_runtime():
    pom = xml.etree.ElementTree.parse(EXAMPLES / "java" / "pom.xml")
    in_java = pom.find(".//{*}dependency/{*}version").text
    project = xml.etree.ElementTree.parse(EXAMPLES / "csharp" / "Generate.csproj")
    in_csharp = project.find(".//PackageReference").get("Version")
    lists = [(EXAMPLES / folder / "CMakeLists.txt").read_text() for folder in ("c", "cpp")]
    in_cmake = {re.search(r"ONNXRUNTIME_VERSION (\S+)", text)[1] for text in lists}
    assert {in_java, in_csharp} == in_cmake
    for folder in ("node", "web"):
        wanted = json.loads((EXAMPLES / folder / "package.json").read_text())["dependencies"]
        locked = json.loads((EXAMPLES / folder / "package-lock.json").read_text())["packages"]
        assert wanted == {name: locked[f"node_modules/{name}"]["version"] for name in wanted}
