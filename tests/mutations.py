"""The wrong changes that `python -m tests.mutation` makes, and the tests that must notice each."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Change:
    """A wrong change.

    Args:
        name: Where, and what goes wrong.
        file: The file that is changed.
        old: Its present text, which occurs once.
        new: The wrong text.
        tests: Files or single tests of pytest, of which one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(where: str, file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Change]:
    """Changes of one file for the same tests: what goes wrong, old and new text."""
    return [Change(f"{where}: {what}", file, old, new, tests) for what, old, new in changes]


def _in(file: str, *names: str) -> tuple[str, ...]:
    """Some tests of a file; all of them if none is named."""
    return tuple(f"{file}::{name}" for name in names) or (file,)


BATCHER, STREAM = "serving/runtime/batcher.py", "serving/protocols/stream.py"
REGISTRY, REPORT = "mocogan_tf/metrics/registry.py", "mocogan_tf/metrics/report.py"
PARTS, LOOP, CALLBACKS = (
    "tests/training/test_parts.py",
    "mocogan_tf/training/loop.py",
    "mocogan_tf/training/callbacks.py",
)
STEP, SAMPLE_TESTS, SAMPLE = "tests/gans/test_step.py", "tests/test_sample_modes.py", "mocogan_tf/commands/sample.py"
PROOF, ENGINE, LIMITS = "export/proof.py", "serving/runtime/engine.py", "tests/serving/test_limits.py"
PICTURES = "tests/models/test_image_to_video.py"
SERVED_PICTURES = "tests/serving/protocols/test_pictures.py"
OPEN_INFERENCE, NATIVE = "serving/protocols/open_inference.py", "serving/protocols/native.py"

TABLE = [
    *_of(
        "batcher",
        BATCHER,
        ("tests/serving/runtime/test_service.py",),
        (
            "every request of a batch gets the first one's content",
            "np.concatenate([job.rows[name][first : first + n] for job, first, n in pieces])",
            "np.concatenate([(np.resize(pieces[0][0].rows[name], job.rows[name].shape) if name == 'content' else "
            "job.rows[name])[first : first + n] for job, first, n in pieces])",
        ),
    ),
    *_of(
        "batcher",
        BATCHER,
        (
            "tests/serving/runtime/test_batcher.py",
            "tests/serving/test_limits.py",
        ),
        (
            "Retry-After is always 1",
            "retry_after=max(1.0, math.ceil(wait)),\n                )\n",
            "retry_after=1.0,\n                )\n",
        ),
    ),
    *_of(
        "guard",
        "serving/web/guard.py",
        ("tests/serving/web/test_operation.py::test_without_a_key_nothing_but_probes_and_the_page",),
        (
            "a key with a suffix is accepted",
            "good |= hmac.compare_digest(given, known)",
            "good |= given.startswith(known)",
        ),
        ("any key is accepted", "return good or not self._keys", "return True"),
    ),
    *_of(
        "guard",
        "serving/web/guard.py",
        ("tests/serving/abuse/test_streams.py::test_readers_that_never_read_hold_little_and_not_for_long",),
        (
            "an answer may be read as slowly as one likes",
            "asyncio.timeout(limits.write_seconds + len(body) / limits.min_bytes_per_second)",
            "asyncio.timeout(None)",
        ),
    ),
    *_of(
        "registry",
        REGISTRY,
        ("tests/metrics/test_registry.py",),
        (
            "MCS is that of the real clips",
            "taken_for = material.judged.categories",
            "taken_for = material.judged_real.categories",
        ),
        (
            "precision and recall are swapped",
            '("precision", shares[0], floors[0],',
            '("precision", shares[1], floors[1],',
        ),
        (
            "the kernel looks from the origin",
            "return statistics.centred_kernel_distance(real.features, fake.features)",
            "return statistics.kernel_distance(real.features, fake.features)",
        ),
        ("the jackknife's factor", "np.sqrt((groups - 1) / groups *", "np.sqrt(1 / groups *"),
        ("motion_kept is content_kept", '("motion_kept", kept.motion,', '("motion_kept", kept.content,'),
        (
            "frames are scored by the features of clips",
            "return _frechet_with_error(real.frame_features, fake.frame_features)",
            "return _frechet_with_error(real.features, fake.features)",
        ),
    ),
    *_of(
        "report",
        REPORT,
        ("tests/metrics/test_report.py",),
        ("arrows are inverted", '{"more": "↑", "less": "↓",', '{"more": "↓", "less": "↑",'),
        ("the worst point is filled", "values[losses.index(min(losses))]", "values[losses.index(max(losses))]"),
    ),
    *_of(
        "step",
        "mocogan_tf/gans/base.py",
        (STEP,),
        (
            "the loss scale is forgotten",
            "return self._optimizers[name].scale_loss(loss / tf.distribute.get_strategy().num_replicas_in_sync)",
            "return loss / tf.distribute.get_strategy().num_replicas_in_sync",
        ),
        (
            "the average never reaches its decay",
            "keep = tf.minimum(tf.cast(self.ema_decay, step.dtype), (1.0 + step) / (10.0 + step))",
            "keep = (1.0 + step) / (10.0 + step)",
        ),
    ),
    *_of(
        "step",
        "mocogan_tf/gans/mocogan.py",
        (STEP,),
        (
            "real and generated clips share their augmentation",
            '"augment": self._draw_augment(number, purpose, _AUGMENT_FAKE),',
            '"augment": self._draw_augment(number, purpose, _AUGMENT_REAL),',
        ),
    ),
    *_of(
        "conditional D_V",
        "mocogan_tf/gans/mocogan.py",
        _in("tests/gans/test_gradients.py", "test_a_step_is_minus_the_gradient_of_the_papers_loss"),
        (
            "real clips are judged without their labels",
            "self._judge_videos(videos, of_real, training",
            "self._judge_videos(videos, tf.zeros_like(of_real), training",
        ),
        (
            "generated clips are judged without their categories",
            "self._judge_videos(fakes, category, training",
            "self._judge_videos(fakes, tf.zeros_like(category), training",
        ),
        (
            "R1 is of no category",
            "self._judge_videos(x, of_real, **kwargs)[0]",
            "self._judge_videos(x, tf.zeros_like(of_real), **kwargs)[0]",
        ),
    ),
    *_of(
        "distribution",
        "mocogan_tf/gans/base.py",
        ("tests/distribution/test_replicas.py::test_two_replicas_make_the_step_of_one_on_the_whole_batch",),
        (
            "the loss is not divided by the replicas",
            "scale_loss(loss / tf.distribute.get_strategy().num_replicas_in_sync)",
            "scale_loss(loss)",
        ),
    ),
    *_of(
        "loop",
        LOOP,
        _in(
            PARTS,
            "test_scores_are_of_the_runs_configuration_clips_and_seed",
            "test_a_runs_clips_are_slower_than_the_videos_by_the_frames_left_out",
            "test_deterministic_makes_tensorflow_deterministic",
            "test_the_exit_code_tells_what_ended_a_run",
        ),
        (
            "scores are of another configuration",
            "config, videos = compared(run.config, frame_stride), run.videos",
            "config, videos = run.config, run.videos",
        ),
        ("scores are of another seed", "Monitor(config, videos, seed=config.seed)", "Monitor(config, videos, seed=0)"),
        ("--deterministic does nothing", "    if config.deterministic:\n", "    if False:\n"),
        ("fps forgets every_nth", "return self.videos.fps / self.config.every_nth", "return self.videos.fps"),
        ("Ctrl-C ends with 0", "signal.SIGINT: 130,", "signal.SIGINT: 0,"),
    ),
    *_of(
        "pipeline",
        "mocogan_tf/data/pipeline.py",
        _in("tests/training/test_loop.py", "test_no_thread_of_tensorflow_tunes_the_batches"),
        ("an end waits for TensorFlow's tuner", "options.autotune.enabled = False", "options.autotune.enabled = True"),
    ),
    *_of(
        "loop",
        LOOP,
        _in("tests/training/test_loop.py", "test_no_thread_of_tensorflow_tunes_the_batches"),
        (
            "a strategy's iterator has a tuner of its own",
            "rows(one.input_pipeline_id, 1), options)",
            "rows(one.input_pipeline_id, 1))",
        ),
    ),
    *_of(
        "options that do nothing",
        "mocogan_tf/config.py",
        _in(
            "tests/test_config.py",
            "test_a_value_that_does_nothing_is_refused_where_it_was_asked_for_and_elsewhere_becomes_the_default",
            "test_a_value_that_does_something_is_kept",
            "test_a_flag_that_leaves_a_profiles_values_idle_needs_no_other_flag",
            "test_a_run_whose_file_holds_idle_values_is_read_and_goes_on",
        ),
        ("a flag of them is taken", "if asked is None or name in asked:", "if asked is None:"),
        ("a profile's are refused", "if asked is None or name in asked:", "if True:"),
        ("an old file's are refused", "return cls(**values, asked=())", "return cls(**values)"),
        (
            "clips without labels refuse a profile's category_to",
            "category_loss=loss, asked=())",
            "category_loss=loss)",
        ),
        ("a mask without weight has steps", '"still_background", "mask_weight")', '"still_background",)'),
        ("VGAN has no mask", "if set(names) <= there and not", "if not"),
    ),
    *_of(
        "resume",
        "mocogan_tf/config.py",
        _in(PARTS, "test_a_run_goes_on_only_with_what_decides_its_method_unchanged"),
        (
            "another learning rate goes on",
            '        "steps",\n        "data_dir",',
            '        "steps",\n        "learning_rate",\n        "data_dir",',
        ),
    ),
    *_of(
        "callbacks",
        CALLBACKS,
        _in(
            PARTS,
            "test_samples_are_of_the_averaged_generator_and_of_the_same_latents_each_time",
            "test_the_pace_counts_clips_of_all_steps_since_the_last_line",
            "test_a_run_that_goes_on_cuts_tensorboards_curves_at_its_checkpoint",
        ),
        (
            "samples are of the raw generator",
            "sampling.overview(self.model.sampler,",
            "sampling.overview(self.model.generator,",
        ),
        (
            "samples are of other latents each time",
            "self.video_length, seed=self.seed)",
            "self.video_length, seed=step)",
        ),
        ("clips_per_second is steps", "round(self.clips_per_step / seconds, 2)", "round(1 / seconds, 2)"),
        ("TensorBoard is not cut", "        _drop_events_after(folder, start_step)\n", ""),
    ),
    *_of(
        "callbacks",
        "mocogan_tf/training/stopping.py",
        ("tests/test_commands.py::test_ctrl_c_is_answered_while_it_saves_and_a_second_one_ends_at_once_without_harm",),
        (
            "a second Ctrl-C waits for the save",
            "                os._exit(128 + signal.SIGINT)\n",
            "                continue\n",
        ),
    ),
    *_of(
        "devices",
        "mocogan_tf/distribution/devices.py",
        ("tests/distribution/test_devices.py",),
        (
            "auto takes the other profile",
            '    if gpus:\n        print(f"profile',
            '    if not gpus:\n        print(f"profile',
        ),
        (
            "any CPU computes in bfloat16",
            '"mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & flags else',
            '"mixed_bfloat16" if flags else',
        ),
        ("the fastest GPU decides", "        capability = min(\n", "        capability = max(\n"),
    ),
    *_of(
        "sample",
        SAMPLE,
        (SAMPLE_TESTS,),
        ("long is short", '(4 if FLAGS.mode == "long" else 1)', '(1 if FLAGS.mode == "long" else 1)'),
        (
            "interpolate is random",
            "functools.partial(sampling.interpolation_latents, generator, number, seed=FLAGS.seed)",
            "functools.partial(sampling.random_latents, generator, number, seed=FLAGS.seed)",
        ),
    ),
    *_of(
        "sample",
        "mocogan_tf/sampling.py",
        (SAMPLE_TESTS,),
        (
            "the last category is missing",
            "np.tile(np.eye(spec.dim_category, dtype=np.float32), (num_contents, 1))",
            "np.tile(np.eye(spec.dim_category, dtype=np.float32)[np.arange(spec.dim_category) - 1], (num_contents, 1))",
        ),
        (
            "the great circle is a line",
            '"content": slerp(start, end, share)}',
            '"content": ((1 - share) * start + share * end).astype(np.float32)}',
        ),
    ),
    *_of(
        "commands",
        "mocogan_tf/commands/train.py",
        (SAMPLE_TESTS,),
        (
            "a baseline writes into MoCoGAN's folder",
            'kind = [] if config.model == "mocogan" else [config.model]',
            "kind: list[str] = []",
        ),
    ),
    *_of(
        "warnings",
        "mocogan_tf/training/warnings.py",
        _in(PARTS, "test_warnings_come_at_the_documented_numbers"),
        ("the window", "WINDOW = 500", "WINDOW = 5000"),
        ("the first step", "EARLY = 1000", "EARLY = 10"),
        ("when a discriminator has won", "WON = (0.02, 0.995)", "WON = (0.05, 0.95)"),
        ("when it is blind", "BLIND = (1.35, 0.55)", "BLIND = (1.2, 0.6)"),
        ("mode collapse", "FEW = 0.25", "FEW = 0.1"),
        ("flicker", "STILL, FLICKER = 0.1, 4.0", "STILL, FLICKER = 0.1, 8.0"),
    ),
    *_of(
        "prepare",
        "mocogan_tf/data/shards/prepare.py",
        ("tests/data/shards/test_prepare.py::test_mixed_frame_rates_are_said_and_the_proposed_rate_makes_them_one",),
        ("the highest rate is that of the set", "float(np.median(rates))", "float(np.max(rates))"),
    ),
    *_of(
        "taichi",
        "mocogan_tf/data/rendered/taichi_motion.py",
        ("tests/data/rendered/test_taichi.py::test_each_form_moves_as_its_name_says",),
        (
            "two forms are swapped",
            '"cloud_hands": _cloud_hands(),\n    "wild_horse": _wild_horse(),',
            '"cloud_hands": _wild_horse(),\n    "wild_horse": _cloud_hands(),',
        ),
        (
            "two other forms are swapped",
            '"raise_hands": _raise_hands(),',
            '"raise_hands": _snake_creeps_down(),',
        ),
    ),
    *_of(
        "proof",
        PROOF,
        ("tests/export/test_tolerances.py",),
        ("floats may differ by more", "FLOAT_LIMIT = 1e-4", "FLOAT_LIMIT = 1.1e-4"),
        ("floats may differ by less", "FLOAT_LIMIT = 1e-4", "FLOAT_LIMIT = 0.9e-4"),
        (
            "half floats may differ by more",
            "HALF_LIMIT, HALF_PSNR = 2e-2, 40.0",
            "HALF_LIMIT, HALF_PSNR = 2.2e-2, 40.0",
        ),
        (
            "half floats may differ more often",
            "HALF_LIMIT, HALF_PSNR = 2e-2, 40.0",
            "HALF_LIMIT, HALF_PSNR = 2e-2, 39.0",
        ),
        ("pixels may differ by two levels", "PIXEL_LIMIT = 1 ", "PIXEL_LIMIT = 2 "),
        ("states may differ by more", "STATE_LIMIT = 1e-5", "STATE_LIMIT = 1.1e-5"),
        ("latents may differ by more", "LATENT_LIMIT = 1e-6", "LATENT_LIMIT = 1.2e-6"),
    ),
    *_of(
        "export",
        PROOF,
        ("tests/export/test_tolerances.py",),
        ("floats may differ ten times as much", "FLOAT_LIMIT = 1e-4", "FLOAT_LIMIT = 1e-3"),
        (
            "half floats may differ five times as much",
            "HALF_LIMIT, HALF_PSNR = 2e-2, 40.0",
            "HALF_LIMIT, HALF_PSNR = 1e-1, 40.0",
        ),
        ("half floats need less likeness", "HALF_LIMIT, HALF_PSNR = 2e-2, 40.0", "HALF_LIMIT, HALF_PSNR = 2e-2, 38.0"),
        ("pixels may differ by ten levels", "PIXEL_LIMIT = 1  #", "PIXEL_LIMIT = 10  #"),
        ("states may differ fifty times as much", "STATE_LIMIT = 1e-5", "STATE_LIMIT = 5e-4"),
    ),
    *_of(
        "export",
        "export/onnx_model.py",
        ("tests/export/test_code_models.py::test_tgans_normalisation_is_folded_with_its_own_epsilon",),
        ("TGAN's epsilon", "np.sqrt(variance + norm.epsilon)", "np.sqrt(variance + 1e-3)"),
    ),
    *_of(
        "engine",
        "serving/runtime/options.py",
        ("tests/serving/runtime/test_golden.py",),
        ("the golden tolerance", '("cpu", "float32"): (1e-3, 1e-3),', '("cpu", "float32"): (1e-1, 1e-1),'),
        ("the quota of CPUs is ignored", "cpus = min(cpus, max(1, round(int(quota) / int(period))))", "pass"),
    ),
    *_of(
        "engine",
        ENGINE,
        ("tests/serving/runtime/test_golden.py",),
        ("golden states are not compared", "if not difference <= STATE_TOLERANCE:", "if False:"),
    ),
    *_of(
        "stream",
        STREAM,
        _in(
            "tests/serving/protocols/test_stream.py",
            "test_motion_goes_on_under_another_seed_or_strength_from_the_state_that_it_has",
            "test_chunks_come_one_ahead_at_the_speed_that_was_asked_for_last",
            "test_a_client_that_was_late_gets_no_burst",
            "test_a_pause_stops_the_frames_and_what_was_changed_meanwhile_is_seen_after_it",
            "test_a_walk_draws_rarely_and_not_on_the_event_loop",
        ),
        (
            "noise is drawn for each chunk",
            "number = max(frames, NOISE_VALUES // self.bundle.latents.dim_motion)",
            "number = frames",
        ),
        ("noise of the old seed is used up", "self._noise_used = len(self._noise)", "pass"),
        (
            "another motion_seed is ignored",
            "self.motion_seed = self.motion_seed if change.motion_seed is None else change.motion_seed",
            "pass",
        ),
        (
            "another motion_scale is ignored",
            "self.motion_scale = self.motion_scale if change.motion_scale is None else change.motion_scale",
            "pass",
        ),
        (
            "motion_scale does nothing",
            "self._take_noise(frames) * np.float32(self.motion_scale)",
            "self._take_noise(frames)",
        ),
        ("another fps is ignored", "self.fps = self.fps if change.fps is None else change.fps", "pass"),
        ("fps does nothing", "seconds = len(frames) / self.walk.fps", "seconds = len(frames) / 8.0"),
        ("pause does nothing", "self.running.clear() if pause else self.running.set()", "self.running.set()"),
        (
            "frames that are late come in a burst",
            "due = max(due, time.monotonic() - seconds) + seconds",
            "due = due + seconds",
        ),
    ),
    *_of(
        "stream",
        STREAM,
        _in(LIMITS, "test_a_stream_that_finds_no_place_is_told_so_before_it_begins"),
        (
            "one stream too many",
            "if everybody >= limits.max_streams:",
            "if everybody > limits.max_streams:",
        ),
    ),
    *_of(
        "fields",
        NATIVE,
        _in(
            "tests/serving/protocols/test_native.py", "test_a_blend_lies_on_the_great_circle_and_a_strength_is_a_factor"
        ),
        (
            "blends are straight",
            "slerp(value, other, self.amount)",
            "((1 - self.amount) * value + self.amount * other).astype(np.float32)",
        ),
        (
            "content_scale is dead",
            "given(f.CONTENT_SEED_TO), fields.get(f.CONTENT_SCALE)",
            "given(f.CONTENT_SEED_TO), 1.0",
        ),
    ),
    *_of(
        "encode",
        "mocogan_tf/video.py",
        _in("tests/serving/protocols/test_native.py", "test_a_gif_is_no_faster_than_browsers_play_it"),
        ("GIF frames below 20 ms", 'max(20.0 if kind == "GIF" else 1.0, 1000.0 / fps)', "max(1.0, 1000.0 / fps)"),
    ),
    *_of(
        "encode",
        "serving/runtime/encode.py",
        _in("tests/serving/protocols/test_native.py", "test_every_format_is_told_by_its_type"),
        ("a sheet's type", '"sheet": Format("image/webp",', '"sheet": Format("image/png",'),
        ("npy's type", '"npy": Format("application/x-npy",', '"npy": Format("application/octet-stream",'),
    ),
    *_of(
        "limits",
        "serving/web/connections.py",
        (LIMITS,),
        (
            "headers may take longer",
            "HEADER_SECONDS, IDLE_SECONDS = 10.0, 75.0",
            "HEADER_SECONDS, IDLE_SECONDS = 80.0, 75.0",
        ),
        (
            "idle connections stay longer",
            "HEADER_SECONDS, IDLE_SECONDS = 10.0, 75.0",
            "HEADER_SECONDS, IDLE_SECONDS = 10.0, 1200.0",
        ),
        (
            "more room for health checks",
            "HEALTH_ROOM, HEALTH_SECONDS = 32, 2.0",
            "HEALTH_ROOM, HEALTH_SECONDS = 512, 2.0",
        ),
    ),
    *_of(
        "limits",
        "serving/web/connections.py",
        _in("tests/serving/abuse/test_connections.py", "test_a_header_has_few_lines"),
        ("headers have any number of lines", "HEADER_LINES = 128", "HEADER_LINES = 2**20"),
    ),
    *_of(
        "limits",
        "serving/web/connections.py",
        _in("tests/serving/abuse/test_connections.py", "test_bytes_that_cost_much_are_read_slowly"),
        (
            "bytes that cost much are read in long turns without rests",
            "READ_SHARE, MOMENT_SECONDS = 0.25, 5e-3",
            "READ_SHARE, MOMENT_SECONDS = 1e6, 5e-3\nTURN_SECONDS, FIRST_PIECE_BYTES = 10.0, 2**20",
        ),
    ),
    *_of(
        "limits",
        "serving/protocols/fields.py",
        _in("tests/serving/protocols/test_fields.py", "test_a_query_of_thousands_of_parameters_is_not_taken_apart"),
        (
            "queries have any number of parameters",
            'query.count(b"&") >= MAX_PARAMETERS',
            "not isinstance(query, bytes)",
        ),
    ),
    *_of(
        "limits",
        "serving/runtime/service.py",
        (LIMITS,),
        ("answers may be taken late", "write_seconds: float = 20.0", "write_seconds: float = 320.0"),
        ("bodies may come late", "body_seconds: float = 10.0", "body_seconds: float = 80.0"),
        ("answers that nobody takes", "max_unsent_bytes: int = 2**28", "max_unsent_bytes: int = 2**32"),
    ),
    *_of(
        "limits",
        "serving/web/http.py",
        (LIMITS,),
        ("Retry-After over HTTP", "str(round(error.retry_after))", '"1"'),
    ),
    *_of(
        "limits",
        "serving/web/server.py",
        _in("tests/serving/abuse/test_connections.py", "test_connections_that_are_answered_leave_room_for_health"),
        (
            "connections are unlimited",
            "Connections(descriptors_for(max_connections), max_connections_per_address)",
            "Connections(10**6, 10**6)",
        ),
    ),
    *_of(
        "/v2",
        OPEN_INFERENCE,
        _in(
            "tests/serving/protocols/test_protocols.py",
            "test_oip_outputs_as_bytes_and_as_numbers_are_the_clip",
            "test_oip_one_word_asks_for_all_outputs_as_bytes",
        ),
        (
            "pixels are wrong",
            "            array = to_uint8(clip.video)\n",
            "            array = to_uint8(clip.video) // 2\n",
        ),
        ("tensors come in another order", "parts.append(raw)", "parts.insert(0, raw)"),
        ("a word for all outputs is ignored", '_parameters(document).get("binary_data_output", False)', "False"),
    ),
    *_of(
        "pictures",
        "mocogan_tf/models/generator.py",
        _in(PICTURES, "test_the_first_frame_has_the_pictures_pose_which_noise_varies_and_the_gru_goes_on_from_there"),
        (
            "the state is not counted from the pose",
            'name="pose_end")([end, pose])',
            'name="pose_end")([end, 0 * pose])',
        ),
        ("the pose is forgotten", 'name="pose_start")([start, pose])', 'name="pose_start")([start, 0 * pose])'),
        (
            "the first frame shows the state after a step",
            "ops.concatenate([ops.expand_dims(start, 1), states[:, :-1]], axis=1)",
            "states",
        ),
    ),
    *_of(
        "pictures",
        "mocogan_tf/gans/mocogan.py",
        ("tests/gans/test_image_to_video.py",),
        ("pairs are the same frame twice", "tf.concat([tf.zeros_like(other), other]", "tf.concat([other, other]"),
        (
            "a pair has the first frame's pose",
            "encoder(other, training=True)[:, None]",
            "encoder(first, training=True)[:, None]",
        ),
        (
            "the generator learns its poses from the encoder",
            "ops.stop_gradient(ops.reshape(images",
            "(ops.reshape(images",
        ),
    ),
    *_of(
        "pictures",
        "mocogan_tf/models/encoder.py",
        _in(PICTURES, "test_the_first_layer_sees_a_part_of_the_code_and_all_of_it_scales_channels"),
        (
            "the first layer sees the whole code",
            "codes[:, : min(DIM_COARSE, self.dim_code)]",
            "codes[:, : self.dim_code]",
        ),
    ),
    *_of(
        "seeds",
        "mocogan_tf/latents.py",
        _in("tests/test_latents.py", "test_the_seeds_of_the_page_draw_what_stands_there"),
        (
            "the cosine comes second",
            "[radius * np.cos(angle), radius * np.sin(angle)]",
            "[radius * np.sin(angle), radius * np.cos(angle)]",
        ),
        (
            "another word is the category",
            "chosen = _words(seed, STREAM_CATEGORY, clips, 0, 1)[:, 0, 0]",
            "chosen = _words(seed, STREAM_CATEGORY, clips, 0, 1)[:, 0, 1]",
        ),
    ),
    *_of(
        "pictures",
        "mocogan_tf/latents.py",
        _in("tests/test_latents.py", "test_a_seed_chooses_a_content_by_the_first_word_of_its_stream"),
        (
            "another word chooses",
            "words = _words(content_seed, STREAM_CONTENT, clips, 0, 1)[:, 0, 0]",
            "words = _words(content_seed, STREAM_CONTENT, clips, 0, 1)[:, 0, 1]",
        ),
    ),
    *_of(
        "pictures",
        "mocogan_tf/gans/mocogan.py",
        _in(
            "tests/gans/test_image_to_video.py",
            "test_every_second_clip_keeps_the_category_of_its_picture_and_the_others_are_drawn",
            "test_the_difference_is_of_first_frames_and_pictures_of_their_size",
            "test_of_single_frames_first_ones_count_over_the_number_to_be_expected",
        ),
        ("all clips keep their category", "tf.where(own[:, None], of_labels, category)", "of_labels"),
        ("the last frame is compared", "ops.abs(fakes[:, 0] - wanted)", "ops.abs(fakes[:, -1] - wanted)"),
        ("single frames count whatever they are", "ops.where(ops.equal(frame, 0), differences, 0.0)", "differences"),
    ),
    *_of(
        "pictures",
        "mocogan_tf/data/pictures.py",
        _in("tests/data/test_pictures.py"),
        ("other splits are not looked at", "if other is not None and not set", "if other is None and not set"),
        ("training clips pass for others", "number), held_out=False)", "number), held_out=True)"),
    ),
    *_of(
        "pictures",
        "mocogan_tf/data/datasets.py",
        _in("tests/data/test_pictures.py"),
        ("the people are those of training", "PICTURE_SEED = 1", "PICTURE_SEED = 0"),
    ),
    *_of(
        "pictures",
        "mocogan_tf/metrics/animation.py",
        _in("tests/metrics/test_animation.py"),
        ("the nearest may be of any class", "closer &= clips.labels == videos.labels[i]", "pass"),
        (
            "the last frame is scored",
            "np.abs(frames[:, 0].astype(np.float64)",
            "np.abs(frames[:, -1].astype(np.float64)",
        ),
    ),
    *_of(
        "pictures",
        SAMPLE,
        (SAMPLE_TESTS,),
        (
            "the grid lacks the pictures",
            "if pictures is None:\n        return video.grid",
            "if True:\n        return video.grid",
        ),
        ("all pictures of a run are animated", "generator.pictures[: FLAGS.num_videos]", "generator.pictures"),
    ),
    *_of(
        "pictures",
        "mocogan_tf/pictures.py",
        ("tests/test_pictures.py",),
        (
            "pixels are counted once they are decoded",
            "    width, height = image.size\n    if width * height",
            "    image.load()\n    width, height = image.size\n    if width * height",
        ),
        ("parts are counted by nobody", "        if total > MAX_PARTS:", "        if False:"),
        ("EXIF is ignored", "turn = _UPRIGHT.get(_orientation(image))", "turn = None"),
        ("EXIF's quarter turns are exchanged", "6: Image.Transpose.ROTATE_270,", "6: Image.Transpose.ROTATE_90,"),
        (
            "what is transparent is black",
            'Image.new("RGBA", image.size, "white")',
            'Image.new("RGBA", image.size, "black")',
        ),
        (
            "the upper left square is taken",
            "left, top = (image.width - side) // 2, (image.height - side) // 2",
            "left, top = 0, 0",
        ),
        ("the whole is squeezed into a square", "image = image.crop((left, top, left + side, top + side))", "pass"),
        ("16 bit become white", "astype(np.int64) >> 8).clip", "astype(np.int64)).clip"),
        ("what moves is always taken", "if moves and not of_moving:", "if False:"),
        ("nothing says that it is the first frame", 'f"first frame, {said}" if moves else said', "said"),
        ("a photo with further pictures moves", 'image.format != "MPO" and getattr', "getattr"),
        (
            "damage is overlooked",
            "    except Exception as error:\n        raise _damaged(error) from error\n    pixels",
            "    except Exception:\n        pass\n    pixels",
        ),
    ),
    *_of(
        "pictures",
        SAMPLE,
        _in(
            SAMPLE_TESTS,
            "test_animate_reads_a_picture_as_the_server_does",
            "test_animate_takes_the_first_frame_of_what_moves_and_says_so",
            "test_a_grey_model_animates_a_grey_picture",
        ),
        ("sample.py refuses what moves", ", of_moving=True)", ")"),
        ("sample.py does not say that it takes a film's first frame", 'said = f"first frame, {said}"', "pass"),
        (
            "a grey model gets colours",
            "read_picture(path, config.image_size, config.channels,",
            "read_picture(path, config.image_size, 3,",
        ),
        ("films are read as pictures", "    if of_video is None:\n", "    if True:\n"),
    ),
    *_of(
        "pictures",
        "mocogan_tf/sampling.py",
        (SAMPLE_TESTS,),
        (
            "the category of animated clips is ignored",
            "    if category is not None:\n        latents[",
            "    if False:\n        latents[",
        ),
        (
            "rows are motions and columns pictures",
            '"content": contents[row],',
            '"content": contents[column % num_contents],',
        ),
    ),
    *_of(
        "pictures",
        "mocogan_tf/models/generator.py",
        _in(
            PICTURES,
            "test_the_encoder_is_given_pixels_in_the_range_of_clips",
            "test_a_picture_is_encoded_alike_alone_and_among_many",
        ),
        ("pixels are encoded in [0, 1]", "batch.astype(np.float32) / 127.5 - 1.0", "batch.astype(np.float32) / 255.0"),
        (
            "the first pictures are encoded again and again",
            "pictures[i : i + ENCODE_BATCH]",
            "pictures[:ENCODE_BATCH][: len(pictures) - i]",
        ),
    ),
    *_of(
        "pictures",
        "export/saved_model.py",
        _in("tests/export/test_seeded.py", "test_every_seed_chooses_the_picture_it_chooses_elsewhere")
        + _in(
            "tests/export/test_image_to_video.py",
            "test_the_clips_of_a_request_that_proves_a_signature_have_different_pictures",
        ),
        (
            "a seed of the SavedModel always chooses picture 0",
            '["content"][:, 0] % len(contents))',
            '["content"][:, 0] * 0)',
        ),
        (
            "the proof animates one picture",
            "pictures.pictures[np.arange(seed, seed + num_videos) % len(pictures.pictures)]",
            "pictures.pictures[[0] * num_videos]",
        ),
    ),
    *_of(
        "pictures",
        "export/saved_model.py",
        _in("tests/export/test_image_to_video.py", "test_the_signature_animate_gives_each_clip_its_own_picture"),
        (
            "animate takes the first picture for all clips",
            "return _in_form(contract, generator(latents,",
            'latents["content"] = latents["content"][:1] + 0 * latents["motion_init"][:, :1]\n        '
            "return _in_form(contract, generator(latents,",
        ),
    ),
    *_of(
        "pictures",
        "export/write.py",
        _in(
            "tests/export/test_image_to_video.py",
            "test_contents_hold_sixteen_pictures_and_what_the_encoder_makes_of_each",
        ),
        (
            "contents.npz holds all pictures of a generator",
            "pictures = generator.pictures[:NUM_PICTURES]",
            "pictures = generator.pictures",
        ),
        (
            "contents.npz holds the contents of other pictures",
            "contents = generator.encode(pictures)",
            "contents = generator.encode(pictures[::-1])",
        ),
    ),
    *_of(
        "pictures",
        PROOF,
        _in("tests/export/test_image_to_video.py", "test_an_encoder_and_contents_that_do_not_fit_are_found"),
        ("contents.npz is not compared", 'encode.onnx", self.pictures.contents, made)', 'encode.onnx", made, made)'),
        ("encode.onnx is not compared", "made, self._encoded(images))", "made, made)"),
    ),
    *_of(
        "pictures",
        "export/onnx_model.py",
        _in("tests/export/test_image_to_video.py", "test_onnx_makes_of_a_picture_what_keras_makes"),
        ("a file's state is not counted from the pose", '[("Sub", "motion/pose"), *last]', "last"),
        (
            "a file's pose begins at the code's first number",
            '"starts": layout.dim_code, "ends": layout.size,',
            '"starts": 0, "ends": layout.dim_motion,',
        ),
    ),
    *_of(
        "pictures",
        ENGINE,
        _in(
            SERVED_PICTURES,
            "test_a_picture_is_animated_and_the_answer_says_what_was_done_to_it",
            "test_a_bundle_whose_contents_are_wrong_is_refused",
        ),
        (
            "the server encodes pixels in [0, 1]",
            '{"image": from_uint8(pictures)}',
            '{"image": (pictures / 255).astype(np.float32)}',
        ),
        ("contents are not compared with what the encoder makes", "            self._check_encoder()\n", ""),
    ),
    *_of(
        "pictures",
        NATIVE,
        _in(
            SERVED_PICTURES,
            "test_without_a_picture_a_seed_chooses_one_of_the_bundles_own",
            "test_a_grid_shows_one_picture_with_every_motion",
            "test_contents_of_pictures_blend_in_a_straight_line",
            "test_what_is_refused_says_why_in_one_line",
        ),
        ("a seed's picture is counted from 0", "number {first + 1} of", "number {first} of"),
        ("first_clip chooses no other picture", "1, number, self.first_clip)[0]", "1, number)[0]"),
        (
            "all columns of a picture have the first one's category",
            "motion_seed=motion_seed, category=category)\n            columns",
            "motion_seed=motion_seed, category=self.categories[0])\n            columns",
        ),
        ("pictures mix on the great circle", "content_scale, from_pictures),", "content_scale),"),
        (
            "a picture may come with a seed's",
            'if picture is not None and (content_seed is not None or "content" in given):',
            "if False:",
        ),
    ),
    *_of(
        "pictures",
        "serving/protocols/pictures.py",
        _in(
            SERVED_PICTURES,
            "test_what_is_refused_says_why_in_one_line",
            "test_encode_takes_images_only",
            "test_pictures_of_the_bundle_can_be_looked_at",
        ),
        ("the server takes as many pixels as sample.py", "max_pixels=MAX_PIXELS)", ")"),
        ("any model takes pictures", "    if bundle.pictures is None:\n", "    if False:\n"),
        ("/v1/encode takes any type", 'if not kind.startswith("image/"):', "if False:"),
        ("/v1/pictures puts pictures below each other", "bundle.pictures[None]", "bundle.pictures[:, None]"),
    ),
    *_of(
        "pictures",
        STREAM,
        _in(
            SERVED_PICTURES,
            "test_a_stream_goes_on_where_a_clip_of_the_picture_ends",
            "test_a_stream_that_turns_to_another_picture_moves_on",
        ),
        (
            "a stream shows the seed's picture",
            'first["content"][0] if self.given_content is None else self.given_content',
            'first["content"][0]',
        ),
        (
            "a stream's motion jumps to the next picture's pose",
            '{"content": self.begun_with[None],',
            '{"content": contents[-1:],',
        ),
    ),
    *_of(
        "inversion",
        "mocogan_tf/inversion.py",
        ("tests/test_inversion.py",),
        (
            "the other clip's content stays",
            '{**latents, "content": search.all(contents)["content"]}',
            '{**search.all(contents), "content": latents["content"]}',
        ),
        ("nothing moves", "self.optimizer.apply(tape.gradient(loss, self.moved), self.moved)", "pass"),
        (
            "a given category is overruled",
            "if category is not None:\n            again",
            "if False:\n            again",
        ),
        ("the worst category is taken", "return one_hot[np.argmin([", "return one_hot[np.argmax(["),
    ),
    *_of(
        "given clips",
        "mocogan_tf/data/sources/fitting.py",
        ("tests/data/test_pictures.py",),
        ("all frames are taken at any rate", "fps=fps, source_fps=fps", "source_fps=fps"),
    ),
]
