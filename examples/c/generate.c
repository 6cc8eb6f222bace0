/* Generates clips from an exported MoCoGAN with ONNX Runtime's C API. C11.
 *
 *     generate MODEL SEED FRAMES OUT
 *
 * OUT ends in .rgb (raw uint8 [frames, height, width, 3]) or in .f32 (the model's own float32 values [frames, height,
 * width, channels]).
 *
 * The program reads everything about the model from the file itself. It makes a clip longer than the training clips
 * piece by piece: the motion's last state becomes the next piece's first. So any length takes the memory of one piece.
 *
 * The program makes one clip and exits, which frees what it holds.
 */

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <onnxruntime_c_api.h>

#define FORMAT_VERSION "1" /* The version of the contract that this program reads. */
/* ONNX Runtime only ever adds functions to its table. Version 1.17 has all that this program calls. By asking for that
 * version, the program runs with libraries newer and older than its headers. */
#define API_VERSION 17

static const OrtApi *ort;
static OrtAllocator *allocator;

/* ---- Errors: one line, exit code 1 ------------------------------------------------------------------------------- */

static _Noreturn void fail(const char *format, ...) {
    char message[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (char *at = message; *at; at++)
        if (*at == '\n' || *at == '\r') *at = ' ';
    fprintf(stderr, "error: %s\n", message);
    exit(1);
}

/* ONNX Runtime's functions return NULL or an error. */
static void check(OrtStatus *status) {
    if (status) fail("ONNX Runtime: %s", ort->GetErrorMessage(status));
}

static void *allocate(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (!memory) fail("Out of memory.");
    return memory;
}

/* ---- The contract: what the file says about itself --------------------------------------------------------------- */

typedef struct {
    const char *name;
    int64_t dim_content, dim_category, dim_motion; /* dim_category 0: there is no `category` input. */
    int64_t height, width, channels;
    int64_t video_length; /* Frames of the training clips, and of a piece here. */
    double fps;
    float shift, scale; /* pixel = clip(round((x + shift) * scale), 0, 255) */
} Contract;

static const char *find(const OrtModelMetadata *metadata, const char *key) {
    char *value = NULL;
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, key, &value));
    return value;
}

static const char *need(const OrtModelMetadata *metadata, const char *key, const char *path) {
    const char *value = find(metadata, key);
    if (!value) fail("%s has no `%s` in its metadata_props.", path, key);
    return value;
}

static int64_t need_count(const OrtModelMetadata *metadata, const char *key, int64_t least, const char *path) {
    const char *value = need(metadata, key, path);
    char *end;
    errno = 0;
    long long count = strtoll(value, &end, 10);
    if (errno || end == value || *end || count < least || count > 999999)
        fail("%s has no usable `%s`: %s", path, key, value);
    return count;
}

static Contract read_contract(const OrtSession *session, const char *path) {
    OrtModelMetadata *metadata;
    check(ort->SessionGetModelMetadata(session, &metadata));
    const char *version = find(metadata, "format_version");
    if (!version)
        fail("%s has no contract in its metadata_props (no `format_version`): not a file of `python -m export`, or a "
             "converter dropped them.", path);
    if (strcmp(version, FORMAT_VERSION))
        fail("%s has contract version %s, this program reads %s: export the model again, or take the example that came "
             "with it.", path, version, FORMAT_VERSION);
    Contract contract = {
        .name = need(metadata, "name", path),
        .dim_content = need_count(metadata, "dim_content", 1, path),
        .dim_category = need_count(metadata, "dim_category", 0, path),
        .dim_motion = need_count(metadata, "dim_motion", 1, path),
        .height = need_count(metadata, "height", 1, path),
        .width = need_count(metadata, "width", 1, path),
        .channels = need_count(metadata, "channels", 1, path),
        .video_length = need_count(metadata, "video_length", 1, path),
        .fps = strtod(need(metadata, "fps", path), NULL),
    };
    const char *rule = need(metadata, "postprocess", path);
    int read = 0;
    sscanf(rule, "uint8 = clip(round((x + %f) * %f), 0, 255)%n", &contract.shift, &contract.scale, &read);
    if (!read || rule[read]) fail("This program does not know how to make pixels by `%s`.", rule);
    return contract;
}

/* ---- What a seed means ------------------------------------------------------------------------------------------- */

enum { CONTENT, MOTION_INIT, MOTION_NOISE, CATEGORY };

/* An endless stream of standard normals. */
typedef struct {
    uint64_t seed, block;
    uint32_t stream;
    double waiting[4];
    int left;
} Normals;

/* Philox4x32-10 (Salmon et al., SC 2011): four random words of a block.
 * Counter: block (low, high word), stream, clip (always number 0 here). Key: the seed's low and high word. */
static void philox4x32(uint64_t block, uint32_t stream, uint64_t seed, uint32_t c[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    c[0] = (uint32_t)block, c[1] = (uint32_t)(block >> 32), c[2] = stream, c[3] = 0;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53 * c[0], p1 = (uint64_t)0xCD9E8D57 * c[2];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
}

/* Takes the next `count` numbers of a stream (Box and Muller: two words give two normals). */
static void draw(Normals *stream, float *values, int64_t count) {
    const double two_pi = 6.283185307179586;
    for (int64_t i = 0; i < count; i++) {
        if (!stream->left) {
            uint32_t words[4];
            philox4x32(stream->block++, stream->stream, stream->seed, words);
            for (int pair = 0; pair < 4; pair += 2) {
                double u = (words[pair] + 0.5) / 4294967296.0, v = (words[pair + 1] + 0.5) / 4294967296.0;
                stream->waiting[pair] = sqrt(-2.0 * log(u)) * cos(two_pi * v);
                stream->waiting[pair + 1] = sqrt(-2.0 * log(u)) * sin(two_pi * v);
            }
            stream->left = 4;
        }
        values[i] = (float)stream->waiting[4 - stream->left--];
    }
}

static int64_t draw_category(const Contract *contract, uint64_t seed) {
    uint32_t words[4];
    philox4x32(0, CATEGORY, seed, words);
    return (int64_t)(words[0] % (uint32_t)contract->dim_category);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

typedef struct {
    FILE *file;
    const char *path, *ending;
} Output;

static void write_bytes(Output *out, const void *bytes, size_t size) {
    if (fwrite(bytes, 1, size, out->file) != size) fail("Cannot write %s: %s", out->path, strerror(errno));
}

/* Writes frames as pixels or as they are. A grey model gives three equal channels. */
static void write_piece(Output *out, const Contract *contract, const float *video, int64_t frames) {
    size_t area = (size_t)(contract->height * contract->width), channels = (size_t)contract->channels;
    if (!strcmp(out->ending, ".f32")) { /* The machine's byte order, which is little-endian nearly everywhere. */
        write_bytes(out, video, (size_t)frames * area * channels * sizeof *video);
        return;
    }
    uint8_t *pixels = allocate(3 * area);
    for (int64_t frame = 0; frame < frames; frame++, video += area * channels) {
        for (size_t i = 0; i < area; i++)
            for (size_t c = 0; c < 3; c++) {
                float x = video[i * channels + (c < channels ? c : channels - 1)];
                float level = nearbyintf((x + contract->shift) * contract->scale); /* Halves to even. */
                pixels[3 * i + c] = (uint8_t)fminf(fmaxf(level, 0), 255);
            }
        write_bytes(out, pixels, 3 * area);
    }
    free(pixels);
}

/* ---- Generation -------------------------------------------------------------------------------------------------- */

/* Makes a tensor of memory that the caller keeps. */
static OrtValue *tensor(float *values, const int64_t *shape, size_t rank) {
    OrtMemoryInfo *memory;
    OrtValue *value;
    size_t count = 1;
    for (size_t i = 0; i < rank; i++) count *= (size_t)shape[i];
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, values, count * sizeof *values, shape, rank,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
    ort->ReleaseMemoryInfo(memory);
    return value;
}

static void generate(OrtSession *session, const Contract *contract, uint64_t seed, int64_t frames, Output *out) {
    int64_t dim_motion = contract->dim_motion, length = contract->video_length;
    float *content = allocate((size_t)contract->dim_content * sizeof(float));
    float *state = allocate((size_t)dim_motion * sizeof(float));
    float *noise = allocate((size_t)(length * dim_motion) * sizeof(float));
    float *category = allocate((size_t)contract->dim_category * sizeof(float));
    draw(&(Normals){.seed = seed, .stream = CONTENT}, content, contract->dim_content);
    draw(&(Normals){.seed = seed, .stream = MOTION_INIT}, state, dim_motion);
    if (contract->dim_category)
        for (int64_t i = 0; i < contract->dim_category; i++) category[i] = i == draw_category(contract, seed);

    Normals noises = {.seed = seed, .stream = MOTION_NOISE};
    for (int64_t first = 0; first < frames; first += length) {
        int64_t count = frames - first < length ? frames - first : length;
        draw(&noises, noise, count * dim_motion);
        /* By name, because the order differs between runtimes. The category is last: not every model has one. */
        const char *names[] = {"content", "motion_init", "motion_noise", "category"};
        const char *wanted[] = {"video", "motion_state"};
        OrtValue *inputs[] = {
            tensor(content, (int64_t[]){1, contract->dim_content}, 2),
            tensor(state, (int64_t[]){1, dim_motion}, 2),
            tensor(noise, (int64_t[]){1, count, dim_motion}, 3),
            contract->dim_category ? tensor(category, (int64_t[]){1, contract->dim_category}, 2) : NULL,
        };
        OrtValue *outputs[2] = {NULL, NULL};
        check(ort->Run(session, NULL, names, (const OrtValue *const *)inputs, contract->dim_category ? 4 : 3, wanted, 2,
                       outputs));
        float *video, *last;
        check(ort->GetTensorMutableData(outputs[0], (void **)&video));
        check(ort->GetTensorMutableData(outputs[1], (void **)&last));
        write_piece(out, contract, video, count);
        /* The next piece begins where this one's motion ends. Content and category stay, so the same person goes on. */
        memcpy(state, last, (size_t)dim_motion * sizeof(float));
        for (int i = 0; i < 4; i++)
            if (inputs[i]) ort->ReleaseValue(inputs[i]);
        for (int i = 0; i < 2; i++) ort->ReleaseValue(outputs[i]);
    }
    free(content), free(state), free(noise), free(category);
}

/* Refuses motion.onnx, frames.onnx and models of another kind. */
static void check_outputs(const OrtSession *session, const char *path) {
    size_t count;
    int found = 0;
    char names[1024] = "";
    check(ort->SessionGetOutputCount(session, &count));
    for (size_t i = 0; i < count; i++) {
        char *name;
        check(ort->SessionGetOutputName(session, i, allocator, &name));
        found += !strcmp(name, "video") || !strcmp(name, "motion_state");
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", name);
    }
    if (found != 2)
        fail("%s gives %s; needed are video and motion_state. Take model.onnx: motion.onnx and frames.onnx are its "
             "halves.", path, names);
}

static OrtSession *load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(errno == ENOENT ? "No such file: %s" : "Cannot read %s", path);
    size_t size = 0, room = 1 << 20, got;
    char *bytes = allocate(room);
    while ((got = fread(bytes + size, 1, room - size, file)) > 0)
        if ((size += got) == room && !(bytes = realloc(bytes, room *= 2))) fail("Out of memory.");
    if (ferror(file)) fail("Cannot read %s: %s", path, strerror(errno));
    fclose(file);

    OrtEnv *env; /* The session needs it to the end. */
    OrtSessionOptions *options;
    OrtSession *session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "generate", &env));
    check(ort->CreateSessionOptions(&options));
    OrtStatus *status = ort->CreateSessionFromArray(env, bytes, size, options, &session);
    if (status) fail("%s is no model that ONNX Runtime can load: %s", path, ort->GetErrorMessage(status));
    ort->ReleaseSessionOptions(options);
    free(bytes);
    return session;
}

static uint64_t whole_number(const char *text, const char *name, uint64_t low, uint64_t high) {
    errno = 0;
    uint64_t value = strtoull(text, NULL, 10);
    if (!*text || text[strspn(text, "0123456789")] || errno || value < low || value > high)
        fail("%s must be a whole number from %" PRIu64 " to %" PRIu64 ". Received: %s", name, low, high, text);
    return value;
}

int main(int count, char **arguments) {
    if (count != 5) fail("usage: generate MODEL SEED FRAMES OUT");
    const char *model = arguments[1];
    uint64_t seed = whole_number(arguments[2], "SEED", 0, UINT64_MAX);
    int64_t frames = (int64_t)whole_number(arguments[3], "FRAMES", 1, INT32_MAX);
    Output out = {.path = arguments[4], .ending = strrchr(arguments[4], '.')};
    if (!out.ending || (strcmp(out.ending, ".rgb") && strcmp(out.ending, ".f32")))
        fail("OUT must end in .rgb or .f32. Received: %s", out.path);

    ort = OrtGetApiBase()->GetApi(API_VERSION);
    if (!ort) fail("ONNX Runtime %s is older than this program needs.", OrtGetApiBase()->GetVersionString());
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    OrtSession *session = load(model);
    Contract contract = read_contract(session, model);
    check_outputs(session, model);

    out.file = fopen(out.path, "wb");
    if (!out.file) fail("Cannot write %s: %s", out.path, strerror(errno));
    generate(session, &contract, seed, frames, &out);
    if (fclose(out.file)) fail("Cannot write %s: %s", out.path, strerror(errno));

    printf("%s: seed %" PRIu64 ", %" PRId64 " frames of %" PRId64 "x%" PRId64 ", %g fps", contract.name, seed, frames,
           contract.width, contract.height, contract.fps);
    if (contract.dim_category) printf(", category %" PRId64, draw_category(&contract, seed));
    printf(" -> %s\n", out.path);
    return 0;
}
