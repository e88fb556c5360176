/* Which of the kernels' copies this CPU and system can run. */
#include <string.h>

#include "kernels.h"

const struct training_kernels* training_kernels_baseline(void);

static int always(void) { return 1; }

#if defined(__x86_64__)
const struct training_kernels* training_kernels_avx2(void);
const struct training_kernels* training_kernels_avx512(void);
const struct training_kernels* training_kernels_avx512vnni(void);

/* The compiler's own look at the CPU includes whether the system saves the wide registers. */
static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static int has_avx512vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

static const struct {
    const char* name;
    int (*runs)(void);
    const struct training_kernels* (*kernels)(void);
} levels[] = {
    {"baseline", always, training_kernels_baseline},
#if defined(__x86_64__)
    {"avx2", has_avx2, training_kernels_avx2},
    {"avx512", has_avx512, training_kernels_avx512},
    {"avx512vnni", has_avx512vnni, training_kernels_avx512vnni},
#endif
};

const char* training_level(int index) {
    return index >= 0 && index < (int)(sizeof levels / sizeof levels[0]) ? levels[index].name : NULL;
}

const struct training_kernels* training_kernels(const char* level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (int i = 0; training_level(i) != NULL; i++)
        if (strcmp(level, levels[i].name) == 0 && levels[i].runs()) return levels[i].kernels();
    return NULL;
}
