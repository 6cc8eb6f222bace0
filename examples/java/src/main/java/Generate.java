// Generates clips from an exported MoCoGAN with ONNX Runtime for Java. Java 17.
//
//     java Generate MODEL SEED FRAMES OUT
//
// OUT ends in .rgb (raw uint8 [frames, height, width, 3]) or in .f32 (the model's own float32 values [frames, height,
// width, channels]).
//
// The program reads everything about the model from the file itself. It makes a clip longer than the training clips
// piece by piece: the motion's last state becomes the next piece's first. So any length takes the memory of one piece.

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public final class Generate {
    private static final String FORMAT_VERSION = "1"; // The version of the contract that this program reads.
    private static final int CONTENT = 0, MOTION_INIT = 1, MOTION_NOISE = 2, CATEGORY = 3; // Streams of a seed.

    /** What the file says about itself: sizes, names, and how its output becomes pixels. */
    private record Contract(
            String name,
            int dimContent,
            int dimCategory, // 0: there is no `category` input.
            int dimMotion,
            List<String> categories,
            int height,
            int width,
            int channels,
            int videoLength, // Frames of the training clips, and of a piece here.
            double fps,
            float shift, // pixel = clip(round((x + shift) * scale), 0, 255)
            float scale) {

        static Contract of(OrtSession session, String path) throws OrtException {
            Map<String, String> found = session.getMetadata().getCustomMetadata();
            String version = found.get("format_version");
            if (version == null) {
                throw new IllegalArgumentException(
                        path + " has no contract in its metadata_props (no `format_version`): "
                                + "not a file of `python -m export`, or a converter dropped them.");
            }
            if (!version.equals(FORMAT_VERSION)) {
                throw new IllegalArgumentException(
                        path + " has contract version " + version + ", this program reads " + FORMAT_VERSION
                                + ": export the model again, or take the example that came with it.");
            }
            for (String key : List.of("name", "dim_content", "dim_category", "dim_motion", "categories", "height",
                    "width", "channels", "video_length", "fps", "postprocess")) {
                if (!found.containsKey(key)) {
                    throw new IllegalArgumentException(path + " has no `" + key + "` in its metadata_props.");
                }
            }
            Matcher rule = Pattern.compile("uint8 = clip\\(round\\(\\(x \\+ (\\S+)\\) \\* (\\S+)\\), 0, 255\\)")
                    .matcher(found.get("postprocess"));
            if (!rule.matches()) {
                throw new IllegalArgumentException(
                        "This program does not know how to make pixels by `" + found.get("postprocess") + "`.");
            }
            List<String> categories = new ArrayList<>(); // A JSON list of strings.
            Matcher quoted = Pattern.compile("\"((?:[^\"\\\\]|\\\\.)*)\"").matcher(found.get("categories"));
            while (quoted.find()) {
                categories.add(quoted.group(1));
            }
            for (String key : List.of("dim_content", "dim_category", "dim_motion", "height", "width", "channels",
                    "video_length")) {
                int least = key.equals("dim_category") ? 0 : 1;
                if (!found.get(key).matches("[0-9]{1,6}") || Integer.parseInt(found.get(key)) < least) {
                    throw new IllegalArgumentException(path + " has no usable `" + key + "`: " + found.get(key));
                }
            }
            return new Contract(
                    found.get("name"),
                    Integer.parseInt(found.get("dim_content")),
                    Integer.parseInt(found.get("dim_category")),
                    Integer.parseInt(found.get("dim_motion")),
                    categories,
                    Integer.parseInt(found.get("height")),
                    Integer.parseInt(found.get("width")),
                    Integer.parseInt(found.get("channels")),
                    Integer.parseInt(found.get("video_length")),
                    Double.parseDouble(found.get("fps")),
                    Float.parseFloat(rule.group(1)),
                    Float.parseFloat(rule.group(2)));
        }

        /** Turns the model's values into RGB. A grey model gives three equal channels. */
        byte[] toPixels(FloatBuffer video) {
            byte[] pixels = new byte[video.remaining() / channels * 3];
            for (int i = 0; i < pixels.length; i++) {
                float x = video.get(i / 3 * channels + Math.min(i % 3, channels - 1));
                double level = Math.rint((x + shift) * scale); // Halves to even.
                pixels[i] = (byte) (int) Math.min(Math.max(level, 0), 255);
            }
            return pixels;
        }

        int drawCategory(long seed) {
            return Integer.remainderUnsigned(philox4x32(0, CATEGORY, seed)[0], dimCategory);
        }
    }

    /**
     * Philox4x32-10 (Salmon et al., SC 2011): four random 32-bit words of a block.
     *
     * Counter: block (low, high word), stream, clip (always number 0 here). Key: the seed's low and high word.
     * Java's integers are signed, but products, sums and shifts with `>>>` give the same bits.
     */
    private static int[] philox4x32(long block, int stream, long seed) {
        int c0 = (int) block, c1 = (int) (block >>> 32), c2 = stream, c3 = 0;
        int k0 = (int) seed, k1 = (int) (seed >>> 32);
        for (int round = 0; round < 10; round++) {
            long p0 = 0xD2511F53L * Integer.toUnsignedLong(c0), p1 = 0xCD9E8D57L * Integer.toUnsignedLong(c2);
            c0 = (int) (p1 >>> 32) ^ c1 ^ k0;
            c1 = (int) p1;
            c2 = (int) (p0 >>> 32) ^ c3 ^ k1;
            c3 = (int) p0;
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return new int[] {c0, c1, c2, c3};
    }

    /** An endless stream of standard normals (Box and Muller: two words give two normals). */
    private static final class Normals {
        private final long seed;
        private final int stream;
        private final double[] waiting = new double[4];
        private long block = 0;
        private int used = 4;

        Normals(long seed, int stream) {
            this.seed = seed;
            this.stream = stream;
        }

        float[] take(int count) {
            float[] values = new float[count];
            for (int i = 0; i < count; i++) {
                if (used == 4) {
                    int[] words = philox4x32(block++, stream, seed);
                    for (int pair = 0; pair < 4; pair += 2) {
                        double u = (Integer.toUnsignedLong(words[pair]) + 0.5) / 4294967296.0;
                        double v = (Integer.toUnsignedLong(words[pair + 1]) + 0.5) / 4294967296.0;
                        waiting[pair] = Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * v);
                        waiting[pair + 1] = Math.sqrt(-2 * Math.log(u)) * Math.sin(2 * Math.PI * v);
                    }
                    used = 0;
                }
                values[i] = (float) waiting[used++];
            }
            return values;
        }
    }

    /** Takes the pieces of a clip as they come, `[count, height, width, channels]` each. */
    private interface Writer {
        void write(FloatBuffer piece) throws IOException;
    }

    private static void generate(
            OrtEnvironment environment, OrtSession session, Contract contract, long seed, int frames, Writer writer)
            throws OrtException, IOException {
        float[] content = new Normals(seed, CONTENT).take(contract.dimContent);
        float[] state = new Normals(seed, MOTION_INIT).take(contract.dimMotion);
        Normals noises = new Normals(seed, MOTION_NOISE);
        for (int left = frames; left > 0; left -= contract.videoLength) {
            int count = Math.min(contract.videoLength, left);
            float[] noise = noises.take(count * contract.dimMotion);
            Map<String, OnnxTensor> latents = new HashMap<>();
            try {
                latents.put("content", tensor(environment, content, 1, contract.dimContent));
                latents.put("motion_init", tensor(environment, state, 1, contract.dimMotion));
                latents.put("motion_noise", tensor(environment, noise, 1, count, contract.dimMotion));
                if (contract.dimCategory > 0) {
                    float[] category = new float[contract.dimCategory];
                    category[contract.drawCategory(seed)] = 1;
                    latents.put("category", tensor(environment, category, 1, contract.dimCategory));
                }
                try (OrtSession.Result result = session.run(latents, Set.of("video", "motion_state"))) {
                    writer.write(((OnnxTensor) result.get("video").orElseThrow()).getFloatBuffer());
                    // The next piece begins where this one's motion ends. Content and category stay, so the same
                    // person goes on.
                    ((OnnxTensor) result.get("motion_state").orElseThrow()).getFloatBuffer().get(state);
                }
            } finally {
                latents.values().forEach(OnnxTensor::close);
            }
        }
    }

    private static OnnxTensor tensor(OrtEnvironment environment, float[] values, long... shape) throws OrtException {
        return OnnxTensor.createTensor(environment, FloatBuffer.wrap(values), shape);
    }

    private static OrtSession load(OrtEnvironment environment, String path) throws IOException {
        byte[] bytes;
        try {
            bytes = Files.readAllBytes(Path.of(path));
        } catch (NoSuchFileException error) {
            throw new IllegalArgumentException("No such file: " + path);
        } catch (IOException error) {
            throw new IllegalArgumentException("Cannot read " + path + ": " + error.getMessage());
        }
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            return environment.createSession(bytes, options);
        } catch (OrtException error) {
            throw new IllegalArgumentException(path + " is no model that ONNX Runtime can load: " + error.getMessage());
        }
    }

    /** Refuses motion.onnx, frames.onnx and models of another kind. */
    private static void checkOutputs(OrtSession session, String path) {
        if (!session.getOutputNames().containsAll(Set.of("video", "motion_state"))) {
            throw new IllegalArgumentException(path + " gives " + String.join(", ", session.getOutputNames())
                    + "; needed are video and motion_state. "
                    + "Take model.onnx: motion.onnx and frames.onnx are its halves.");
        }
    }

    private static BigInteger wholeNumber(String text, String name, long low, BigInteger high) {
        if (text.matches("[0-9]+")) {
            BigInteger value = new BigInteger(text);
            if (value.compareTo(BigInteger.valueOf(low)) >= 0 && value.compareTo(high) <= 0) {
                return value;
            }
        }
        throw new IllegalArgumentException(
                name + " must be a whole number from " + low + " to " + high + ". Received: " + text);
    }

    private static void run(String[] arguments) throws OrtException, IOException {
        if (arguments.length != 4) {
            throw new IllegalArgumentException("usage: java Generate MODEL SEED FRAMES OUT");
        }
        String model = arguments[0], path = arguments[3];
        // Seeds of 2^63 and more become negative: the same 64 bits.
        BigInteger highest = BigInteger.ONE.shiftLeft(64).subtract(BigInteger.ONE);
        long seed = wholeNumber(arguments[1], "SEED", 0, highest).longValue();
        int frames = wholeNumber(arguments[2], "FRAMES", 1, BigInteger.valueOf(Integer.MAX_VALUE)).intValue();
        String ending = path.replaceFirst(".*(?=\\.)", "");
        if (!List.of(".rgb", ".f32").contains(ending)) {
            throw new IllegalArgumentException("OUT must end in .rgb or .f32. Received: " + path);
        }

        OrtEnvironment environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR);
        try (OrtSession session = load(environment, model)) {
            Contract contract = Contract.of(session, model);
            checkOutputs(session, model);
            try (OutputStream out = new BufferedOutputStream(Files.newOutputStream(Path.of(path)))) {
                boolean pixels = ending.equals(".rgb");
                generate(environment, session, contract, seed, frames,
                        piece -> out.write(pixels ? contract.toPixels(piece) : toBytes(piece)));
            }
            String shown = "%s: seed %s, %d frames of %dx%d, %s fps".formatted(
                    contract.name, Long.toUnsignedString(seed), frames, contract.width, contract.height,
                    BigDecimal.valueOf(contract.fps).stripTrailingZeros().toPlainString());
            if (contract.dimCategory > 0) {
                int category = contract.drawCategory(seed);
                shown += ", category " + category;
                shown += contract.categories.isEmpty() ? "" : " (" + contract.categories.get(category) + ")";
            }
            System.out.println(shown + " -> " + path);
        }
    }

    private static byte[] toBytes(FloatBuffer values) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.remaining()).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        return bytes.array();
    }

    public static void main(String[] arguments) {
        try {
            run(arguments);
        } catch (IllegalArgumentException | OrtException error) {
            fail(error.getMessage());
        } catch (IOException error) {
            fail("Cannot write " + arguments[3] + ": " + error.getMessage());
        }
    }

    private static void fail(String message) {
        System.err.println("error: " + message.strip().replaceAll("\\s+", " "));
        System.exit(1);
    }
}
