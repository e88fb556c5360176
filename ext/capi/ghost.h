/* Ghost for C: load a packed model, feed it bytes, let it generate. C99 and C++.
 *
 * Results. A function that can fail returns GHOST_OK or GHOST_ERROR and then, where `error` is not NULL, has put one
 * complete sentence there. No exception leaves the library, no errno, no global or thread-local state.
 * Bits. The logits are those that the NumPy reference defines, at every instruction-set level and number of threads.
 * Bytes. A model reads and writes bytes. A question is its UTF-8 text and then GHOST_SEP; the answer ends with
 * GHOST_EOS, which ghost_generate() does not hand on.
 *
 * Threads. Different models are independent. Any number of threads may use one model, each with states of its own:
 * ghost_feed(), ghost_logits(), ghost_step() and ghost_generate() take turns, all else runs side by side. A state
 * belongs to one call at a time: a second call on it fails, and no call may use a state that another thread frees. A
 * model with more than one thread does not survive fork(): load it again in the child.
 */
#ifndef GHOST_H
#define GHOST_H

#include <stddef.h>
#include <stdint.h>

#define GHOST_VERSION_MAJOR 0
#define GHOST_VERSION_MINOR 1
#define GHOST_VERSION_PATCH 0
#define GHOST_VERSION "0.1.0"

#if defined(__GNUC__)
#define GHOST_API __attribute__((visibility("default")))
#else
#define GHOST_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { GHOST_OK = 0, GHOST_ERROR = 1 };
enum { GHOST_VOCABULARY = 256, GHOST_SEP = 0xFB, GHOST_EOS = 0xFF, GHOST_MOST_THREADS = 256 };

typedef struct ghost_model ghost_model;
typedef struct ghost_state ghost_state;

/* UTF-8 if the path in it is, ends with 0; a longer sentence is cut. */
typedef struct ghost_error {
  char text[512];
} ghost_error;

/* GHOST_VERSION of the library that runs, which with a shared library need not be the header's. */
GHOST_API const char* ghost_version(void);

/* --- models --------------------------------------------------------------------------------------------------- */

/* Reads and checks the packed model file at `path`. threads: 1..GHOST_MOST_THREADS, of which the caller's is one.
 * level: an instruction set ("scalar", "avx2", ...); NULL or "": GHOST_ISA from the environment, or the best of this
 * CPU. */
GHOST_API int ghost_load(const char* path, int threads, const char* level, ghost_model** model, ghost_error* error);

/* The model ends when it and all its states are freed, in any order. NULL is allowed. */
GHOST_API void ghost_free(ghost_model* model);

typedef struct ghost_info {
  const char* config_json; /* the whole configuration; it lives as long as the model */
  const char* level;       /* the instruction set that runs it */
  int threads, d_model, n_layers;
  size_t model_bytes; /* of memory: weights and work space, of all threads */
  size_t state_bytes; /* of memory, each state */
  int64_t parameters; /* trained ones */
} ghost_info;

GHOST_API ghost_info ghost_get_info(ghost_model* model);

/* What the file spends its bytes on: the name of kind number `index` ("trits (1.6 bit)", ..., "header", "total"), NULL
 * beyond the last. *bytes (may be NULL): how many. */
GHOST_API const char* ghost_storage(ghost_model* model, int index, uint64_t* bytes);

/* Level number `index` of those made for this kind of CPU, slowest first; NULL beyond the last. *missing: NULL if it
 * can run here, else why not. The strings are constants. */
GHOST_API const char* ghost_level(int index, const char** missing);

/* --- states: one for each stream of bytes ---------------------------------------------------------------------- */

/* A state before the first byte. */
GHOST_API int ghost_new_state(ghost_model* model, ghost_state** state, ghost_error* error);

/* An independent copy. */
GHOST_API int ghost_fork(ghost_state* state, ghost_state** copy, ghost_error* error);

/* Back to before the first byte: the next stream in the same memory. */
GHOST_API int ghost_reset(ghost_state* state, ghost_error* error);

/* NULL is allowed. */
GHOST_API void ghost_free_state(ghost_state* state);

/* Reads n >= 1 bytes. logits: NULL, or GHOST_VOCABULARY floats for the byte that comes next. */
GHOST_API int ghost_feed(ghost_state* state, const uint8_t* bytes, size_t n, float* logits, ghost_error* error);

/* Reads n >= 1 bytes. logits: n rows of GHOST_VOCABULARY floats, row i for the byte after bytes[i]. */
GHOST_API int ghost_logits(ghost_state* state, const uint8_t* bytes, size_t n, float* logits, ghost_error* error);

/* Reads one byte into each of count >= 1 different states of one model, together: the weights are read once for up to
 * 64 of them. states[i] reads bytes[i]; logits: NULL, or count rows of GHOST_VOCABULARY floats. The bits are those of
 * each on its own. After an error no state has changed. */
GHOST_API int ghost_step(ghost_state* const* states, const uint8_t* bytes, size_t count, float* logits,
                         ghost_error* error);

/* --- generation ------------------------------------------------------------------------------------------------- */

/* How the next byte is chosen (docs/sampling.md). */
typedef struct ghost_sampling {
  float temp;    /* 0..100; 0 takes the most probable byte */
  int top_k;     /* 0..256: keep the k most probable bytes; 0 keeps all */
  float top_p;   /* (0, 1]: keep the smallest set of bytes whose probability reaches p; 1 keeps all */
  float min_p;   /* 0..1: drop bytes below this share of the most probable byte's probability; 0 keeps all */
  uint64_t seed; /* the same seed gives the same bytes, on every machine */
} ghost_sampling;

/* {0, 0, 1, 0, 0}: the most probable byte. */
GHOST_API ghost_sampling ghost_greedy(void);

/* The byte that `sampling` (NULL: greedy) chooses from GHOST_VOCABULARY logits; step: 0 for the first byte that is
 * generated, then 1, 2, ... */
GHOST_API int ghost_choose(ghost_model* model, const float* logits, const ghost_sampling* sampling, uint64_t step,
                           uint8_t* byte, ghost_error* error);

/* Receives a generated byte; returns 0 to go on, anything else to stop. It must not throw or jump out. */
typedef int (*ghost_on_byte)(void* context, uint8_t byte);

/* Reads n >= 1 bytes of prompt, then chooses and reads bytes until GHOST_EOS, max_bytes, or until on_byte stops it.
 * The state has then read the prompt and every byte that on_byte got. *reached_eos (may be NULL): was it EOS? */
GHOST_API int ghost_generate(ghost_state* state, const uint8_t* prompt, size_t n, const ghost_sampling* sampling,
                             size_t max_bytes, ghost_on_byte on_byte, void* context, int* reached_eos,
                             ghost_error* error);

/* --- speed -------------------------------------------------------------------------------------------------------- */

typedef struct ghost_spread {
  double median, lowest, highest;
} ghost_spread;

/* The floor of a byte is what its integer products would take at `instruction`'s peak, and its scan updates, 26 float
 * operations each, at that of multiplications and additions: both measured in the same turns on one core, divided by
 * the model's threads. */
typedef struct ghost_speed {
  ghost_spread prefill;    /* bytes per second, 1024 bytes at once */
  ghost_spread decode;     /* bytes per second, 256 bytes one by one, a byte chosen after each */
  ghost_spread first_byte; /* seconds, from a fresh state through a 64-byte prompt to the first byte chosen */
  double products_per_byte, scan_updates_per_byte; /* of decoding, by the layers that the routers chose */
  const char* instruction;               /* NULL: the level has no such peak (scalar), and what follows is 0 */
  ghost_spread integer_peak, float_peak; /* multiply-accumulates and float operations per second, one core */
  ghost_spread times_floor;              /* time of a decoded byte, in floors */
} ghost_speed;

/* Measures how fast the model runs here: `repeats` turns (1..1000) after one that warms up. */
GHOST_API int ghost_measure(ghost_model* model, int repeats, ghost_speed* speed, ghost_error* error);

#ifdef __cplusplus
}
#endif
#endif
