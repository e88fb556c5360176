#define GHOST_LEVEL baseline
#include "kernels-inl.h"
