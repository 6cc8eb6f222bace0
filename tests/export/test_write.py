"""A bundle appears whole or not at all; what was there before stays until the new one is proven."""

import json

import numpy as np
import pytest
from PIL import Image

from export import write
from export.contract import read_contract
from export.proof import Check, bundle_files
from export.write import next_version, write_bundle
from mocogan_tf import sampling
from mocogan_tf.video import grid, scale_up
from tests.export.conftest import make_contract, make_generator, provenance_of


@pytest.fixture
def quick(monkeypatch):
    """Leaves out TensorFlow's part and the proof, which other tests are about."""
    passed = [Check("all", "", "", True)]
    monkeypatch.setattr(write, "write_saved_model", lambda generator, contract, folder, *_: folder.mkdir(parents=True))
    monkeypatch.setattr(write, "verify_content", lambda *_: passed)
    return monkeypatch


def export(out, **changes):
    contract = make_contract(version=next_version(out), **changes)
    generator = make_generator(contract)
    return write_bundle(generator, contract, provenance_of(generator), out)


def nothing_beside(out):
    return (
        sorted(path.name for path in out.parent.iterdir()) == [out.name]
        if out.exists()
        else not any(out.parent.iterdir())
    )


def test_a_bundle_holds_what_its_contract_lists(exported):
    folder, _, contract, _ = exported
    described = json.loads((folder / "bundle.json").read_text())
    for name in described["files"].values():
        assert (folder / name).exists()
    assert (folder / "saved_model/1/assets.extra/tf_serving_warmup_requests").exists()
    assert {"MODEL_CARD.md", "tf_serving/models.config", "triton/config.pbtxt"} <= set(bundle_files(folder))
    assert read_contract(folder)[0] == contract


def test_the_recorded_clips_are_those_of_the_generator(exported):
    folder, generator, contract, _ = exported
    golden = dict(np.load(folder / "golden.npz"))
    assert set(golden) == {"seed", *contract.inputs, *contract.outputs}
    assert golden["video"].std() > 0.1
    assert golden["video"].shape == (2, contract.video_length, 32, 32, 3)
    assert not np.allclose(golden["video"][0], golden["video"][1])


def test_the_model_card_shows_the_contract_and_the_proof(exported):
    card = (exported[0] / "MODEL_CARD.md").read_text()
    for part in ("push, wave, turn", "`motion_noise` | [batch, time, 5]", "warm-up records", "signature seed_png"):
        assert part in card


def test_the_card_shows_clips_that_play(exported):
    folder, generator, contract, _ = exported
    card = (folder / "MODEL_CARD.md").read_text()
    name = card.split("](")[1].split(")")[0]
    with Image.open(folder / name) as sample:
        assert sample.n_frames == contract.video_length
        assert sample.info["duration"] == 120  # 8 a second, as GIF holds it.
        shown = np.asarray(sample.convert("RGB"))
    drawn, columns = sampling.overview(generator, contract.video_length, seed=0)
    expected = grid(scale_up(drawn, 2), columns)[0]
    assert shown.shape == expected.shape
    # A GIF has 256 colours, dithered: right in the mean of some pixels.
    shown, expected = (_shrunk(pixels, 16) for pixels in (shown, expected))
    assert np.abs(shown - expected).mean() < 4


def _shrunk(pixels, factor):
    height, width = (size // factor * factor for size in pixels.shape[:2])
    cells = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return cells.mean((1, 3))


def test_the_card_s_example_runs_as_it_stands(exported, monkeypatch):
    card = (exported[0] / "MODEL_CARD.md").read_text()
    monkeypatch.chdir(exported[0])
    scope = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    assert scope["video"].shape == (1, 4, 32, 32, 3)


def test_versions_count_up_and_the_old_one_goes(quick, tmp_path):
    out = tmp_path / "deep" / "bundle"
    for version in (1, 2, 3):
        export(out)
        assert read_contract(out)[0].version == version
        assert [path.name for path in (out / "saved_model").iterdir()] == [str(version)]
        assert nothing_beside(out)


def test_an_empty_folder_may_be_filled(quick, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    export(out)
    assert read_contract(out)[0].version == 1


@pytest.mark.parametrize("what", ["file", "folder", "damaged bundle"])
def test_what_is_no_bundle_is_left_alone(tmp_path, what):
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("bundle.json" if what == "damaged bundle" else "mine.txt")).write_text("mine")
    with pytest.raises(ValueError, match="exists and is no bundle, so it is left alone"):
        next_version(out)


def test_a_failed_check_leaves_the_old_bundle_and_nothing_else(quick, tmp_path):
    out = tmp_path / "bundle"
    export(out)
    before = {name: (out / name).read_bytes() for name in bundle_files(out)}
    quick.setattr(write, "verify_content", lambda *_: [Check("golden: model.onnx", "3.0e-01", "1e-04", False)])
    with pytest.raises(ValueError, match="1 of 2 checks failed, first golden: model.onnx: 3.0e-01"):
        export(out)
    assert {name: (out / name).read_bytes() for name in bundle_files(out)} == before
    assert nothing_beside(out)


def test_weights_that_are_not_finite_are_named_before_anything_is_written(quick, tmp_path):
    contract = make_contract()
    generator = make_generator(contract)
    generator.decoder.get_layer("norm_1").gamma.assign([np.nan] * 8)
    with pytest.raises(ValueError, match="Weight norm_1/gamma has values that are not finite"):
        write_bundle(generator, contract, provenance_of(generator), tmp_path / "bundle")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("interrupt", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_whatever_ends_the_export_nothing_is_left(quick, tmp_path, interrupt):
    def fail(*_):
        raise interrupt

    quick.setattr(write, "write_packs", fail)
    with pytest.raises(type(interrupt)):
        export(tmp_path / "bundle")
    assert not any(tmp_path.iterdir())


def test_a_bundle_that_cannot_get_its_name_gives_the_old_one_back(quick, tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    export(out)
    rename, renames = type(out).rename, []

    def fail_second(self, target):
        renames.append(target)
        if len(renames) == 2:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail_second)
    with pytest.raises(OSError, match="no"):
        export(out)
    assert read_contract(out)[0].version == 1
    assert nothing_beside(out)
