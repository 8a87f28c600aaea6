// XXH3-128, sse2 path. See checksum.cc.
#define PAWL_XXH3_FUNCTION xxh3_128_sse2
#include "base/checksum_xxh3.inc"
