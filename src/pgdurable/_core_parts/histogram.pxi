# Latencies of transitions in logarithmic buckets, 16 to a power of two (so within 4.5 %), from 1 us to an hour.

cdef enum:
    SUB = 16
    BUCKETS = 33 * 16


cdef inline int bucket_of(int64_t us) noexcept nogil:
    cdef int power = 0
    cdef int64_t v = us
    if us < SUB:
        return <int> us if us > 0 else 0
    while v >= 2 * SUB:
        v >>= 1
        power += 1
    power = (power + 1) * SUB + <int> (v - SUB)
    return power if power < BUCKETS else BUCKETS - 1


cdef inline double bucket_middle_us(int bucket) noexcept nogil:
    cdef int power = bucket // SUB
    cdef double low
    if bucket < SUB:
        return bucket + 0.5
    low = <double> (SUB + bucket % SUB) * <double> (<int64_t> 1 << (power - 1))
    return low + 0.5 * <double> (<int64_t> 1 << (power - 1))


cdef object quantiles_ms(int64_t *counts, int64_t total):
    cdef dict found = {}
    cdef int64_t seen
    cdef int bucket
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        if total == 0:
            found[name] = None
            continue
        seen = 0
        for bucket in range(BUCKETS):
            seen += counts[bucket]
            if seen >= share * total:
                found[name] = bucket_middle_us(bucket) / 1000.0
                break
    return found
