"""The proof passes what differs by a little less than it allows, and fails what differs by a little more."""

import types

import numpy as np
import pytest

from export import proof
from mocogan_tf.video import to_uint8

VIDEO = np.linspace(-1, 1, 2 * 4 * 4 * 3, dtype=np.float32).reshape(1, 2, 4, 4, 3)
STATE = np.zeros((1, 5), np.float32)


def outputs(video=0.0, state=0.0):
    """What a model gives whose largest differences from the recorded clip are these, of both signs."""
    found = VIDEO.astype(np.float64)
    found[0, 0, 0, 0, 0] += video
    found[0, 1, 3, 3, 2] -= video
    return {"video": found, "motion_state": STATE + np.float64(state)}


def recorded(tmp_path, **changes):
    """The findings on recorded clips of models that differ by what `changes` says of them."""
    np.savez(tmp_path / "golden.npz", video=VIDEO, motion_state=STATE, seed=np.uint64(3), content=np.zeros((1, 2)))
    files = {"golden": "golden.npz", "onnx_uint8": "model.uint8.onnx"}
    made = {role: outputs(**changes.get(role, {})) for role in ("keras", "onnx", "onnx_fp16", "frames", "frames_fp16")}
    pixels = to_uint8(VIDEO).astype(np.int16) + changes.get("pixels", 0)
    stub = types.SimpleNamespace(
        bundle=tmp_path,
        files=files,
        in_parts=True,
        latents=lambda *size: {"content": np.full((1, 2), changes.get("latents", 0.0))},
        keras=lambda inputs: made["keras"],
        onnx=lambda inputs, role="onnx": {"video_uint8": pixels} if role == "onnx_uint8" else made[role],
        pair=lambda inputs, frames="frames": made[frames],
    )
    return {check.name: check for check in proof._Proof.recorded_clips(stub)}


@pytest.mark.parametrize(
    ("role", "name", "limit"),
    [
        ("keras", "golden: Keras", 1e-4),
        ("onnx", "golden: model.onnx", 1e-4),
        ("frames", "golden: motion.onnx + frames.onnx", 1e-4),
        ("frames_fp16", "golden: motion.onnx + frames.fp16.onnx", 2e-2),
        ("onnx_fp16", "golden: model.fp16.onnx", 2e-2),
    ],
)
def test_videos_and_states_may_differ_by_so_much_and_no_more(role, name, limit, tmp_path):
    for video, state, passed in ((0.95 * limit, 0.95e-5, True), (1.05 * limit, 0, False), (0, 1.05e-5, False)):
        checks = recorded(tmp_path, **{role: {"video": video, "state": state}})
        assert checks[name].passed == passed, (video, state)
        assert all(check.passed for other, check in checks.items() if other not in (name, f"{name}, PSNR"))


def test_half_floats_must_reach_forty_decibels_over_the_whole_clip(tmp_path):
    """20 log10(2 / rms): an rms difference of 0.02 is 40 dB."""
    for rms, passed in ((0.0195, True), (0.0205, False)):
        each = np.float64(rms) * np.sqrt(VIDEO.size / 2)  # Two values differ.
        check = recorded(tmp_path, onnx_fp16={"video": each})["golden: model.fp16.onnx, PSNR"]
        assert check.passed == passed, check


def test_pixels_may_round_the_other_way_and_latents_differ_in_the_last_place(tmp_path):
    for pixels, latents, faults in (
        (1, 0.9e-6, []),
        (-1, 0.0, []),
        (2, 0.0, ["golden: model.uint8.onnx"]),
        (-2, 0.0, ["golden: model.uint8.onnx"]),
        (0, 1.1e-6, ["golden: latents"]),
    ):
        checks = recorded(tmp_path, pixels=pixels, latents=latents)
        assert [name for name, check in checks.items() if not check.passed] == faults


def test_what_has_no_number_is_never_close():
    for wrong in ({"video": np.nan}, {"state": np.nan}):
        assert not proof._close("", outputs(**wrong), outputs()).passed
