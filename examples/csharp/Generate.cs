// Generates clips from an exported MoCoGAN with ONNX Runtime for .NET.
//
//     dotnet run -- MODEL SEED FRAMES OUT
//
// OUT ends in .rgb (raw uint8 [frames, height, width, 3]) or in .f32 (the model's own float32 values [frames, height,
// width, channels]).
//
// The program reads everything about the model from the file itself. It makes a clip longer than the training clips
// piece by piece: the motion's last state becomes the next piece's first. So any length takes the memory of one piece.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Microsoft.ML.OnnxRuntime;

/// <summary>An error that the user can mend: printed as one line, without a trace.</summary>
internal sealed class RefusedException : Exception
{
    public RefusedException(string message) : base(message) { }
}

/// <summary>What the file says about itself: sizes, names, and how its output becomes pixels.</summary>
internal sealed class Contract
{
    private const string FormatVersion = "1"; // The version of the contract that this program reads.

    public readonly string Name;
    public readonly int DimContent, DimCategory, DimMotion; // DimCategory 0: there is no `category` input.
    public readonly string[] Categories;
    public readonly int Height, Width, Channels;
    public readonly int VideoLength; // Frames of the training clips, and of a piece here.
    public readonly double Fps;
    private readonly float shift, scale; // pixel = clip(round((x + shift) * scale), 0, 255)

    public Contract(InferenceSession session, string path)
    {
        Dictionary<string, string> found = session.ModelMetadata.CustomMetadataMap;
        if (!found.TryGetValue("format_version", out string version))
        {
            throw new RefusedException(
                $"{path} has no contract in its metadata_props (no `format_version`): not a file of " +
                "`python -m export`, or a converter dropped them.");
        }
        if (version != FormatVersion)
        {
            throw new RefusedException(
                $"{path} has contract version {version}, this program reads {FormatVersion}: export the model again, " +
                "or take the example that came with it.");
        }
        Func<string, string> read = key => found.TryGetValue(key, out string value)
            ? value
            : throw new RefusedException($"{path} has no `{key}` in its metadata_props.");
        Func<string, int> count = key =>
            int.TryParse(read(key), NumberStyles.None, CultureInfo.InvariantCulture, out int value) &&
            value >= (key == "dim_category" ? 0 : 1) && value <= 999999
                ? value
                : throw new RefusedException($"{path} has no usable `{key}`: {read(key)}");

        Name = read("name");
        (DimContent, DimCategory, DimMotion) = (count("dim_content"), count("dim_category"), count("dim_motion"));
        (Height, Width, Channels) = (count("height"), count("width"), count("channels"));
        VideoLength = count("video_length");
        Fps = double.Parse(read("fps"), CultureInfo.InvariantCulture);
        // A JSON list of strings.
        Categories = Regex.Matches(read("categories"), "\"((?:[^\"\\\\]|\\\\.)*)\"").Cast<Match>()
            .Select(match => match.Groups[1].Value).ToArray();
        Match rule = Regex.Match(read("postprocess"), @"^uint8 = clip\(round\(\(x \+ (\S+)\) \* (\S+)\), 0, 255\)$");
        if (!rule.Success)
        {
            throw new RefusedException($"This program does not know how to make pixels by `{read("postprocess")}`.");
        }
        shift = float.Parse(rule.Groups[1].Value, CultureInfo.InvariantCulture);
        scale = float.Parse(rule.Groups[2].Value, CultureInfo.InvariantCulture);
    }

    /// <summary>Turns the model's values into RGB. A grey model gives three equal channels.</summary>
    public byte[] ToPixels(float[] video)
    {
        var pixels = new byte[video.Length / Channels * 3];
        for (int i = 0; i < pixels.Length; i++)
        {
            float x = video[i / 3 * Channels + Math.Min(i % 3, Channels - 1)];
            double level = Math.Round((x + shift) * scale); // Halves to even, as .NET rounds.
            pixels[i] = (byte)Math.Min(Math.Max(level, 0), 255);
        }
        return pixels;
    }

    public int DrawCategory(ulong seed) =>
        (int)(Draw.Philox4x32(0, Draw.Category, seed)[0] % (uint)DimCategory);
}

/// <summary>What a seed means.</summary>
internal static class Draw
{
    public const uint Content = 0, MotionInit = 1, MotionNoise = 2, Category = 3; // Streams.

    /// <summary>
    /// Philox4x32-10 (Salmon et al., SC 2011): four random words of a block. Counter: block (low, high word), stream,
    /// clip (always number 0 here). Key: the seed's low and high word.
    /// </summary>
    public static uint[] Philox4x32(ulong block, uint stream, ulong seed)
    {
        unchecked
        {
            uint c0 = (uint)block, c1 = (uint)(block >> 32), c2 = stream, c3 = 0;
            uint k0 = (uint)seed, k1 = (uint)(seed >> 32);
            for (int round = 0; round < 10; round++)
            {
                ulong p0 = 0xD2511F53UL * c0, p1 = 0xCD9E8D57UL * c2;
                (c0, c1, c2, c3) = ((uint)(p1 >> 32) ^ c1 ^ k0, (uint)p1, (uint)(p0 >> 32) ^ c3 ^ k1, (uint)p0);
                k0 += 0x9E3779B9;
                k1 += 0xBB67AE85;
            }
            return new[] { c0, c1, c2, c3 };
        }
    }

    /// <summary>An endless stream of standard normals (Box and Muller: two words give two normals).</summary>
    public static IEnumerable<float> Normals(ulong seed, uint stream)
    {
        for (ulong block = 0; ; block++)
        {
            uint[] words = Philox4x32(block, stream, seed);
            for (int pair = 0; pair < 4; pair += 2)
            {
                double u = (words[pair] + 0.5) / 4294967296.0, v = (words[pair + 1] + 0.5) / 4294967296.0;
                double radius = Math.Sqrt(-2 * Math.Log(u)), angle = 2 * Math.PI * v;
                yield return (float)(radius * Math.Cos(angle));
                yield return (float)(radius * Math.Sin(angle));
            }
        }
    }

    public static float[] Take(this IEnumerator<float> stream, int count)
    {
        var values = new float[count];
        for (int i = 0; i < count; i++)
        {
            stream.MoveNext();
            values[i] = stream.Current;
        }
        return values;
    }
}

internal static class Generate
{
    /// <summary>Yields a clip's pieces, [count, height, width, channels] each, until there are enough frames.</summary>
    private static IEnumerable<float[]> Pieces(InferenceSession session, Contract contract, ulong seed, int frames)
    {
        float[] content = Draw.Normals(seed, Draw.Content).GetEnumerator().Take(contract.DimContent);
        float[] state = Draw.Normals(seed, Draw.MotionInit).GetEnumerator().Take(contract.DimMotion);
        IEnumerator<float> noises = Draw.Normals(seed, Draw.MotionNoise).GetEnumerator();
        for (int left = frames; left > 0; left -= contract.VideoLength)
        {
            int count = Math.Min(contract.VideoLength, left);
            var latents = new Dictionary<string, OrtValue>
            {
                ["content"] = Tensor(content, 1, contract.DimContent),
                ["motion_init"] = Tensor(state, 1, contract.DimMotion),
                ["motion_noise"] = Tensor(noises.Take(count * contract.DimMotion), 1, count, contract.DimMotion),
            };
            if (contract.DimCategory > 0)
            {
                var category = new float[contract.DimCategory];
                category[contract.DrawCategory(seed)] = 1;
                latents["category"] = Tensor(category, 1, contract.DimCategory);
            }
            float[] video;
            using (var options = new RunOptions())
            using (var outputs = session.Run(options, latents, new[] { "video", "motion_state" }))
            {
                video = outputs[0].GetTensorDataAsSpan<float>().ToArray();
                // The next piece begins where this one's motion ends. Content and category stay, so the same person
                // goes on.
                state = outputs[1].GetTensorDataAsSpan<float>().ToArray();
            }
            foreach (OrtValue latent in latents.Values) latent.Dispose();
            yield return video;
        }
    }

    private static OrtValue Tensor(float[] values, params long[] shape) =>
        OrtValue.CreateTensorValueFromMemory(values, shape);

    private static InferenceSession Load(string path)
    {
        byte[] bytes;
        try
        {
            bytes = File.ReadAllBytes(path);
        }
        catch (Exception error) when (error is FileNotFoundException || error is DirectoryNotFoundException)
        {
            throw new RefusedException($"No such file: {path}");
        }
        catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
        {
            throw new RefusedException($"Cannot read {path}: {error.Message}");
        }
        try
        {
            using (var options = new SessionOptions { LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR })
            {
                return new InferenceSession(bytes, options);
            }
        }
        catch (OnnxRuntimeException error)
        {
            throw new RefusedException($"{path} is no model that ONNX Runtime can load: {error.Message}");
        }
    }

    /// <summary>Refuses motion.onnx, frames.onnx and models of another kind.</summary>
    private static void CheckOutputs(InferenceSession session, string path)
    {
        IReadOnlyList<string> names = session.OutputNames;
        if (!names.Contains("video") || !names.Contains("motion_state"))
        {
            throw new RefusedException(
                $"{path} gives {string.Join(", ", names)}; needed are video and motion_state. " +
                "Take model.onnx: motion.onnx and frames.onnx are its halves.");
        }
    }

    private static ulong WholeNumber(string text, string name, ulong low, ulong high) =>
        // NumberStyles.None: digits and nothing else.
        ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong value) &&
        value >= low && value <= high
            ? value
            : throw new RefusedException($"{name} must be a whole number from {low} to {high}. Received: {text}");

    private static void Run(string[] arguments)
    {
        if (arguments.Length != 4) throw new RefusedException("usage: dotnet run -- MODEL SEED FRAMES OUT");
        string model = arguments[0], path = arguments[3];
        ulong seed = WholeNumber(arguments[1], "SEED", 0, ulong.MaxValue);
        int frames = (int)WholeNumber(arguments[2], "FRAMES", 1, int.MaxValue);
        string ending = Path.GetExtension(path);
        if (ending != ".rgb" && ending != ".f32")
        {
            throw new RefusedException($"OUT must end in .rgb or .f32. Received: {path}");
        }

        using (InferenceSession session = Load(model))
        {
            var contract = new Contract(session, model);
            CheckOutputs(session, model);
            using (FileStream file = File.Create(path))
            {
                foreach (float[] piece in Pieces(session, contract, seed, frames))
                {
                    byte[] bytes = ending == ".rgb" ? contract.ToPixels(piece) : ToBytes(piece);
                    file.Write(bytes, 0, bytes.Length);
                }
            }
            string shown = $"{contract.Name}: seed {seed}, {frames} frames of {contract.Width}x{contract.Height}, " +
                $"{contract.Fps.ToString(CultureInfo.InvariantCulture)} fps";
            if (contract.DimCategory > 0)
            {
                int category = contract.DrawCategory(seed);
                shown += $", category {category}";
                if (contract.Categories.Length > 0) shown += $" ({contract.Categories[category]})";
            }
            Console.WriteLine($"{shown} -> {path}");
        }
    }

    /// <summary>The values in the machine's byte order, which is little-endian nearly everywhere.</summary>
    private static byte[] ToBytes(float[] values)
    {
        var bytes = new byte[4 * values.Length];
        Buffer.BlockCopy(values, 0, bytes, 0, bytes.Length);
        return bytes;
    }

    private static int Main(string[] arguments)
    {
        try
        {
            Run(arguments);
            return 0;
        }
        catch (Exception error) when (
            error is RefusedException || error is OnnxRuntimeException || error is IOException ||
            error is UnauthorizedAccessException)
        {
            Console.Error.WriteLine("error: " + Regex.Replace(error.Message.Trim(), @"\s+", " "));
            return 1;
        }
    }
}
