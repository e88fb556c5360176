#define GHOST_LEVEL avx512vnni
#include "kernels-inl.h"
