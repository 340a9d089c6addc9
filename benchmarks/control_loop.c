/* The bare loop that control_loop.py measures ours against: sleep to an absolute deadline, note how
   late, nothing else. Same rights as our control process asks for.

       control_loop HZ SECONDS PRIORITY      lateness of every tick in ns, one a line */

#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

static long long nanoseconds(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    long long period = 1000000000LL / atoi(argv[1]);
    long ticks = (long)(atof(argv[2]) * 1e9 / period);
    struct sched_param priority = {.sched_priority = atoi(argv[3])};
    sched_setscheduler(0, SCHED_FIFO, &priority);
    mlockall(MCL_CURRENT | MCL_FUTURE);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    long long *late = calloc(ticks, sizeof *late);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long start = nanoseconds(now) + period;
    for (long tick = 0; tick < ticks; tick++) {
        long long deadline = start + tick * period;
        struct timespec target = {deadline / 1000000000LL, deadline % 1000000000LL};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &target, NULL)) {
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        late[tick] = nanoseconds(now) - deadline;
    }
    for (long tick = 0; tick < ticks; tick++) printf("%lld\n", late[tick]);
    return 0;
}
