"""What a Ray Serve replica asks of its engine, without Ray."""

import importlib
import os
import sys
import types


def options_of(monkeypatch, bundle_dir, **given):
    """The engine's options of a replica, and the GPUs that it sees."""
    serve = types.ModuleType("ray.serve")
    serve.Application = object
    ray = types.ModuleType("ray")
    ray.serve = serve
    for name, module in (("ray", ray), ("ray.serve", serve), ("serving.ray_app", None)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "serving.ray_app")
    ray_app = importlib.import_module("serving.ray_app")

    asked = {}

    class Repository(ray_app.Repository):
        def __init__(self, sources, engine_options, **options):
            asked["options"] = engine_options
            super().__init__(sources, engine_options=engine_options, **options)

        def load(self):
            asked["gpus"] = os.environ.get("CUDA_VISIBLE_DEVICES")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(ray_app, "Repository", Repository)
    app = ray_app.make_app({**ray_app.DEFAULTS, "bundle": str(bundle_dir), **given})
    app.state.service.close()
    return asked["options"], asked["gpus"]


def test_a_replica_chooses_its_provider_as_the_server_does(monkeypatch, bundle_dir):
    options, gpus = options_of(monkeypatch, bundle_dir)
    assert (options.provider, options.precision, gpus) == ("auto", "auto", "")
    options, gpus = options_of(monkeypatch, bundle_dir, num_gpus=1.0)
    assert (options.provider, gpus) == ("auto", "0")
    options, _ = options_of(monkeypatch, bundle_dir, provider="cpu", precision="float32")
    assert (options.provider, options.precision) == ("cpu", "float32")
