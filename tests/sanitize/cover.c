/* Which pieces of the instrumented core have run: the compiler calls __sanitizer_cov_trace_pc at the head of each. */

#include <stdint.h>
#include <string.h>

#define SIZE 65536

static uint8_t seen[SIZE];

void __sanitizer_cov_trace_pc(void)
{
    static __thread uintptr_t before;
    uintptr_t here = (uintptr_t) __builtin_return_address(0);
    /* Steps from one piece to the next, as their places in the file, whatever address it is loaded at. */
    uintptr_t piece = (here >> 2) & 0x3ffff;
    seen[(piece ^ before) % SIZE] = 1;
    before = piece >> 1;
}

void cover_reset(void) { memset(seen, 0, SIZE); }

/* Marks in `all` what ran since the reset; returns how much of it is new there. */
int cover_merge(uint8_t *all)
{
    int news = 0;
    for (int i = 0; i < SIZE; i++)
        if (seen[i] && !all[i]) {
            all[i] = 1;
            news++;
        }
    return news;
}
