/* Embedding Ghost in C: answers a question, then shows what forks of one state would say instead.
 *   make ghost-run && cc -std=c11 -Iext/capi examples/embed_c/embed.c build/device/libghost.a -lstdc++ -lm -pthread
 *   ./a.out qa20.ghost "list pods"                                                                       */
#include <stdio.h>
#include <string.h>

#include "ghost.h"

static int show(void* file, uint8_t byte) { return fputc(byte, file) == EOF; }

int main(int argc, char** argv) {
  ghost_error error;
  ghost_model* model = NULL;
  ghost_state *state = NULL, *fork = NULL;
  uint8_t prompt[256];
  int failed = GHOST_ERROR;
  size_t n = argc == 3 ? strlen(argv[2]) : 0;
  if (n < 1 || n >= sizeof prompt) {
    fprintf(stderr, "usage: %s FILE.ghost PROMPT\n", argv[0]);
    return 2;
  }
  memcpy(prompt, argv[2], n);
  prompt[n++] = GHOST_SEP; /* a question ends with SEP; leave it out to continue plain text */
  if (ghost_load(argv[1], 1, NULL, &model, &error) || ghost_new_state(model, &state, &error)) goto done;
  printf("%s: level %s, %zu bytes\n", argv[1], ghost_get_info(model).level, ghost_get_info(model).model_bytes);
  if (n > 1 && ghost_feed(state, prompt, n - 1, NULL, &error)) goto done; /* the question is read once */
  for (int i = 0; i < 3; ++i) {
    ghost_sampling sampling = ghost_greedy();
    sampling.temp = (float)i / 2; /* the first answer is the most probable one */
    if (ghost_fork(state, &fork, &error)) goto done;
    if (ghost_generate(fork, prompt + n - 1, 1, &sampling, 64, show, stdout, NULL, &error)) goto done;
    putchar('\n');
    ghost_free_state(fork);
    fork = NULL;
  }
  failed = GHOST_OK;
done:
  if (failed) fprintf(stderr, "%s: %s\n", argv[0], error.text);
  ghost_free_state(fork);
  ghost_free_state(state);
  ghost_free(model); /* in any order */
  return failed ? 2 : 0;
}
