"""The generator in PyTorch with a Keras generator's weights: the same function of the same latents."""

import types

import numpy as np
import torch
from torch import nn

from benchmarks.torch_step import Generator


class GivenLatents(nn.Module):
    """`torch_step.Generator` as a function of its latents. Output: clips `[B, T, C, H, W]`.

    Args:
        generator: A Keras `VideoGenerator` of 64x64 frames whose category, if any, enters the motion network.
    """

    def __init__(self, generator):
        super().__init__()
        config = generator.latents
        if generator.config["image_size"] != 64 or generator.config["category_to"] != "motion":
            raise ValueError(
                f"`generator` must make 64x64 frames, its category to motion. Received: {generator.config}"
            )
        network = Generator(types.SimpleNamespace(**generator.config))
        self.has_category = bool(config.dim_category)
        self.motion, self.decoder = network.motion, network.decoder
        self.motion_init_scale = generator.motion_init_scale
        _copy_gru(generator.motion.cell, self.motion)
        _copy_decoder(generator.decoder, self.decoder)
        self.eval()

    def forward(self, latents):
        noise = latents["motion_noise"]
        frames = noise.shape[1]
        if self.has_category:
            noise = torch.cat([noise, latents["category"][:, None].expand(-1, frames, -1)], -1)
        motion, _ = self.motion(noise, self.motion_init_scale * latents["motion_init"][None].contiguous())
        codes = torch.cat([latents["content"][:, None].expand(-1, frames, -1), motion], -1)
        pictures = self.decoder(codes.reshape(-1, codes.shape[-1], 1, 1))
        return pictures.reshape(-1, frames, *pictures.shape[1:])


def _tensor(variable):
    return torch.from_numpy(variable.numpy())


def _copy_gru(cell, gru):
    """Keras orders the gates update, reset, candidate; PyTorch reset, update, candidate."""

    def reordered(weights):
        update, reset, candidate = np.split(weights.numpy(), 3, axis=-1)
        return torch.from_numpy(np.concatenate([reset, update, candidate], axis=-1))

    with torch.no_grad():
        gru.weight_ih_l0.copy_(reordered(cell.kernel).T)
        gru.weight_hh_l0.copy_(reordered(cell.recurrent_kernel).T)
        bias = reordered(cell.bias)
        gru.bias_ih_l0.copy_(bias[0])
        gru.bias_hh_l0.copy_(bias[1])


def _copy_decoder(keras_decoder, decoder):
    convolutions = [layer for layer in keras_decoder.layers if layer.name.startswith("conv")]
    norms = [layer for layer in keras_decoder.layers if layer.name.startswith("norm")]
    with torch.no_grad():
        for layer, ours in zip([m for m in decoder if isinstance(m, nn.ConvTranspose2d)], convolutions, strict=True):
            layer.weight.copy_(_tensor(ours.kernel).permute(3, 2, 0, 1))
        for layer, ours in zip([m for m in decoder if isinstance(m, nn.BatchNorm2d)], norms, strict=True):
            layer.eps = ours.epsilon
            for theirs, variable in (
                (layer.weight, ours.gamma),
                (layer.bias, ours.beta),
                (layer.running_mean, ours.moving_mean),
                (layer.running_var, ours.moving_variance),
            ):
                theirs.copy_(_tensor(variable))
