// Included before AOTInductor's runtime, which puts a network's weights where std::malloc says, at
// any multiple of 16 bytes. AMX and AVX-512 read lines of 64, twice as slowly where they straddle.
#include <cstdlib>
#include <malloc.h>
#define malloc(size) aligned_alloc(64, ((size) + 63) / 64 * 64)
