"""The same training step in PyTorch: networks, losses and optimizers of `mocogan_tf` in PyTorch's idioms.

The networks are the paper's at 64x64 and 16 frames: a patch image discriminator, batch normalisation or none, noise
before the convolutions or none, categories in the motion network, the supervised category loss, coupled weight decay.
"""

import torch
from torch import nn
from torch.nn import functional

KERNEL = 4


class Noise(nn.Module):
    """Adds Gaussian noise of deviation `sigma`."""

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma

    def forward(self, x):
        return x + self.sigma * torch.randn_like(x) if self.sigma else x


class Generator(nn.Module):
    """GRU over noise and category, then a DCGAN decoder per frame."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.motion = nn.GRU(config.dim_motion + config.dim_category, config.dim_motion, batch_first=True)
        widths = [config.dim_content + config.dim_motion, *(config.ngf * 2**i for i in (3, 2, 1, 0))]
        layers = []
        for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            stride, padding = (1, 0) if i == 0 else (2, 1)
            convolution = nn.ConvTranspose2d(before, after, KERNEL, stride, padding, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        last = nn.ConvTranspose2d(widths[-1], config.channels, KERNEL, 2, 1, bias=False)
        self.decoder = nn.Sequential(*layers, last, nn.Tanh())

    def codes(self, number):
        """Draws codes `[N, T, D]` and their categories `[N]`."""
        config, frames = self.config, self.config.video_length
        device = self.motion.weight_ih_l0.device
        category = torch.randint(config.dim_category, (number,), device=device)
        one_hot = functional.one_hot(category, config.dim_category).float()[:, None].expand(-1, frames, -1)
        noise = torch.randn(number, frames, config.dim_motion, device=device)
        first = torch.randn(1, number, config.dim_motion, device=device)
        motion, _ = self.motion(torch.cat([noise, one_hot], -1), first)
        content = torch.randn(number, config.dim_content, device=device)[:, None].expand(-1, frames, -1)
        return torch.cat([content, motion], -1), category

    def videos(self, number):
        """Draws clips `[N, C, T, H, W]` and their categories."""
        codes, category = self.codes(number)
        frames = self.decoder(codes.reshape(-1, codes.shape[-1], 1, 1))
        return frames.reshape(number, -1, *frames.shape[1:]).transpose(1, 2), category

    def images(self, number):
        """Draws one frame of each of `number` clips, `[N, C, H, W]`."""
        codes, _ = self.codes(number)
        frame = torch.randint(codes.shape[1], (number,), device=codes.device)
        return self.decoder(codes[torch.arange(number, device=codes.device), frame][..., None, None])


def _layers(config, convolution, normalisation, widths, *shape):
    """Per width: noise, a convolution of `shape` (strides, padding), normalisation (not in the first), leaky ReLU."""
    normalised, layers = config.discriminator_norm == "batch", []
    for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layers += [Noise(config.noise_sigma), convolution(before, after, KERNEL, *shape, bias=not normalised)]
        layers += [normalisation(after)] if i and normalised else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    return layers


def image_discriminator(config):
    """Builds the patch discriminator of single frames."""
    widths = [config.channels, config.ndf, 2 * config.ndf, 4 * config.ndf]
    layers = _layers(config, nn.Conv2d, nn.BatchNorm2d, widths, 2, 1)
    last = nn.Conv2d(widths[-1], 1, KERNEL, 2, 1, bias=config.discriminator_norm != "batch")
    return nn.Sequential(*layers, Noise(config.noise_sigma), last)


def video_discriminator(config):
    """Builds the discriminator of clips, with class logits beside the real-or-fake logit."""
    widths = [config.channels, *(config.ndf * 2**i for i in range(4))]
    layers = _layers(config, nn.Conv3d, nn.BatchNorm3d, widths, (1, 2, 2), (0, 1, 1))
    last = nn.Conv3d(widths[-1], 1 + config.dim_category, KERNEL, bias=config.discriminator_norm != "batch")
    return nn.Sequential(*layers, last)


class TorchStep:
    """Networks, optimizers and one training step.

    Args:
        config: Resolved `mocogan_tf.config.Config` of 64x64 frames, 16 per clip.
        half: Compute in this type where autocast does: torch.bfloat16 or torch.float16; None computes in float32.
        compiled: Compile the three networks, and update each network's weights in one fused operation.
        device: "cpu" or "cuda".
        cuda_graphs: Compile with CUDA graphs.
    """

    def __init__(self, config, *, half=None, compiled=False, device="cpu", cuda_graphs=False):
        self.config, self.half, self.device = config, half, device
        self.generator = Generator(config)
        self.d_image, self.d_video = image_discriminator(config), video_discriminator(config)
        networks = (self.generator, self.d_image, self.d_video)
        for network in networks:
            network.to(device)
        # As our own side, in float16 one loss scale per network.
        self.scalers = [torch.amp.GradScaler(device, enabled=half == torch.float16) for _ in networks]
        betas = (config.beta_1, config.beta_2)
        self.optimizers = [
            torch.optim.Adam(n.parameters(), rate, betas, weight_decay=config.weight_decay, fused=compiled or None)
            for n, rate in zip(networks, (config.learning_rate, *2 * [config.learning_rate_d]), strict=True)
        ]
        if compiled:
            # PyTorch counts the three networks, with and without gradients, as one function, and by default compiles a
            # function eight times at most.
            torch._dynamo.config.recompile_limit = 64
            mode = "reduce-overhead" if cuda_graphs else None
            self.generator.decoder = torch.compile(self.generator.decoder, mode=mode)
            self.d_image, self.d_video = (torch.compile(one, mode=mode) for one in (self.d_image, self.d_video))

    def num_parameters(self):
        """Returns the parameters of generator, image and video discriminator."""
        return [sum(p.numel() for p in n.parameters()) for n in (self.generator, self.d_image, self.d_video)]

    def __call__(self, images, videos, labels):
        """One step of each network; images `[N, C, H, W]`, videos `[N, C, T, H, W]`, labels `[N]`."""
        update_g, update_image, update_video = zip(self.optimizers, self.scalers, strict=True)
        with torch.autocast(self.device, self.half or torch.bfloat16, enabled=self.half is not None):
            with torch.no_grad():
                fake_images, (fake_videos, _) = self.generator.images(len(images)), self.generator.videos(len(videos))
            loss = _real(self.d_image(images)) + _fake(self.d_image(fake_images))
            _update(*update_image, loss)
            logits, classes = self._judge(videos)
            loss = _real(logits) + _fake(self._judge(fake_videos)[0]) + functional.cross_entropy(classes, labels)
            _update(*update_video, loss)
            fake_videos, category = self.generator.videos(len(videos))
            logits, classes = self._judge(fake_videos)
            loss = _real(logits) + functional.cross_entropy(classes, category)
            loss = loss + _real(self.d_image(self.generator.images(len(images))))
            _update(*update_g, loss)
            return float(loss.detach())

    def _judge(self, videos):
        outputs = self.d_video(videos).flatten(2).mean(-1).float()
        return outputs[:, 0], outputs[:, 1:]


def _real(logits):
    return functional.softplus(-logits.float()).mean()


def _fake(logits):
    return functional.softplus(logits.float()).mean()


def _update(optimizer, scaler, loss):
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
