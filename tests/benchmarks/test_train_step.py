"""`benchmarks.train_step`: both sides are the same networks and do the same work, and its report is consistent."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from benchmarks import train_step
from benchmarks.our_step import make_step, random_batch
from benchmarks.torch_step import TorchStep

TINY = {"ngf": 4, "ndf": 4, "image_batch": 3, "video_batch": 4, "noise_sigma": 0.0}


def make_equal(keras_network, torch_network):
    """Keras's convolutions into PyTorch's, in order; kernels `[*window, in, out]` become `[out, in, *window]`. The
    normalisations' scales, which only Keras's side draws, are set to 1."""
    for norm in keras_network.norms:
        if hasattr(norm, "gamma"):
            norm.gamma.assign(np.ones(norm.gamma.shape))
    theirs = [module for module in torch_network if hasattr(module, "kernel_size")]
    # D_V's convolutions stand behind their padding.
    ours = [getattr(layer, "layers", [layer])[-1] for layer in (*keras_network.convolutions, keras_network.last)]
    with torch.no_grad():
        for source, target in zip(ours, theirs, strict=True):
            kernel = source.kernel.numpy()
            target.weight.copy_(torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy()))
            if target.bias is not None:
                target.bias.copy_(torch.from_numpy(source.bias.numpy()))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_both_sides_judge_alike(norm):
    config = train_step.make_config("paper", discriminator_norm=norm, **TINY)
    gan, _ = make_step(config, "float32")
    other = TorchStep(config)
    batch = random_batch(config)
    make_equal(gan.image_discriminator, other.d_image)
    make_equal(gan.video_discriminator, other.d_video)
    images = torch.from_numpy(np.moveaxis(batch["images"].numpy(), -1, 1).copy())
    videos = torch.from_numpy(np.moveaxis(batch["videos"].numpy(), -1, 1).copy())
    with torch.no_grad():
        expected = other.d_image(images).flatten(1).numpy()
        logits, classes = (value.numpy() for value in other._judge(videos))
    found = gan.image_discriminator(batch["images"], training=True)
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-5)
    found_logits, found_classes = gan.video_discriminator(batch["videos"], training=True)
    np.testing.assert_allclose(np.reshape(found_logits, logits.shape), logits, atol=1e-5)
    np.testing.assert_allclose(np.reshape(found_classes, classes.shape), classes, atol=1e-5)
    assert np.ptp(found_classes) > 1e-3  # Else any two would agree.


@pytest.mark.slow
def test_the_report_compares_our_better_precision_with_the_fastest_rival():
    report = train_step.run(train_step.make_config("cpu", **TINY), ["torch"], rounds=2)
    medians = {name: result["median_s"] for name, result in report["results"].items()}
    sides = ("ours", "ours, shared fakes", "torch eager")
    assert medians.keys() == {f"{side} {precision}" for side in sides for precision in train_step.PRECISIONS}
    best = min((name for name in medians if name.startswith("ours")), key=medians.get)
    assert (report["ours"]["name"], report["ours"]["median_s"]) == (best, medians[best])
    rival = min(medians["torch eager float32"], medians["torch eager bfloat16"])
    same_work = min(medians["ours float32"], medians["ours bfloat16"])
    assert (report["ratio"], report["ratio_same_work"]) == (rival / medians[best], rival / same_work)
    assert report["ratio_float32_same_work"] == medians["torch eager float32"] / medians["ours float32"]
    peak = report["matrix_rate"][best.rpartition(" ")[2]]
    assert report["share_of_peak"] == pytest.approx(report["flops"] / medians[best] / peak)


def test_shared_fakes_are_less_to_compute():
    sides = train_step.make_sides(train_step.make_config("cpu", **TINY), ["torch"])
    plain, shared = sides["ours float32"].flops, sides["ours, shared fakes float32"].flops
    assert 0.8 < shared / plain < 0.9


def test_networks_of_different_sizes_are_refused(monkeypatch):
    class Larger(TorchStep):
        def num_parameters(self):
            return [1, 2, 3]

    monkeypatch.setattr(train_step, "TorchStep", Larger)
    with pytest.raises(ValueError, match="different networks"):
        train_step.make_sides(train_step.make_config("cpu", **TINY), ["torch"])
