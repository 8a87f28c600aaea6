/* libpawl_clock.so, for LD_PRELOAD: the wall clock of a machine whose time was set.
 *
 *   PAWL_CLOCK_OFFSET_S=SECONDS   added to CLOCK_REALTIME (-86400: a day back)
 *
 * The monotonic clock goes on as it was, as the kernel has it. Children get it too. Test code; it
 * is never installed. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static long offset;

__attribute__((constructor)) static void begin(void) {
    const char* text = getenv("PAWL_CLOCK_OFFSET_S");
    if (text != NULL) offset = strtol(text, NULL, 10);
}

int clock_gettime(clockid_t clock, struct timespec* now) {
    const int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset;
    return result;
}

int gettimeofday(struct timeval* restrict now, void* restrict zone) {
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t* target) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    if (target != NULL) *target = exact.tv_sec;
    return exact.tv_sec;
}
