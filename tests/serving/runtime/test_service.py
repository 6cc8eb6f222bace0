"""The service: many requests at one time, each with the clip of its own seed."""

import asyncio
import math
import threading

import numpy as np

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from serving.runtime.repository import BatchOptions
from tests.support.servers import make_service


def test_clips_that_share_a_batch_are_each_of_their_own_seed(bundle_dir, engine):
    service = make_service(bundle_dir, batch=BatchOptions(wait_seconds=0.2), max_batch_frames=64)
    spec, seeds = engine.bundle.latents, range(16)

    async def all_at_once():
        with service.repository.lease() as model:
            clips = [
                service.render(
                    model,
                    lambda seed=seed: sample_latents(spec, 1, 4, seed=seed, category=seed % 3),
                    deadline=math.inf,
                    as_pixels=True,
                )
                for seed in seeds
            ]
            return await asyncio.gather(*clips)

    clips = asyncio.run(asyncio.wait_for(all_at_once(), 60))
    batches = service.metrics.registry.get_sample_value("serving_batch_frames_count", {"model": "tiny"})
    service.close()
    assert batches < len(seeds)
    for seed, clip in zip(seeds, clips, strict=True):
        video, state = engine.generate(sample_latents(spec, 1, 4, seed=seed, category=seed % 3))
        assert np.abs(clip.video.astype(int) - to_uint8(video)).max() <= 1, seed
        np.testing.assert_allclose(clip.motion_state, state, atol=1e-6)


def test_streams_that_encode_keep_no_clip_waiting(bundle_dir):
    service = make_service(bundle_dir)
    go_on = threading.Event()

    async def beside_streams():
        streams = [asyncio.create_task(service.encode_with(go_on.wait, "stream-jpeg")) for _ in range(8)]
        await asyncio.sleep(0.1)
        try:
            with service.repository.lease() as model, service.admit(model, 1, math.inf, "webp", 1) as work:
                return await asyncio.wait_for(service.encode(lambda: "a clip", work), 5)
        finally:
            go_on.set()
            await asyncio.gather(*streams)

    clip, _ = asyncio.run(beside_streams())
    service.close()
    assert clip == "a clip"
