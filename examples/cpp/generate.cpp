// Generates clips from an exported MoCoGAN with ONNX Runtime's C++ API. C++17.
//
//     generate MODEL SEED FRAMES OUT
//
// OUT by its ending: .rgb is raw uint8 [frames, height, width, 3]; .f32 the model's own float32 values [frames, height,
// width, channels]; .png an animated PNG, in full colour and (to need no library) not compressed.
//
// Everything about the model is read from the file itself. A clip longer than those the model was trained on is made
// piece by piece: the motion's last state goes in as the next piece's first, so any length takes the memory of one.

// Functions are only ever added to ONNX Runtime's table. Those used here are all in that of version 1.17, so asking for
// that one, below, makes the program run with newer libraries than its headers and with older ones.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace {

constexpr int kApiVersion = 17;
const std::string kFormatVersion = "1";  // Of the contract that this program understands.

using Bytes = std::vector<std::uint8_t>;
using Error = std::runtime_error;

// ---- The contract: what the file says of itself --------------------------------------------------------------------

struct Contract {
    std::string name;
    std::int64_t dim_content, dim_category, dim_motion;  // dim_category 0: there is no `category` input.
    std::int64_t height, width, channels;
    std::int64_t video_length;  // Of the training clips; here, the length of a piece.
    double fps;
    float shift, scale;  // pixel = clip(round((x + shift) * scale), 0, 255)
};

Contract read_contract(const Ort::Session& session, const std::string& path) {
    Ort::AllocatorWithDefaultOptions allocator;
    const Ort::ModelMetadata metadata = session.GetModelMetadata();
    const auto read = [&](const char* key) {
        const auto value = metadata.LookupCustomMetadataMapAllocated(key, allocator);
        if (!value) throw Error(path + " has no `" + key + "` in its metadata_props.");
        return std::string(value.get());
    };
    const auto count = [&](const char* key, std::int64_t least = 1) -> std::int64_t {
        const std::string value = read(key);
        const bool digits = !value.empty() && value.find_first_not_of("0123456789") == value.npos;
        if (!digits || value.size() > 6 || std::stoll(value) < least)
            throw Error(path + " has no usable `" + key + "`: " + value);
        return std::stoll(value);
    };
    if (!metadata.LookupCustomMetadataMapAllocated("format_version", allocator))
        throw Error(path + " has no contract in its metadata_props (no `format_version`): not a file of " +
                    "`python -m export`, or a converter dropped them.");
    if (const auto version = read("format_version"); version != kFormatVersion)
        throw Error(path + " has contract version " + version + ", this program reads " + kFormatVersion +
                    ": export the model again, or take the example that came with it.");
    Contract contract{read("name"),    count("dim_content"), count("dim_category", 0), count("dim_motion"),
                      count("height"), count("width"),       count("channels"),     count("video_length"),
                      std::strtod(read("fps").c_str(), nullptr), 0, 0};
    const std::string rule = read("postprocess");
    int used = 0;
    std::sscanf(rule.c_str(), "uint8 = clip(round((x + %f) * %f), 0, 255)%n", &contract.shift, &contract.scale, &used);
    if (used == 0 || static_cast<std::size_t>(used) != rule.size())
        throw Error("This program does not know how to make pixels by `" + rule + "`.");
    return contract;
}

// ---- What a seed means ---------------------------------------------------------------------------------------------

enum Stream : std::uint32_t { kContent, kMotionInit, kMotionNoise, kCategory };

// Philox4x32-10 (Salmon et al., SC 2011): four random words of a block.
// Counter: block (low, high word), stream, clip, of which there is one, number 0. Key: the seed's low and high word.
std::array<std::uint32_t, 4> philox4x32(std::uint64_t block, std::uint32_t stream, std::uint64_t seed) {
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    std::array<std::uint32_t, 4> c{low(block), high(block), stream, 0};
    std::uint32_t k0 = low(seed), k1 = high(seed);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0], p1 = std::uint64_t{0xCD9E8D57} * c[2];
        c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

// A stream of standard normals without end (Box and Muller: two words give two normals).
class Normals {
public:
    Normals(std::uint64_t seed, Stream stream) : seed_(seed), stream_(stream) {}

    std::vector<float> take(std::int64_t count) {
        std::vector<float> values(static_cast<std::size_t>(count));
        std::generate(values.begin(), values.end(), [this] { return static_cast<float>(next()); });
        return values;
    }

private:
    double next() {
        if (used_ == 4) {
            constexpr double two_pi = 6.283185307179586, words = 4294967296.0;
            const auto drawn = philox4x32(block_++, stream_, seed_);
            for (std::size_t pair : {0, 2}) {
                const double u = (drawn[pair] + 0.5) / words, v = (drawn[pair + 1] + 0.5) / words;
                waiting_[pair] = std::sqrt(-2.0 * std::log(u)) * std::cos(two_pi * v);
                waiting_[pair + 1] = std::sqrt(-2.0 * std::log(u)) * std::sin(two_pi * v);
            }
            used_ = 0;
        }
        return waiting_[used_++];
    }

    std::uint64_t seed_, block_ = 0;
    Stream stream_;
    std::array<double, 4> waiting_{};
    std::size_t used_ = 4;
};

std::int64_t draw_category(const Contract& contract, std::uint64_t seed) {
    return philox4x32(0, kCategory, seed)[0] % contract.dim_category;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

void append32(Bytes& bytes, std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<std::uint8_t>(value >> shift));
}

// Writes an animated PNG: the chunks of a PNG, with one fcTL (size, duration) and one picture per frame.
class AnimatedPng {
public:
    AnimatedPng(std::ostream& out, const Contract& contract, std::int64_t frames) : out_(out), contract_(contract) {
        out_.write("\x89PNG\r\n\x1a\n", 8);
        Bytes header = size();
        header.insert(header.end(), {8, 2, 0, 0, 0});  // 8 bits, RGB.
        chunk("IHDR", header);
        Bytes animation;
        append32(animation, static_cast<std::uint32_t>(frames));
        append32(animation, 0);  // Played again and again.
        chunk("acTL", animation);
    }

    void add(const Bytes& pixels) {
        Bytes control, data;
        append32(control, sequence_++);
        for (const auto byte : size()) control.push_back(byte);
        control.insert(control.end(), 8, 0);  // Offsets.
        const auto delay = static_cast<std::uint32_t>(std::lround(1000 / contract_.fps));
        append32(control, delay << 16 | 1000);  // A quotient of two 16-bit numbers, in seconds.
        control.insert(control.end(), 2, 0);    // This frame replaces the last.
        chunk("fcTL", control);
        // The first frame is also the picture for programs that do not know animations; the others carry a number.
        if (frame_) append32(data, sequence_++);
        store(pixels, data);
        chunk(frame_++ ? "fdAT" : "IDAT", data);
    }

    void end() { chunk("IEND", {}); }

private:
    Bytes size() const {
        Bytes bytes;
        append32(bytes, static_cast<std::uint32_t>(contract_.width));
        append32(bytes, static_cast<std::uint32_t>(contract_.height));
        return bytes;
    }

    // Appends the rows as a zlib stream of blocks that are stored, not compressed.
    void store(const Bytes& pixels, Bytes& data) const {
        Bytes rows;
        const auto width = 3 * contract_.width;
        for (auto row = pixels.begin(); row != pixels.end(); row += width) {
            rows.push_back(0);  // Its filter: none.
            rows.insert(rows.end(), row, row + width);
        }
        data.insert(data.end(), {0x78, 0x01});
        for (std::size_t from = 0; from < rows.size();) {
            const auto length = std::min<std::size_t>(rows.size() - from, 65535);
            const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(from);
            data.push_back(from + length == rows.size());  // The last block?
            for (const std::size_t word : {length, ~length})
                for (const int shift : {0, 8}) data.push_back(static_cast<std::uint8_t>(word >> shift));
            data.insert(data.end(), begin, begin + static_cast<std::ptrdiff_t>(length));
            from += length;
        }
        std::uint32_t a = 1, b = 0;  // Adler-32.
        for (const auto byte : rows) a = (a + byte) % 65521, b = (b + a) % 65521;
        append32(data, b << 16 | a);
    }

    void chunk(const std::string& type, const Bytes& data) {
        Bytes bytes;
        append32(bytes, static_cast<std::uint32_t>(data.size()));
        bytes.insert(bytes.end(), type.begin(), type.end());
        bytes.insert(bytes.end(), data.begin(), data.end());
        std::uint32_t crc = 0xFFFFFFFF;
        for (auto at = bytes.begin() + 4; at != bytes.end(); ++at) {
            crc ^= *at;
            for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
        }
        append32(bytes, ~crc);
        out_.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }

    std::ostream& out_;
    const Contract& contract_;
    std::uint32_t sequence_ = 0, frame_ = 0;  // Numbered chunks and frames so far.
};

// One frame's values, of the model's range, to pixels. Grey models give three equal channels.
Bytes to_rgb(const float* frame, const Contract& contract) {
    Bytes pixels;
    for (std::int64_t i = 0; i < contract.height * contract.width; ++i, frame += contract.channels)
        for (std::int64_t c = 0; c < 3; ++c) {
            const float x = frame[std::min(c, contract.channels - 1)];
            const float level = std::nearbyint((x + contract.shift) * contract.scale);  // Halves to even.
            pixels.push_back(static_cast<std::uint8_t>(std::clamp(level, 0.0f, 255.0f)));
        }
    return pixels;
}

// ---- Generation ----------------------------------------------------------------------------------------------------

// A tensor over a vector, which must outlive it.
Ort::Value tensor(std::vector<float>& values, const std::vector<std::int64_t>& shape) {
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());
}

// Calls `take(video, count)` with [count, height, width, channels] values until there were `frames` frames.
template <typename Take>
void generate(Ort::Session& session, const Contract& contract, std::uint64_t seed, std::int64_t frames, Take take) {
    auto content = Normals(seed, kContent).take(contract.dim_content);
    auto state = Normals(seed, kMotionInit).take(contract.dim_motion);
    std::vector<float> category(static_cast<std::size_t>(contract.dim_category));
    if (contract.dim_category) category[static_cast<std::size_t>(draw_category(contract, seed))] = 1;

    Normals noises(seed, kMotionNoise);
    for (std::int64_t first = 0; first < frames; first += contract.video_length) {
        const std::int64_t count = std::min(contract.video_length, frames - first);
        auto noise = noises.take(count * contract.dim_motion);
        // By name, since their order differs between runtimes.
        std::vector<const char*> names{"content", "motion_init", "motion_noise"};
        std::vector<Ort::Value> inputs;
        inputs.push_back(tensor(content, {1, contract.dim_content}));
        inputs.push_back(tensor(state, {1, contract.dim_motion}));
        inputs.push_back(tensor(noise, {1, count, contract.dim_motion}));
        if (contract.dim_category) {
            names.push_back("category");
            inputs.push_back(tensor(category, {1, contract.dim_category}));
        }
        const char* wanted[] = {"video", "motion_state"};
        const auto outputs = session.Run(Ort::RunOptions{nullptr}, names.data(), inputs.data(), inputs.size(), wanted,
                                         std::size(wanted));
        take(outputs[0].GetTensorData<float>(), count);
        // Where this piece's motion ends, the next one's begins. Content and category stay: the same person goes on.
        const float* last = outputs[1].GetTensorData<float>();
        state.assign(last, last + contract.dim_motion);
    }
}

// Refuses the halves of a model, and models of another kind.
void check_outputs(const Ort::Session& session, const std::string& path) {
    Ort::AllocatorWithDefaultOptions allocator;
    std::string names;
    int found = 0;
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
        const std::string name = session.GetOutputNameAllocated(i, allocator).get();
        found += name == "video" || name == "motion_state";
        names += (i ? ", " : "") + name;
    }
    if (found != 2)
        throw Error(path + " gives " + names + "; needed are video and motion_state. Take model.onnx: " +
                    "motion.onnx and frames.onnx are its halves.");
}

Ort::Session load(const Ort::Env& env, const std::string& path) {
    if (!std::filesystem::exists(path)) throw Error("No such file: " + path);
    std::ifstream file(path, std::ios::binary);
    if (!file || std::filesystem::is_directory(path)) throw Error("Cannot read " + path);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    try {
        return Ort::Session(env, bytes.data(), bytes.size(), Ort::SessionOptions());
    } catch (const Ort::Exception& error) {
        throw Error(path + " is no model that ONNX Runtime can load: " + error.what());
    }
}

std::uint64_t whole_number(const std::string& text, const char* name, std::uint64_t low, std::uint64_t high) {
    try {
        const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
        const std::uint64_t value = digits ? std::stoull(text) : 0;
        if (digits && value >= low && value <= high) return value;
    } catch (const std::out_of_range&) {
    }
    throw Error(std::string(name) + " must be a whole number from " + std::to_string(low) + " to " +
                std::to_string(high) + ". Received: " + text);
}

void run(const std::vector<std::string>& arguments) {
    if (arguments.size() != 4) throw Error("usage: generate MODEL SEED FRAMES OUT");
    const auto& [model, path] = std::tie(arguments[0], arguments[3]);
    const auto seed = whole_number(arguments[1], "SEED", 0, std::numeric_limits<std::uint64_t>::max());
    const auto frames = static_cast<std::int64_t>(whole_number(arguments[2], "FRAMES", 1, 2147483647));
    const auto ending = std::filesystem::path(path).extension();
    if (ending != ".rgb" && ending != ".f32" && ending != ".png")
        throw Error("OUT must end in .rgb, .f32 or .png. Received: " + path);

    const OrtApi* api = OrtGetApiBase()->GetApi(kApiVersion);
    if (!api) throw Error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is too old.");
    Ort::InitApi(api);
    const Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "generate");
    Ort::Session session = load(env, model);
    const Contract contract = read_contract(session, model);
    check_outputs(session, model);

    std::ofstream out(path, std::ios::binary);
    if (!out) throw Error("Cannot write " + path);
    const auto write = [&](const auto* data, std::int64_t count) {
        const auto size = count * static_cast<std::int64_t>(sizeof *data);
        out.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    };
    std::optional<AnimatedPng> png;
    if (ending == ".png") png.emplace(out, contract, frames);
    const std::int64_t size = contract.height * contract.width * contract.channels;
    generate(session, contract, seed, frames, [&](const float* video, std::int64_t count) {
        for (const float* frame = video; frame != video + count * size; frame += size) {
            if (ending == ".f32") {
                write(frame, size);  // The machine's byte order, which is little-endian nearly everywhere.
            } else if (const Bytes pixels = to_rgb(frame, contract); png) {
                png->add(pixels);
            } else {
                write(pixels.data(), static_cast<std::int64_t>(pixels.size()));
            }
        }
    });
    if (png) png->end();
    if (!out.flush()) throw Error("Cannot write " + path);

    std::cout << contract.name << ": seed " << seed << ", " << frames << " frames of " << contract.width << 'x'
              << contract.height << ", " << contract.fps << " fps";
    if (contract.dim_category) std::cout << ", category " << draw_category(contract, seed);
    std::cout << " -> " << path << '\n';
}

}  // namespace

int main(int count, char** arguments) {
    try {
        run({arguments + 1, arguments + count});
    } catch (const std::exception& error) {
        std::string message = error.what();
        std::replace(message.begin(), message.end(), '\n', ' ');
        std::cerr << "error: " << message << '\n';
        return 1;
    }
}
