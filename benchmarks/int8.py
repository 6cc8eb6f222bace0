"""Measures whether an int8 variant of the generator would pay: python -m benchmarks.int8 BUNDLE

Quantises model.onnx with ONNX Runtime's own tool and prints each variant's PSNR against float32 and its speed on this
CPU. Clips of the model calibrate the static variants. docs/bundle.md quotes the result.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import statistics
import tempfile
import time

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from export.contract import Contract, read_contract
from mocogan_tf.latents import sample_latents

CALIBRATION_SEED, TEST_SEED = 1, 2
CLIPS, ROUNDS = 16, 15

Arrays = dict[str, NDArray[np.float32]]


class Latents(CalibrationDataReader):
    """Gives the calibration one clip per call."""

    def __init__(self, contract: Contract) -> None:
        self.clips = iter(_clips(contract, CALIBRATION_SEED))

    def get_next(self) -> Arrays | None:
        return next(self.clips, None)


def _clips(contract: Contract, seed: int) -> list[Arrays]:
    batch = sample_latents(contract.latents, CLIPS, contract.video_length, seed=seed)
    return [{name: value[i : i + 1] for name, value in batch.items()} for i in range(CLIPS)]


def _session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _videos(session: onnxruntime.InferenceSession, clips: list[Arrays]) -> NDArray[np.float32]:
    return np.concatenate([session.run(["video"], clip)[0] for clip in clips])


def _variants(source: str, contract: Contract, folder: pathlib.Path) -> dict[str, str]:
    """Writes the quantised files and returns all paths by name."""
    variants = {"float32": source}
    for form in QuantFormat:
        name = f"static {form.name}"
        variants[name] = str(folder / f"{form.name}.onnx")
        quantize_static(
            source,
            variants[name],
            Latents(contract),
            quant_format=form,
            op_types_to_quantize=["Gemm", "MatMul", "ConvTranspose"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    variants["dynamic"] = str(folder / "dynamic.onnx")
    quantize_dynamic(source, variants["dynamic"], weight_type=QuantType.QInt8)
    return variants


def main(bundle: pathlib.Path) -> None:
    """Prints one line per variant."""
    logging.disable(logging.WARNING)  # The tool suggests preprocessing, which this graph does not need.
    contract, described = read_contract(bundle)
    clips = _clips(contract, TEST_SEED)
    with tempfile.TemporaryDirectory() as name:
        variants = _variants(str(bundle / described["files"]["onnx"]), contract, pathlib.Path(name))
        sizes = {key: pathlib.Path(path).stat().st_size / 1e6 for key, path in variants.items()}
        sessions = {key: _session(path) for key, path in variants.items()}
    expected = _videos(sessions["float32"], clips)
    seconds: dict[str, list[float]] = {key: [] for key in sessions}
    for _ in range(ROUNDS):  # In turn, so that other work on the machine slows all variants alike.
        for key, session in sessions.items():
            started = time.process_time()
            session.run(["video"], clips[0])
            seconds[key].append(time.process_time() - started)
    for key, session in sessions.items():
        error = float(np.mean((_videos(session, clips) - expected) ** 2))
        psnr = 10 * np.log10(4 / error) if error else np.inf
        speed = statistics.median(seconds["float32"]) / statistics.median(seconds[key])
        print(f"{key:18} {sizes[key]:6.2f} MB {psnr:6.1f} dB {speed:6.2f} x float32 (processor time of one clip)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=pathlib.Path, help="folder of the bundle")
    main(parser.parse_args().bundle)
