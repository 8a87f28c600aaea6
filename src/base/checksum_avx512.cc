// XXH3-128, avx512 path. See checksum.cc.
#define PAWL_XXH3_FUNCTION xxh3_128_avx512
#include "base/checksum_xxh3.inc"
