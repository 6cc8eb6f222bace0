// The part of ONNX Runtime's .NET interface that the C# example uses, without the runtime: enough to compile it with
// Mono and to run it up to the point where a model would be loaded.

using System;
using System.Collections.Generic;

namespace Microsoft.ML.OnnxRuntime
{
    public enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 }

    public class OnnxRuntimeException : Exception { }

    public class SessionOptions : IDisposable
    {
        public OrtLoggingLevel LogSeverityLevel { get; set; }
        public void Dispose() { }
    }

    public class RunOptions : IDisposable
    {
        public void Dispose() { }
    }

    public class ModelMetadata
    {
        public Dictionary<string, string> CustomMetadataMap { get; } = new Dictionary<string, string>();
    }

    public class OrtValue : IDisposable
    {
        public static OrtValue CreateTensorValueFromMemory<T>(T[] data, long[] shape) where T : struct =>
            new OrtValue();
        public ReadOnlySpan<T> GetTensorDataAsSpan<T>() where T : struct => new ReadOnlySpan<T>();
        public void Dispose() { }
    }

    public interface IDisposableReadOnlyCollection<T> : IReadOnlyList<T>, IDisposable { }

    public class InferenceSession : IDisposable
    {
        public InferenceSession(byte[] model, SessionOptions options) { throw new OnnxRuntimeException(); }
        public ModelMetadata ModelMetadata { get; } = new ModelMetadata();
        public IReadOnlyList<string> OutputNames { get; } = new string[0];
        public IDisposableReadOnlyCollection<OrtValue> Run(
            RunOptions options,
            IReadOnlyDictionary<string, OrtValue> inputs,
            IReadOnlyCollection<string> outputs) => null;
        public void Dispose() { }
    }
}
