"""A SavedModel run through TensorFlow's C API: the C++ loader and session that TensorFlow Serving wraps.

`tf.saved_model.load` takes another path and accepts folders that no server can load, so it proves nothing about
serving. The library is the one inside the TensorFlow wheel.
"""

from __future__ import annotations

import ctypes
import pathlib
import sys
import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# TF_DataType of the types that cross a bundle's interface.
_TO_NUMPY = {1: np.float32, 3: np.int32, 4: np.uint8, 9: np.int64}
_FROM_NUMPY = {np.dtype(dtype): code for code, dtype in _TO_NUMPY.items()}
_STRING = 7
_STRING_BYTES = 24  # sizeof(TF_TString)


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p)]


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


# Name: result type, argument types. None is void, _P any pointer.
_P, _I, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "TF_NewStatus": (_P, []),
    "TF_DeleteStatus": (None, [_P]),
    "TF_GetCode": (_I, [_P]),
    "TF_Message": (_S, [_P]),
    "TF_NewSessionOptions": (_P, []),
    "TF_DeleteSessionOptions": (None, [_P]),
    "TF_NewGraph": (_P, []),
    "TF_DeleteGraph": (None, [_P]),
    "TF_NewBuffer": (ctypes.POINTER(_Buffer), []),
    "TF_DeleteBuffer": (None, [ctypes.POINTER(_Buffer)]),
    "TF_LoadSessionFromSavedModel": (_P, [_P, _P, _S, ctypes.POINTER(_S), _I, _P, ctypes.POINTER(_Buffer), _P]),
    "TF_CloseSession": (None, [_P, _P]),
    "TF_DeleteSession": (None, [_P, _P]),
    "TF_GraphOperationByName": (_P, [_P, _S]),
    "TF_AllocateTensor": (_P, [_I, ctypes.POINTER(ctypes.c_int64), _I, ctypes.c_size_t]),
    "TF_DeleteTensor": (None, [_P]),
    "TF_TensorData": (_P, [_P]),
    "TF_TensorByteSize": (ctypes.c_size_t, [_P]),
    "TF_TensorType": (_I, [_P]),
    "TF_NumDims": (_I, [_P]),
    "TF_Dim": (ctypes.c_int64, [_P, _I]),
    "TF_StringGetDataPointer": (_P, [_P]),
    "TF_StringGetSize": (ctypes.c_size_t, [_P]),
    "TF_SessionRun": (
        None,
        [_P, _P, ctypes.POINTER(_Output), ctypes.POINTER(_P), _I, ctypes.POINTER(_Output), ctypes.POINTER(_P), _I]
        + [_P, _I, _P, _P],
    ),
}


def _library() -> Any:
    import tensorflow as tf

    pattern = {"win32": "tensorflow_cc*.dll", "darwin": "libtensorflow_cc.*.dylib"}.get(
        sys.platform, "libtensorflow_cc.so.*"
    )
    folder = pathlib.Path(tf.__file__).parent
    found = sorted([*folder.glob(pattern), *(folder / "python").glob(pattern)])
    if not found:
        raise ValueError(f"This TensorFlow has no C library to check the SavedModel with: no {pattern} in {folder}.")
    library = ctypes.CDLL(str(found[0]))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """A loaded SavedModel.

    Args:
        folder: Of one version, with `saved_model.pb`.

    Raises:
        ValueError: TensorFlow refuses it; the message is TensorFlow's.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        from tensorflow.core.protobuf import meta_graph_pb2

        self._tf = _library()
        self._status = self._tf.TF_NewStatus()
        self._graph = self._tf.TF_NewGraph()
        options, meta = self._tf.TF_NewSessionOptions(), self._tf.TF_NewBuffer()
        try:
            self._session = self._tf.TF_LoadSessionFromSavedModel(
                options, None, str(folder).encode(), (_S * 1)(b"serve"), 1, self._graph, meta, self._status
            )
            self._check(f"cannot load {folder}")
            meta_graph = meta_graph_pb2.MetaGraphDef.FromString(
                ctypes.string_at(meta.contents.data, meta.contents.length)
            )
        except ValueError:
            self._session = None
            self.close()
            raise
        finally:
            self._tf.TF_DeleteSessionOptions(options)
            self._tf.TF_DeleteBuffer(meta)
        self.signatures = dict(meta_graph.signature_def)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the session and its graph."""
        if self._session:
            self._tf.TF_CloseSession(self._session, self._status)
            self._tf.TF_DeleteSession(self._session, self._status)
        self._session = None
        if self._graph:
            self._tf.TF_DeleteGraph(self._graph)
            self._tf.TF_DeleteStatus(self._status)
        self._graph = None

    def run(self, signature: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """Runs one signature.

        Args:
            signature: Its key.
            inputs: Arrays by the signature's input names.

        Returns:
            Arrays by the signature's output names; strings as arrays of `bytes`.

        Raises:
            ValueError: A name is unknown or missing, or TensorFlow reports an error.
        """
        if signature not in self.signatures:
            raise ValueError(f"No signature {signature!r}. There are: {', '.join(sorted(self.signatures))}.")
        described = self.signatures[signature]
        if set(inputs) != set(described.inputs):
            raise ValueError(f"{signature} takes {', '.join(sorted(described.inputs))}. Received: {', '.join(inputs)}")
        names = list(described.outputs)
        feeds = (_Output * len(inputs))(*(self._output(described.inputs[name].name) for name in inputs))
        fetches = (_Output * len(names))(*(self._output(described.outputs[name].name) for name in names))
        given = (_P * len(inputs))(*(self._to_tensor(value) for value in inputs.values()))
        taken = (_P * len(names))()
        try:
            self._tf.TF_SessionRun(
                self._session, None, feeds, given, len(inputs), fetches, taken, len(names), None, 0, None, self._status
            )
            self._check(f"signature {signature} fails")
            return {name: self._to_array(tensor) for name, tensor in zip(names, taken, strict=True)}
        finally:
            for tensor in [*given, *taken]:
                if tensor:
                    self._tf.TF_DeleteTensor(tensor)

    def _check(self, what: str) -> None:
        code = self._tf.TF_GetCode(self._status)
        if code:
            raise ValueError(f"TensorFlow's session {what}: {self._tf.TF_Message(self._status).decode()} (code {code})")

    def _output(self, tensor_name: str) -> _Output:
        operation, _, index = tensor_name.partition(":")
        found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise ValueError(f"The graph has no operation {operation}, which a signature names.")
        return _Output(found, int(index))

    def _to_tensor(self, value: Array) -> Any:
        value = np.ascontiguousarray(value)
        if value.dtype not in _FROM_NUMPY:
            raise ValueError(f"Cannot feed {value.dtype}. Known: {', '.join(map(str, _FROM_NUMPY))}.")
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        tensor = self._tf.TF_AllocateTensor(_FROM_NUMPY[value.dtype], shape, value.ndim, value.nbytes)
        ctypes.memmove(self._tf.TF_TensorData(tensor), value.ctypes.data, value.nbytes)
        return tensor

    def _to_array(self, tensor: Any) -> Array:
        shape = [self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))]
        kind, data = self._tf.TF_TensorType(tensor), self._tf.TF_TensorData(tensor)
        if kind == _STRING:
            return np.array(
                [self._string(data + i * _STRING_BYTES) for i in range(int(np.prod(shape)))], object
            ).reshape(shape)
        content = ctypes.string_at(data, self._tf.TF_TensorByteSize(tensor))
        return np.frombuffer(content, _TO_NUMPY[kind]).reshape(shape)

    def _string(self, address: int) -> bytes:
        return ctypes.string_at(self._tf.TF_StringGetDataPointer(address), self._tf.TF_StringGetSize(address))
