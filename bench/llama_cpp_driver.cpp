// Times llama.cpp's llama_decode; called by bench/llama_cpp_library.py through ctypes.
//
// Compiled against the llama.h of the libraries it is linked with. The CPU backend is the variant that llama.cpp itself
// chooses for this CPU. Threads are a pool that is attached as in llama-bench, with its default polling. It is paused after
// a call, so that polling threads take no time from whatever is timed next. Greedy choices are not timed.

#include <algorithm>
#include <chrono>
#include <cstdio>

#include <dlfcn.h>

#include "llama.h"

namespace {

constexpr int BATCH = 512;  // n_batch and n_ubatch: the most ids that one llama_decode reads

struct Peer {
    llama_model * model;
    llama_context * context;
    ggml_threadpool * pool;
    int sequences, vocab;
};

// Of the backend, which is not linked but loaded.
decltype(ggml_threadpool_new) * new_pool;
decltype(ggml_threadpool_free) * free_pool;
decltype(ggml_threadpool_pause) * pause_pool;

void print_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

void append(llama_batch & batch, int token, int position, int sequence, bool wanted) {
    const int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = wanted;
}

// Seconds of one llama_decode, negative if it fails.
double decode(llama_context * context, const llama_batch & batch) {
    const auto began = std::chrono::steady_clock::now();
    if (llama_decode(context, batch) != 0) return -1;
    llama_synchronize(context);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

}  // namespace

// Loads the backends in a folder. Returns llama.cpp's line about the CPU, nullptr without a backend.
extern "C" const char * peer_load(const char * folder) {
    llama_log_set(print_errors, nullptr);
    ggml_backend_load_all_from_path(folder);
    const auto device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!device) return nullptr;
    const auto registry = ggml_backend_dev_backend_reg(device);
    new_pool = (decltype(new_pool)) ggml_backend_reg_get_proc_address(registry, "ggml_threadpool_new");
    free_pool = (decltype(free_pool)) ggml_backend_reg_get_proc_address(registry, "ggml_threadpool_free");
    Dl_info backend;  // whose registry lacks the function that pauses
    if (!dladdr((void *) new_pool, &backend)) return nullptr;
    pause_pool = (decltype(pause_pool)) dlsym(dlopen(backend.dli_fname, RTLD_LAZY | RTLD_NOLOAD), "ggml_threadpool_pause");
    if (!pause_pool) return nullptr;
    llama_backend_init();
    return llama_print_system_info();
}

// A model and a context for `sequences` of up to `length` ids; nullptr on failure. unified: one cache for all sequences.
// flash: flash attention and keys and values in float16; otherwise neither.
extern "C" void * peer_open(const char * path, int threads, int length, int sequences, bool unified, bool flash) {
    llama_model_params loading = llama_model_default_params();
    loading.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(path, loading);
    if (!model) return nullptr;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = length * sequences;
    params.n_batch = params.n_ubatch = BATCH;
    params.n_seq_max = sequences;
    params.n_threads = params.n_threads_batch = threads;
    params.kv_unified = unified;
    params.type_k = params.type_v = flash ? GGML_TYPE_F16 : GGML_TYPE_F32;
    params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        llama_model_free(model);
        return nullptr;
    }
    ggml_threadpool_params threading = ggml_threadpool_params_default(threads);
    threading.paused = true;
    ggml_threadpool * pool = new_pool(&threading);
    llama_attach_threadpool(context, pool, nullptr);
    return new Peer{model, context, pool, sequences, llama_vocab_n_tokens(llama_model_get_vocab(model))};
}

extern "C" void peer_close(Peer * peer) {
    llama_free(peer->context);
    llama_model_free(peer->model);
    free_pool(peer->pool);
    delete peer;
}

// Continues prompts (sequences, length) by `count` greedy ids each: ids (sequences, count).
// seconds: {reading the prompts, all further steps}. Returns 0, or -1 on failure.
extern "C" int peer_generate(Peer * peer, const int * prompts, int length, int count, int * ids, double * seconds) {
    const int sequences = peer->sequences;
    if (sequences * length > BATCH) return -1;
    llama_memory_clear(llama_get_memory(peer->context), false);
    llama_batch batch = llama_batch_init(BATCH, 0, 1);
    batch.n_tokens = 0;
    for (int s = 0; s < sequences; s++)
        for (int i = 0; i < length; i++) append(batch, prompts[s * length + i], i, s, i == length - 1);
    int result = 0, stride = length;  // of the rows whose logits were computed
    seconds[0] = seconds[1] = 0;
    for (int step = 0; step < count && result == 0; step++) {
        const double taken = decode(peer->context, batch);
        if (taken < 0) result = -1;
        seconds[step > 0] += taken;
        for (int s = 0; s < sequences && result == 0; s++) {
            const float * logits = llama_get_logits_ith(peer->context, (s + 1) * stride - 1);
            ids[s * count + step] = std::max_element(logits, logits + peer->vocab) - logits;
        }
        batch.n_tokens = 0;
        for (int s = 0; s < sequences; s++) append(batch, ids[s * count + step], length + step, s, true);
        stride = 1;
    }
    pause_pool(peer->pool);
    llama_batch_free(batch);
    return result;
}
