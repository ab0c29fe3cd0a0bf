// Throughput of llama.cpp on a static batch: llama_batch MODEL.gguf PROMPT NEW ROWS REPETITIONS THREADS
//
// Every row has PROMPT random tokens of its own (no prefix is shared) and gets NEW greedy tokens; nothing stops early.
// One JSON line a repetition. The machine is measured, not the text: see README.md for the fields.
#include "llama.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

static double wall() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

static double cpu() {
    rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void push(llama_batch &batch, llama_token token, int position, int row, bool logits) {
    const int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = row;
    batch.logits[i] = logits;
}

static void decode(llama_context *context, llama_batch &batch) {
    if (llama_decode(context, batch) != 0) {
        std::fprintf(stderr, "llama_decode failed\n");
        std::exit(1);
    }
}

int main(int count, char **arguments) {
    if (count != 7) {
        std::fprintf(stderr, "usage: llama_batch MODEL.gguf PROMPT NEW ROWS REPETITIONS THREADS\n");
        return 2;
    }
    const int prompt = std::atoi(arguments[2]), fresh = std::atoi(arguments[3]), rows = std::atoi(arguments[4]);
    const int repetitions = std::atoi(arguments[5]), threads = std::atoi(arguments[6]);
    const int batch_size = 2048;

    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model *model = llama_model_load_from_file(arguments[1], llama_model_default_params());
    if (!model) {
        std::fprintf(stderr, "cannot load %s\n", arguments[1]);
        return 1;
    }
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::mt19937 random(1);
    std::uniform_int_distribution<int> any(1000, std::min(vocabulary, 41000) - 1);

    for (int repetition = 0; repetition < repetitions; repetition++) {
        llama_context_params parameters = llama_context_default_params();
        parameters.n_ctx = rows * (prompt + fresh + 8);
        parameters.n_batch = batch_size;
        parameters.n_ubatch = 512;
        parameters.n_seq_max = rows;
        parameters.n_threads = parameters.n_threads_batch = threads;
        llama_context *context = llama_init_from_model(model, parameters);
        if (!context) {
            std::fprintf(stderr, "cannot make a context\n");
            return 1;
        }
        llama_batch batch = llama_batch_init(batch_size, 0, 1);
        push(batch, any(random), 0, 0, true); // warm up
        decode(context, batch);
        llama_memory_clear(llama_get_memory(context), true);

        const double start = wall(), start_cpu = cpu();
        batch.n_tokens = 0;
        for (int row = 0; row < rows; row++) {
            for (int i = 0; i < prompt; i++) {
                push(batch, any(random), i, row, i == prompt - 1);
                if (batch.n_tokens == batch_size || (row == rows - 1 && i == prompt - 1)) {
                    decode(context, batch);
                    batch.n_tokens = 0;
                }
            }
        }
        const double prefilled = wall();
        std::vector<llama_token> next(rows);
        for (auto &token : next) token = any(random);
        for (int i = 0; i < fresh; i++) {
            batch.n_tokens = 0;
            for (int row = 0; row < rows; row++) push(batch, next[row], prompt + i, row, true);
            decode(context, batch);
            for (int row = 0; row < rows; row++) {
                const float *logits = llama_get_logits_ith(context, row);
                next[row] = std::max_element(logits, logits + vocabulary) - logits;
            }
        }
        const double end = wall(), busy = cpu() - start_cpu;
        rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        double load[1] = {0};
        getloadavg(load, 1);
        std::printf("{\"engine\":\"llama.cpp\",\"rows\":%d,\"rep\":%d,\"prefill_tok_s\":%.1f,\"decode_tok_s\":%.1f,"
                    "\"new_tok_s\":%.1f,\"wall_s\":%.2f,\"cpu_share\":%.2f,\"rss_mb\":%ld,\"load\":%.1f}\n",
                    rows, repetition, rows * prompt / (prefilled - start), rows * fresh / (end - prefilled),
                    rows * fresh / (end - start), end - start, busy / (end - start) / threads,
                    usage.ru_maxrss / 1024, load[0]);
        std::fflush(stdout);
        llama_batch_free(batch);
        llama_free(context);
    }
    llama_model_free(model);
}
