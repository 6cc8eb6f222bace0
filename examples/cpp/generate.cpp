// Generates clips from an exported MoCoGAN with ONNX Runtime's C++ API. C++17.
//
//     generate MODEL SEED FRAMES OUT
//
// OUT ends in .rgb (raw uint8 [frames, height, width, 3]) or in .f32 (the model's own float32 values [frames, height,
// width, channels]).
//
// The program reads everything about the model from the file itself. It makes a clip longer than the training clips
// piece by piece: the motion's last state becomes the next piece's first. So any length takes the memory of one piece.

// ONNX Runtime only ever adds functions to its table. Version 1.17 has all that this program calls. By asking for that
// version below, the program runs with libraries newer and older than its headers.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace {

constexpr int kApiVersion = 17;
const std::string kFormatVersion = "1";  // The version of the contract that this program reads.

using Error = std::runtime_error;

// ---- The contract: what the file says about itself -----------------------------------------------------------------

struct Contract {
    std::string name;
    std::int64_t dim_content, dim_category, dim_motion;  // dim_category 0: there is no `category` input.
    std::int64_t height, width, channels;
    std::int64_t video_length;  // Frames of the training clips, and of a piece here.
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
// Counter: block (low, high word), stream, clip (always number 0 here). Key: the seed's low and high word.
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

// An endless stream of standard normals (Box and Muller: two words give two normals).
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

// Turns one frame into pixels. A grey model gives three equal channels.
std::vector<std::uint8_t> to_rgb(const float* frame, const Contract& contract) {
    std::vector<std::uint8_t> pixels;
    for (std::int64_t i = 0; i < contract.height * contract.width; ++i, frame += contract.channels)
        for (std::int64_t c = 0; c < 3; ++c) {
            const float x = frame[std::min(c, contract.channels - 1)];
            const float level = std::nearbyint((x + contract.shift) * contract.scale);  // Halves to even.
            pixels.push_back(static_cast<std::uint8_t>(std::clamp(level, 0.0f, 255.0f)));
        }
    return pixels;
}

// ---- Generation ----------------------------------------------------------------------------------------------------

// Makes a tensor of a vector, which must outlive it.
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
        // By name, because the order differs between runtimes.
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
        // The next piece begins where this one's motion ends. Content and category stay, so the same person goes on.
        const float* last = outputs[1].GetTensorData<float>();
        state.assign(last, last + contract.dim_motion);
    }
}

// Refuses motion.onnx, frames.onnx and models of another kind.
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
    if (ending != ".rgb" && ending != ".f32") throw Error("OUT must end in .rgb or .f32. Received: " + path);

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
    const std::int64_t size = contract.height * contract.width * contract.channels;
    generate(session, contract, seed, frames, [&](const float* video, std::int64_t count) {
        for (const float* frame = video; frame != video + count * size; frame += size) {
            if (ending == ".f32") {
                write(frame, size);  // The machine's byte order, which is little-endian nearly everywhere.
            } else {
                const auto pixels = to_rgb(frame, contract);
                write(pixels.data(), static_cast<std::int64_t>(pixels.size()));
            }
        }
    });
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
