"""A start that fails says why in one line that names the flag or the file."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from serving.__main__ import main
from serving.load import main as load_main
from serving.runtime.bundle import read_bundle
from serving.runtime.errors import BundleError
from tests.support.made_bundles import write_bundle
from tests.support.servers import ROOT


@pytest.fixture
def refusal(capsys, caplog, monkeypatch):
    """Runs a start that fails; returns its one line."""
    monkeypatch.setattr("serving.__main__.set_up_logs", lambda style, level: None)  # Those are this process's.

    def run(*flags):
        assert main(list(flags)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("python -m serving: ")
        assert not [record for record in caplog.records if record.levelname == "ERROR"]
        return line

    return run


@pytest.mark.parametrize("flag", ["--port=65536", "--port=-1", "--grpc_port=99999"])
def test_ports_are_in_range(refusal, flag):
    assert f"must be in [0, 65535]. Received: {flag}" in refusal("--bundle=none", flag)


def test_help_lists_every_flag_by_group_and_ends_well(capsys):
    for command in (main, load_main):
        with pytest.raises(SystemExit) as ended:
            command(["--help"])
        assert ended.value.code == 0
    text = capsys.readouterr().out
    groups = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert groups[0] == "start here" and len(groups) >= 6
    assert "--bundle" in text.split("start here:")[1].split("\n\n")[0] and "(default: '8501')" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--porrt=1"], "Unknown command line flag 'porrt'. Did you mean: port"),
        (["--port=x"], "flag --port=x"),
        (["--provider=tpu"], "<auto|cpu|openvino|cuda|tensorrt>"),
        (["bundle"], "unexpected argument 'bundle'"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(capsys, flags, said):
    with pytest.raises(SystemExit) as ended:
        main(flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("python -m serving: ") and said in line


@pytest.mark.parametrize("there", [[], ["taichi-animate"], ["taichi", "taichi-animate"]])
def test_without_a_bundle_the_shipped_ones_that_are_there_are_served(refusal, monkeypatch, tmp_path, there):
    def serve(values, bundles):
        raise ValueError(f"served {' '.join(bundles)}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serving.__main__.serve", serve)
    for name in there:
        (tmp_path / "pretrained" / name).mkdir(parents=True)
    expected = " ".join(f"pretrained/{name}" for name in there)
    line = refusal()
    assert line.endswith(f"served {expected}") if there else "--bundle=DIR is needed" in line


def test_flags_may_have_their_values_after_a_space(refusal):
    assert "Received: --port=70000" in refusal("--bundle", "none", "--port", "70000")


def test_a_file_that_cannot_be_read_is_named_with_its_flag(refusal, tmp_path):
    for flags, named in (
        (["--tls_cert=no.pem", "--tls_key=none.pem"], "--tls_key=none.pem cannot be read: No such file"),
        (["--tls_cert=no.pem", f"--tls_key={__file__}"], "--tls_cert=no.pem cannot be read: No such file"),
        (["--api_key_file=none"], "--api_key_file=none cannot be read: No such file"),
        ([f"--api_key_file={tmp_path}"], f"--api_key_file={tmp_path} cannot be read: Is a directory"),
    ):
        assert named in refusal("--bundle=none", *flags)
    (tmp_path / "keys").write_bytes(b"\xff\xfe\x00")
    named = f"--api_key_file={tmp_path / 'keys'} cannot be read: it is not UTF-8 text"
    assert named in refusal("--bundle=none", f"--api_key_file={tmp_path / 'keys'}")


def test_a_certificate_without_its_key_names_both(refusal, bundle_dir, certificate):
    for cert, key in ((certificate.cert, certificate.cert), (certificate.cert, __file__), (__file__, certificate.key)):
        line = refusal(f"--bundle={bundle_dir}", "--port=0", f"--tls_cert={cert}", f"--tls_key={key}")
        assert f"--tls_cert={cert} and --tls_key={key} must be a certificate and its private key" in line


def test_a_package_that_is_missing_is_named_with_what_to_install():
    for name in ("numpy", "onnxruntime", "starlette", "h11", "websockets", "absl", "PIL"):
        hidden = f"import runpy, sys; sys.modules[{name!r}] = None; runpy.run_module('serving', run_name='__main__')"
        result = subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True)
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"python -m serving: the package {name} is missing or too old. Install")
        assert result.returncode == 1 and ".[serving]" in line and "-r serving/requirements.txt" in line


@pytest.fixture
def loose(tmp_path):
    """A bundle without SHA256SUMS, which tells of no damage."""
    folder = write_bundle(tmp_path / "loose")
    (folder / "SHA256SUMS").unlink()
    return folder


def test_a_damaged_golden_file_is_named(loose):
    whole = (loose / "golden.npz").read_bytes()
    packed = io.BytesIO()
    np.savez_compressed(packed, **np.load(loose / "golden.npz"))
    kinds = set()
    for data in (whole, packed.getvalue()):
        # Bit after bit in the zip file's headers and directory, and in some of the arrays.
        damaged = [data[:length] for length in (0, 1, 100, len(data) // 2, len(data) - 1)]
        for at in (*range(400), *range(len(data) - 300, len(data))):
            damaged.append(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        for content in damaged:
            (loose / "golden.npz").write_bytes(content)
            try:
                read_bundle(loose).golden()
            except BundleError as error:
                assert str(loose / "golden.npz") in str(error) and "\n" not in str(error)
                kinds.add(type(error.__cause__).__name__)
    assert len(kinds) > 3  # BadZipFile and what else a damaged zip file raises.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, " lacks `seed`"),
        ({"seed": np.ones(2)}, ": `seed` must be integer of shape (). Received: float64 of shape (2,)"),
        ({"motion_noise": None}, " lacks `motion_noise`"),
        ({"motion_noise": np.ones(5)}, ": `motion_noise` must be floating of shape (5, 1, 4)"),
        ({"category": None}, " lacks `category`"),
        (
            {"content": np.ones((2, 7))},
            ": `content` must be floating of shape (2, 6). Received: float64 of shape (2, 7)",
        ),
        ({"video": np.ones((2, 8, 16, 16, 1))}, ": `video` must be floating of shape (2, 8, 16, 16, 3)"),
        ({"motion_state": np.array("state")}, ": `motion_state` must be floating of shape (2, 4)"),
    ],
)
def test_golden_arrays_that_do_not_fit_are_named(refusal, loose, change, message):
    arrays = dict(np.load(loose / "golden.npz")) | change
    np.savez(loose / "golden.npz", **{name: array for name, array in arrays.items() if array is not None})
    line = refusal(f"--bundle={loose}", "--port=0")
    assert f"{loose / 'golden.npz'}{message}" in line


@pytest.mark.parametrize("buckets", [None, 16, "16", [16, None], ["16"], [0], [True], {}])
def test_bad_frame_buckets_are_named(loose, buckets):
    path = loose / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"frame_buckets": buckets}))
    with pytest.raises(BundleError, match="bundle.json: `frame_buckets` must be a list of numbers of frames"):
        read_bundle(loose)


def test_damaged_sums_do_not_agree(tmp_path):
    sums = write_bundle(tmp_path) / "SHA256SUMS"
    sums.write_bytes(b"\xff" + sums.read_bytes()[1:])
    sums.write_bytes(sums.read_bytes().replace(b"\n", b"\n\xff"))
    with pytest.raises(BundleError, match="differs from its line in SHA256SUMS"):
        read_bundle(tmp_path)
